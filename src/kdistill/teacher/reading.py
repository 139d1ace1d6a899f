"""The teacher reads a report: what it names, by rules; what it only describes, by the language model.

A sentence without an explicit mention ("The left costophrenic sulcus is filled in.") is scored against the 13 findings
and
"no abnormality"; the best is taken where its posterior and its lead pass the thresholds. Explicit mentions beat
inferred ones. Thresholds come from held-out cases of the literature (`calibrate`), never from the truth of a study.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS, NO_FINDING, SUPPORT_DEVICES, Labels
from kdistill.records import Passage, Record, Severity, Side, State, Zone
from kdistill.teacher.attributes import attributes
from kdistill.teacher.config import ReadingConfig
from kdistill.teacher.meaning import NORMAL, meaning_scores
from kdistill.teacher.retrieval import mentions_prior
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.untrusted import num_sentences, prose

MEANINGS: Final = (*FINDINGS, NORMAL)
STATES: Final[dict[int, State]] = {1: "present", 0: "absent", -1: "uncertain"}
CODES: Final[dict[State, Literal[1, 0, -1]]] = {"present": 1, "absent": 0, "uncertain": -1}

#: A denied sign ("No filling of the recess.") says nothing about the observation that the sign would point to.
_DENIED: Final = re.compile(
    r"^\W*(?:there (?:is|are|was|were) )?(?:no|not|without|neither|absence of)\b", re.IGNORECASE
)
_HEDGED: Final = re.compile(
    r"\b(?:possibl[ey]|probabl[ey]|likely|may|might|could|suspected|suspicious|questionable|suggested|cannot|equivocal)\b",
    re.IGNORECASE,
)
_CASE: Final = re.compile(r"Findings: ([^.:]+)\. Interpretation: ([^.:]+)\.")
_LEAST_WORDS: Final = 2
_MOST_WORDS: Final = 60


class Item(Record):
    """One statement of a report about one observation."""

    sentence: str
    observation: str
    state: State
    side: Side | None = None
    zone: Zone | None = None
    severity: Severity | None = None
    source: Literal["explicit", "inferred"]
    confidence: float


class Reading(Record):
    """A report as the teacher reads it: labels for all 14 observations, and the statements behind them."""

    labels: Labels
    confidence: dict[str, float]
    items: tuple[Item, ...]


class Guess(NamedTuple):
    """The language model's best meaning of a sentence, its posterior, and its lead over the second in nats."""

    meaning: str
    posterior: float
    margin: float


class Thresholds(Record):
    """What a guess must reach; `cases` is how many held-out cases set the posterior's threshold (0: the default)."""

    posterior: float
    margin: float
    cases: int
    precision: float | None = None
    recall: float | None = None


