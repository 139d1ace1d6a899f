"""A reader's word about one finding or one sentence of an explanation, and the judgement that is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from kdistill.errors import InputError
from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.explain.sentences import split_sentences
from kdistill.observations import INDEX
from kdistill.records import Record, Side, State
from kdistill.serve.refusals import WholeNumber
from kdistill.sites import SITES

MAX_COMMENT: Final = 500
MAX_READER: Final = 60
Section = Literal["findings", "impression", "rationale"]
FindingVerdict = Literal["agree", "disagree", "withdrawn"]
SentenceVerdict = Literal["correct", "wrong", "not_useful", "withdrawn"]


class ReaderWord(Record):
    """What every kind of word carries."""

    comment: str = Field(default="", max_length=MAX_COMMENT, description="Free text; nothing about the patient.")
    reader: str = Field(default="", max_length=MAX_READER, description="Name or pseudonym; may be left out.")

    @field_validator("comment", "reader")
    @classmethod
    def _plain(cls, value: str) -> str:
        """Control, bidi and zero-width characters (and halves of surrogate pairs) become blanks."""
        return "".join(c if c.isprintable() or c == "\n" else " " for c in value).strip()


class FindingWord(ReaderWord):
    """About one of the 14 observations. To disagree is to say what it is instead: another state, another side, or both.

    `withdrawn` takes an earlier word back.
    """

    kind: Literal["finding"]
    observation: str = Field(max_length=60)
    verdict: FindingVerdict
    state: State | None = None
    side: Side | None = None


class SentenceWord(ReaderWord):
    """About one sentence of the report or the rationale; `index` counts the sentences of its section from 0."""

    kind: Literal["sentence"]
    section: Section
    index: WholeNumber = Field(ge=0, le=10_000)
    verdict: SentenceVerdict


Word = Annotated[FindingWord | SentenceWord, Field(discriminator="kind")]


class ShownFinding(Record):
    """What the model showed of a finding when it was judged."""

    probability: float | None
    threshold: float | None
    state: State
    side: Side | None


class ShownSentence(Record):
    """The sentence that was judged, and the observation that it belongs to (rationale only)."""

    text: str
    observation: str | None


class Judgement(Record):
    """What is kept of a word. `target` names the finding ("finding/Edema") or sentence ("sentence/rationale/2").

    `state` and `side` are what the reader says of a finding: those shown where the reader agrees. `time` is UTC.
    """

    image_sha256: str
    model: str
    target: str
    shown: ShownFinding | ShownSentence
    verdict: FindingVerdict | SentenceVerdict
    state: State | None = None
    side: Side | None = None
    comment: str = ""
    reader: str = ""
    time: str

    @property
    def observation(self) -> str | None:
        """The finding that it is about; None for a sentence."""
        kind, _, name = self.target.partition("/")
        return name if kind == "finding" else None

    def says_the_same(self, other: Judgement) -> bool:
        """Whether two judgements differ in their time at most."""
        return self == other.model_copy(update={"time": self.time})


class Sentence(Record):
    """A sentence of an explanation, with its place; `observation` is known for sentences of the rationale only."""

    section: Section
    index: int
    text: str
    observation: str | None = None


def sentences_of(explanation: Explanation) -> Iterator[Sentence]:
    """Every sentence that can be judged: of findings, impression and rationale, in their order."""
    texts: tuple[tuple[Section, str], ...] = (
        ("findings", explanation.findings),
        ("impression", explanation.impression),
    )
    for section, text in texts:
        for index, sentence in enumerate(split_sentences(text)):
            yield Sentence(section=section, index=index, text=sentence)
    for index, reason in enumerate(explanation.rationale):
        yield Sentence(section="rationale", index=index, text=reason.text, observation=reason.observation)


def judge(explanation: Explanation, word: FindingWord | SentenceWord, now: datetime) -> Judgement:
    """The judgement that a word makes of an explanation.

    Args:
        explanation: What the reader was shown.
        word: What the reader says.
        now: When.

    Raises:
        InputError: There is nothing of the kind to judge, or the word contradicts itself.
    """
    if explanation.abstained:
        raise InputError("the model gave no answer for this image, so there is nothing to judge")
    shown: ShownFinding | ShownSentence
    state, side = None, None
    match word:
        case FindingWord():
            reading = _reading(explanation, word.observation)
            state, side = _said(word, reading)
            target = f"finding/{reading.name}"
            shown = ShownFinding(**reading.model_dump(include=set(ShownFinding.model_fields)))
        case SentenceWord():
            sentence = _sentence(explanation, word)
            target = f"sentence/{word.section}/{word.index}"
            shown = ShownSentence(text=sentence.text, observation=sentence.observation)
    return Judgement(
        image_sha256=explanation.image_sha256,
        model=explanation.model,
        target=target,
        shown=shown,
        verdict=word.verdict,
        state=state,
        side=side,
        comment=word.comment,
        reader=word.reader,
        time=now.astimezone(UTC).isoformat(timespec="seconds"),
    )


def _reading(explanation: Explanation, name: str) -> ObservationReading:
    if name not in INDEX:
        raise InputError("there is no such observation")
    return explanation.observations[INDEX[name]]


def _sentence(explanation: Explanation, word: SentenceWord) -> Sentence:
    for sentence in sentences_of(explanation):
        if (sentence.section, sentence.index) == (word.section, word.index):
            return sentence
    raise InputError(f"the {word.section} have no sentence {word.index}")


def _said(word: FindingWord, reading: ObservationReading) -> tuple[State | None, Side | None]:
    """State and side in the reader's words."""
    if word.side is not None and not SITES[reading.name].lateralised:
        raise InputError(f"{reading.name} has no side")
    match word.verdict:
        case "withdrawn":
            if word.state is not None or word.side is not None:
                raise InputError("a word that is taken back has no state and no side")
            return None, None
        case "agree":
            if word.state not in (None, reading.state) or word.side not in (None, _shown_side(reading)):
                raise InputError("to agree and to name another state or side contradict each other")
            return reading.state, _shown_side(reading)
        case "disagree":
            return _otherwise(word, reading)


def _otherwise(word: FindingWord, reading: ObservationReading) -> tuple[State, Side | None]:
    state = word.state or (reading.state if word.side is not None else None)
    if state is None:
        raise InputError("say what it is instead: present, absent or uncertain, or another side")
    if state == "absent" and word.side is not None:
        raise InputError("what is absent has no side")
    if state == reading.state and word.side in (None, _shown_side(reading)):
        raise InputError("this is what was shown: agree, or name another state or side")
    return state, word.side


def _shown_side(reading: ObservationReading) -> Side | None:
    """Pages show no side of what is absent."""
    return None if reading.state == "absent" else reading.side
