"""The default labeler: report text -> 14 observation labels by own English rules, no weights.

Aggregation follows Irvin et al. 2019 (arXiv:1901.07031): a stated mention wins over an uncertain one, that over a
denied one. "No Finding" is 1 when nothing but support devices is stated or uncertain and the text says something at
all, else None: it is never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kdistill.labelers import lexicon
from kdistill.labelers.language import is_english
from kdistill.labelers.lexicon import Lexicon
from kdistill.labelers.scope import Event, Found, SentenceReader
from kdistill.observations import NO_FINDING, SUPPORT_DEVICES, Labels, LabelState, empty_labels
from kdistill.records import Side
from kdistill.sections import section_spans

#: Raised by hand whenever a rule (not a phrase) changes what is read.
RULES_VERSION: Final = 2
#: A line shorter than this was broken on purpose; a longer one was wrapped in mid-sentence (MIMIC wraps at 70 to 80).
_WRAPPED_LINE_CHARS: Final = 60
_ITEM: Final = re.compile(r"\s*(?:\n|\(?\d{1,2}[.)]|[-*•]|\Z)")
_STATE_RANK: Final = {None: 0, 0: 1, -1: 2, 1: 3}
_SIDE: Final = re.compile(r"\b(left|right|bilateral|bilaterally|bibasilar|biapical|both)\b")


@dataclass(frozen=True)
class Mention:
    """One observation in one place of a text.

    Attributes:
        observation: One of the 14 names.
        state: 1 stated, 0 denied, -1 uncertain.
        sentence: Index of its sentence, counted over the sentences of the text that count as evidence.
        sentence_text: That sentence.
        start: First character of the matched phrase in the text.
        end: One past its last character.
        phrase: The text between them.
        side: The side that its clause names, if any.
    """

    observation: str
    state: LabelState
    sentence: int
    sentence_text: str
    start: int
    end: int
    phrase: str
    side: Side | None

    @property
    def span(self) -> tuple[int, int]:
        """(start, end) of the phrase in the text."""
        return self.start, self.end


@dataclass(frozen=True)
class _Sentence:
    start: int
    end: int
    found: list[Found]
    normal: bool


def _lower(text: str) -> str:
    """Lower-case without moving a character (a few letters change length: they are kept as they are)."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


class RuleLabeler:
    """Own rules for the 14 observations.

    Attributes:
        name: What scores and artifacts call it.
        revision: Changes with every change of a rule or a phrase.
    """

    name = "kdistill-rules"

    def __init__(self) -> None:
        self._lexicon = Lexicon()
        self.revision = f"{RULES_VERSION}-{self._lexicon.revision}"

    def label(self, report: str, /) -> Labels:
        """Label one report: 1 stated, 0 denied, -1 uncertain, None not mentioned. Never raises.

        Only findings and impression count where the report has headers. Text that is not English has no mentions.

        >>> labels = RuleLabeler().label("Small left effusion. No pneumothorax.")
        >>> labels["Pleural Effusion"], labels["Pneumothorax"], labels["Edema"]
        (1, 0, None)
        """
        labels = empty_labels()
        abnormal = informative = False
        for sentence in self._sentences(report):
            informative = informative or sentence.normal
            for found in sentence.found:
                state = found.state
                if state is None:
                    continue
                informative = True
                for name in found.observations:
                    if _STATE_RANK[state] > _STATE_RANK[labels[name]]:
                        labels[name] = state  # type: ignore[assignment]
                if state != 0 and found.observations != _DEVICES and found.observations != _NOTHING:
                    abnormal = True
        labels[NO_FINDING] = 1 if informative and not abnormal else None
        return labels

    def label_all(self, reports: Sequence[str], /) -> list[Labels]:
        """Label each report, in order."""
        return [self.label(report) for report in reports]

    def mentions(self, text: str) -> list[Mention]:
        """Return every mention with its sentence and span, in reading order."""
        lowered = _lower(text)
        result: list[Mention] = []
        for index, sentence in enumerate(self._sentences(text)):
            sentence_text = text[sentence.start : sentence.end].strip()
            for found in sentence.found:
                if found.state is None:
                    continue
                side = _side(lowered, sentence, found)
                for name in found.observations:
                    if name == NO_FINDING and found.state != 1:
                        continue
                    result.append(_mention(text, index, sentence_text, found, name, side))
        return result

    def _sentences(self, report: str) -> Iterator[_Sentence]:
        lowered = _lower(report)
        if not is_english(lowered):
            return
        for span in section_spans(report):
            if span.name in ("findings", "impression"):
                yield from self._read_span(lowered, span.start, span.end)

    def _read_span(self, text: str, start: int, end: int) -> Iterator[_Sentence]:
        meaning = self._lexicon.meaning
        events: list[Event] = []
        sentence_start = line_start = start
        for match in self._lexicon.pattern.finditer(text, start, end):
            at, after = match.span()
            event = Event(meaning(match.group()), at, after)
            kind = event.meaning.kind
            if kind == lexicon.NEWLINE:
                ends = at - line_start < _WRAPPED_LINE_CHARS or _ITEM.match(text, after, end) is not None
                line_start = after
            elif kind == lexicon.QUESTION:
                ends = not _asks_ahead(text, at)
                events.append(Event(_HEDGE_BEFORE if not ends else _HEDGE_AFTER, at, after))
            else:
                ends = kind == lexicon.SENTENCE
                if not ends:
                    events.append(event)
            if ends:
                if events:
                    yield _read_sentence(events, sentence_start, after)
                    events = []
                sentence_start = after
        if events:
            yield _read_sentence(events, sentence_start, end)


_DEVICES: Final = (SUPPORT_DEVICES,)
_NOTHING: Final = (NO_FINDING,)
_HEDGE_BEFORE: Final = lexicon.Meaning(lexicon.UNCERTAIN)
_HEDGE_AFTER: Final = lexicon.Meaning(lexicon.UNCERTAIN_AFTER)


def _read_sentence(events: list[Event], start: int, end: int) -> _Sentence:
    reader = SentenceReader(events)
    return _Sentence(start, end, reader.found, reader.normal)


def _asks_ahead(text: str, position: int) -> bool:
    """Whether a question mark hedges what follows ("?pneumonia", " ? pneumonia") and ends no sentence."""
    following = text[position + 1 : position + 4]
    preceding = text[position - 1 : position] if position else " "
    return following[:1].isalpha() or (preceding.isspace() and following.strip()[:1].isalpha())


def _mention(text: str, index: int, sentence_text: str, found: Found, name: str, side: Side | None) -> Mention:
    return Mention(
        observation=name,
        state=found.state,  # type: ignore[arg-type]
        sentence=index,
        sentence_text=sentence_text,
        start=found.start,
        end=found.end,
        phrase=text[found.start : found.end],
        side=side,
    )


def _side(lowered: str, sentence: _Sentence, found: Found) -> Side | None:
    """The side word nearest before the finding in its sentence, else the nearest after it, within one clause."""
    before = re.split(r"[;,]| but | with | and no ", lowered[max(sentence.start, found.start - 80) : found.start])[-1]
    after = re.split(r"[;,]| but | with | and ", lowered[found.end : min(sentence.end, found.end + 80)])[0]
    sides = _SIDE.findall(before)[-1:] or _SIDE.findall(after)[:1]
    if not sides:
        return None
    return sides[0] if sides[0] in ("left", "right") else "bilateral"