class SentenceReader:
    """Guesses the meaning of sentences, each distinct sentence once.

    Args:
        scorer: The trained teacher.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._known: dict[str, Guess] = {}

    def guess(self, sentences: Iterable[str]) -> dict[str, Guess]:
        """Guess each sentence; returns sentence -> guess."""
        wanted = list(dict.fromkeys(sentences))
        new = [sentence for sentence in wanted if sentence not in self._known]
        if new:
            scores = meaning_scores(self.scorer, new, MEANINGS)
            self._known.update(zip(new, map(_guess, scores), strict=True))
        return {sentence: self._known[sentence] for sentence in wanted}


def _guess(scores: np.ndarray) -> Guess:
    order = np.argsort(-scores, kind="stable")
    weights = np.exp(scores - scores[order[0]])
    margin = float(scores[order[0]] - scores[order[1]])
    return Guess(MEANINGS[order[0]], float(1 / weights.sum()), margin)


def calibrate(reader: SentenceReader, held_out: Sequence[Passage], config: ReadingConfig) -> Thresholds:
    """Find the least posterior at which guesses on held-out literature cases reach the wanted precision.

    Cases are sentences of the form "Findings: <sign>. Interpretation: <verdict>." whose sign names no observation and
    whose verdict names one, or denies all.

    Args:
        reader: The language model's reading.
        held_out: Passages that the teacher was not trained on.
        config: Wanted precision, and the default where the literature holds too few cases.
    """
    cases = literature_cases(held_out)
    default = Thresholds(posterior=config.min_posterior, margin=config.min_margin_nats, cases=0)
    if len(cases) < config.min_calibration_cases:
        return default
    guesses = reader.guess(sign for sign, _ in cases)
    claims = sorted(
        ((guesses[s].posterior, guesses[s].meaning == m) for s, m in cases if guesses[s].meaning != NORMAL),
        reverse=True,
    )
    stated = sum(meaning != NORMAL for _, meaning in cases)
    best = None
    for count in range(1, len(claims) + 1):
        right = sum(hit for _, hit in claims[:count])
        if right / count >= config.calibration_precision:
            best = (claims[count - 1][0], right / count, right / max(1, stated))
    if best is None:
        return default
    floor = max(best[0], 1 / len(MEANINGS))
    return Thresholds(
        posterior=floor, margin=config.min_margin_nats, cases=len(cases), precision=best[1], recall=best[2]
    )


def literature_cases(passages: Iterable[Passage]) -> list[tuple[str, str]]:
    """(sign sentence, meaning) of every case in the passages whose sign names nothing by itself."""
    labeler, cases = RuleLabeler(), []
    for passage in passages:
        for sign, verdict in _CASE.findall(passage.text):
            if labeler.mentions(sign) or mentions_prior(sign):
                continue
            stated = {mention.observation for mention in labeler.mentions(verdict) if mention.state == 1}
            denied = not stated and any(mention.state == 0 for mention in labeler.mentions(verdict))
            if denied or NORMAL in verdict:
                cases.append((f"{sign}.", NORMAL))
            elif len(stated) == 1 and stated != {NO_FINDING}:
                cases.append((f"{sign}.", stated.pop()))
    return cases


class ReportReader:
    """Reads whole reports.

    Args:
        reader: The language model's reading of sentences.
        thresholds: What a guess must reach.
    """

    def __init__(self, reader: SentenceReader, thresholds: Thresholds) -> None:
        self.reader = reader
        self.thresholds = thresholds
        self.labeler = RuleLabeler()

    def read_many(self, reports: Sequence[str]) -> list[Reading]:
        """Read reports, in order; all unnamed sentences are scored together."""
        split = [self._split(report) for report in reports]
        self.reader.guess(sentence for _, unnamed in split for sentence in unnamed)
        return [
            self._merge(report, explicit, self._inferred(unnamed))
            for report, (explicit, unnamed) in zip(reports, split, strict=True)
        ]

    def _split(self, report: str) -> tuple[list[Item], list[str]]:
        """The explicit statements of a report, and its sentences that name nothing and are not normal by rule."""
        explicit: list[Item] = []
        unnamed: list[str] = []
        for sentence in prose(report):
            mentions = self.labeler.mentions(sentence)
            explicit += [
                _explicit_item(sentence, m.observation, STATES[m.state], m.side)
                for m in mentions
                if m.state is not None
            ]
            if not mentions and self._is_unnamed_sign(sentence):
                unnamed.append(sentence)
        return explicit, unnamed

    def _is_unnamed_sign(self, sentence: str) -> bool:
        if not _LEAST_WORDS <= len(sentence.split()) <= _MOST_WORDS or _DENIED.match(sentence):
            return False
        return self.labeler.label(sentence)[NO_FINDING] != 1 and not mentions_prior(sentence)

    def _inferred(self, unnamed: Sequence[str]) -> list[Item]:
        guesses = self.reader.guess(unnamed)
        items = []
        for sentence in dict.fromkeys(unnamed):
            guess = guesses[sentence]
            if guess.meaning != NORMAL and self._accepts(guess):
                state: State = "uncertain" if _HEDGED.search(sentence) else "present"
                said = attributes(sentence, guess.meaning, sizes=False)
                items.append(
                    Item(
                        sentence=sentence,
                        observation=guess.meaning,
                        state=state,
                        side=said.side,
                        zone=said.zone,
                        severity=said.severity,
                        source="inferred",
                        confidence=round(guess.posterior, 4),
                    )
                )
        return items

    def _accepts(self, guess: Guess) -> bool:
        return guess.posterior >= self.thresholds.posterior and guess.margin >= self.thresholds.margin

    def _merge(self, report: str, explicit: list[Item], inferred: list[Item]) -> Reading:
        labels = self.labeler.label(trusted_text(report))
        stated = {name for name, state in labels.items() if state is not None and name != NO_FINDING}
        new = [item for item in inferred if item.observation not in stated]
        # A sign beside its own name adds no label, but it is the evidence that the rationale speaks of.
        agreeing = [i for i in inferred if i.observation in stated and labels[i.observation] == CODES[i.state]]
        confidence = {name: 1.0 for name, state in labels.items() if state is not None}
        for item in new:
            better = confidence.get(item.observation, 0.0) < item.confidence
            if better or labels[item.observation] == -1:
                labels[item.observation] = CODES[item.state]
            confidence[item.observation] = max(confidence.get(item.observation, 0.0), item.confidence)
        if any(item.observation != SUPPORT_DEVICES for item in new):
            labels[NO_FINDING] = None
            confidence.pop(NO_FINDING, None)
        return Reading(labels=labels, confidence=confidence, items=(*explicit, *new, *agreeing))


def trusted_text(report: str) -> str:
    """The report as it is, or, where a sentence speaks to the model, the other sentences alone."""
    kept = prose(report)
    if len(kept) == num_sentences(report):
        return report
    return "\n\n".join(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in kept)


def _explicit_item(sentence: str, observation: str, state: State, side: Side | None) -> Item:
    said = attributes(sentence, observation)
    absent = state == "absent"
    return Item(
        sentence=sentence,
        observation=observation,
        state=state,
        side=None if absent or said.side is None else (side or said.side),
        zone=None if absent else said.zone,
        severity=None if absent else said.severity,
        source="explicit",
        confidence=1.0,
    )
