"""One study's explanation: what `explain --json` writes and what the page shows."""

from __future__ import annotations

from typing import Final, Literal

from kdistill.records import Citation, Record, Side, State

#: Stands on every page and in every export; no option removes it.
RESEARCH_USE: Final = "Research use only. Not a medical device, not for diagnosis or treatment."
#: Stands wherever a model's words stand.
NOTICE: Final = (
    f"{RESEARCH_USE} A model wrote this; it can be wrong, and its reasons can be wrong where its finding is right."
)

#: What follows when an image does not look like an upright frontal chest film.
QualityPolicy = Literal["refuse", "warn", "off"]

FlagCode = Literal[
    "rationale_contradicts_probability",
    "report_contradicts_probability",
    "contradiction",
    "uncited",
    "unassigned_sentence",
    "degenerate",
    "prior_mentioned",
    "side_mismatch",
    "severity_mismatch",
    "implausible_image",
    "file_note",
    "image_quality",
    "all_indeterminate",
    "no_label_head",
]


class ExplanationCitation(Citation):
    """A verbatim span of an article, with what a reader needs to find it."""

    title: str = ""
    year: int | None = None


class RationaleSentence(Record):
    """One sentence of the generated rationale.

    `observation` is None where the sentence belongs to none. `statement` tells a claim about this image ("Left pleural
    effusion"), which needs no citation, from a sentence of general knowledge, which does.
    """

    observation: str | None
    text: str
    citations: tuple[ExplanationCitation, ...] = ()
    statement: bool = False
    state: State | None = None
    side: Side | None = None


ReportSection = Literal["findings", "impression"]


class SentenceMention(Record):
    """What one sentence says of one observation; `side` where its clause names one and the observation has sides."""

    observation: str
    state: State
    side: Side | None = None


class ReportSentence(Record):
    """One sentence of the generated report; `mentions` is empty where it names no observation."""

    section: ReportSection
    text: str
    mentions: tuple[SentenceMention, ...] = ()


class ObservationReading(Record):
    """What the model says about one observation.

    `probability`, `threshold` and `evidence_map` are None for a model without a label head. `state` compares the two:
    "present" above the threshold, "absent" below, "uncertain" within `indeterminate_logits` of it; without a head it is
    what the generated report states. `evidence_map` is the attention of the observation's query over the patch grid:
    rows from the top, columns from the image's left (the patient's right, unless the film's sides are in doubt),
    non-negative, sums to 1.
    """

    name: str
    probability: float | None
    threshold: float | None
    state: State
    side: Side | None = None
    evidence_map: tuple[tuple[float, ...], ...] | None = None


class Flag(Record):
    """Something a reader must know before believing the explanation.

    `sentences` are those that a `contradiction` sets against each other, first the one that states the finding, or
    those that give it two degrees (`severity_mismatch`).
    """

    code: FlagCode
    observation: str | None = None
    text: str
    sentences: tuple[str, ...] = ()


class Explanation(Record):
    """All that the model says about one image, with what is known against it.

    `abstained` is True where the image was refused (`implausible_image`: it does not look like an upright frontal chest
    film; findings, impression and rationale are then empty), or where every probability is indeterminate. The readings
    are then kept for inspection and must not be used. `quality_policy` says whether an image could be refused at all.
    Where `is_side_doubtful` the film may be mirrored or turned (`sides.py`): no side is given then, neither of a
    finding nor of what a sentence says, and words of the model that name one may be the wrong way round.
    `model` names weights and run. `report_sentences` are the sentences of findings and impression, each linked to the
    observations that it names (empty in files written before there were links, and where the model abstained).
    """

    study_id: str
    image_sha256: str
    model: str
    observations: tuple[ObservationReading, ...]
    findings: str
    impression: str
    rationale: tuple[RationaleSentence, ...]
    report_sentences: tuple[ReportSentence, ...] = ()
    flags: tuple[Flag, ...] = ()
    abstained: bool = False
    quality_policy: QualityPolicy = "refuse"
    is_side_doubtful: bool = False
    notice: str = NOTICE
