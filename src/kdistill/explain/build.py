"""Reading + image -> Explanation: states from thresholds, sentences with their citations, flags, abstention."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdistill.explain.citations import CitationLookup
from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import Explanation, Flag, ObservationReading, RationaleSentence
from kdistill.explain.flags import contradiction_flags, rationale_flags, report_flags, text_flags
from kdistill.explain.mentions import report_sentences
from kdistill.explain.plausibility import quality_flags, quality_of
from kdistill.explain.reading import Reading
from kdistill.explain.sentences import assign_sentences
from kdistill.explain.sides import is_side_doubtful, mentions_without_sides, without_sides
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import OBSERVATIONS
from kdistill.records import State
from kdistill.studies.film import Note, note_text
from kdistill.studies.quality.assess import Quality


@dataclass(frozen=True)
class ExplanationContext:
    """What an explanation needs beside the reading of one image."""

    model: str
    thresholds: tuple[float, ...] | None
    citations: CitationLookup
    labeler: RuleLabeler
    config: ExplainConfig


def state_of(probability: float, threshold: float, indeterminate_logits: float) -> State:
    """Compare a probability with its threshold on the logit scale.

    Within `indeterminate_logits` of the threshold the state is "uncertain": a small change of the image could turn the
    answer round, and a reader must not be told a side of the line that the model hardly takes.

    >>> state_of(0.9, 0.5, 0.4), state_of(0.55, 0.5, 0.4), state_of(0.1, 0.5, 0.4)
    ('present', 'uncertain', 'absent')
    """
    distance = _logit(probability) - _logit(threshold)
    if abs(distance) < indeterminate_logits:
        return "uncertain"
    return "present" if distance > 0 else "absent"


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def observation_readings(reading: Reading, context: ExplanationContext) -> tuple[ObservationReading, ...]:
    """One record for each of the 14 observations."""
    labels = context.labeler.label(reading.report) if reading.probabilities is None else {}
    return tuple(
        _observation(index, name, reading, context, labels.get(name)) for index, name in enumerate(OBSERVATIONS)
    )


def _observation(
    index: int, name: str, reading: Reading, context: ExplanationContext, stated: int | None
) -> ObservationReading:
    grid = None if reading.evidence_maps is None else reading.evidence_maps[index]
    evidence = None if grid is None else tuple(tuple(round(float(v), 6) for v in row) for row in grid)
    if reading.probabilities is None or context.thresholds is None:
        state: State = "present" if stated == 1 else "uncertain" if stated == -1 else "absent"
        return ObservationReading(name=name, probability=None, threshold=None, state=state, evidence_map=evidence)
    probability, threshold = float(reading.probabilities[index]), context.thresholds[index]
    return ObservationReading(
        name=name,
        probability=round(probability, 6),
        threshold=round(threshold, 6),
        state=state_of(probability, threshold, context.config.indeterminate_logits),
        side=reading.sides[index] if reading.sides else None,
        evidence_map=evidence,
    )


def rationale_sentences(rationale: str, citations: CitationLookup) -> tuple[RationaleSentence, ...]:
    """Sentence by sentence: which observation it belongs to, and the citation that was found for it."""
    sentences = []
    for assigned in assign_sentences(rationale):
        fact = assigned.fact
        observation = fact.observation if fact else None
        found = None if assigned.is_statement else citations.find(assigned.text, observation)
        sentences.append(
            RationaleSentence(
                observation=observation,
                text=assigned.text,
                citations=(found,) if found else (),
                statement=assigned.is_statement,
                state=fact.state if fact and assigned.is_statement else None,
                side=fact.side if fact and assigned.is_statement else None,
            )
        )
    return tuple(sentences)


def explain(
    study_id: str,
    image: NDArray[np.uint8],
    reading: Reading,
    context: ExplanationContext,
    *,
    image_sha256: str | None = None,
    has_prior: bool = False,
    quality: Quality | None = None,
    notes: Sequence[Note] = (),
) -> Explanation:
    """Build the explanation of one image; what speaks against the film itself stands first among the flags.

    Args:
        study_id: Name of the study (a file's name where there is none).
        image: uint8 [S, S], the canonical image that was read.
        reading: What the student said about it.
        context: Model name, thresholds, citations, labeler, settings.
        image_sha256: Hash of the file that the image came from; None: the hash of the canonical pixels is written.
        has_prior: Whether the model was given an earlier study.
        quality: What `assess` said of the film at full size; None: the canonical image is looked at (too small for
            lettering).
        notes: What the file's own tags say against it.
    """
    policy = context.config.quality
    looked_at = quality_of(image, quality, policy)
    doubtful = is_side_doubtful(notes, looked_at)
    if doubtful:  # the model saw the sides the wrong way round, or may have
        reading = replace(reading, sides=None)
    film_flags = [Flag(code="file_note", text=note_text(note)) for note in notes] + quality_flags(looked_at, policy)
    refused = any(flag.code == "implausible_image" for flag in film_flags)
    observations = observation_readings(reading, context)
    flags = [*film_flags, *_indeterminate(observations)]
    abstained = refused or any(flag.code == "all_indeterminate" for flag in flags)
    shown = replace(reading, findings="", impression="", rationale="") if abstained else reading
    rationale = rationale_sentences(shown.rationale, context.citations)
    report = report_sentences(shown.findings, shown.impression, context.labeler)
    if doubtful:
        rationale, report = without_sides(rationale), mentions_without_sides(report)
    if not abstained:  # a flag quotes what it objects to, and nothing is stated here
        flags += [
            *contradiction_flags(reading, context.labeler),
            *rationale_flags(rationale, observations),
            *report_flags(reading, observations, context.labeler),
            *text_flags(reading, has_prior=has_prior),
        ]
    if reading.probabilities is None:
        flags.append(Flag(code="no_label_head", text="This model has no label head: states are those of its report."))
    return Explanation(
        study_id=study_id,
        image_sha256=image_sha256 or hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest(),
        model=context.model,
        observations=observations,
        findings=shown.findings,
        impression=shown.impression,
        rationale=rationale,
        report_sentences=report,
        flags=tuple(flags),
        abstained=abstained,
        quality_policy=policy,
        is_side_doubtful=doubtful,
    )


def _indeterminate(observations: Sequence[ObservationReading]) -> Iterator[Flag]:
    if all(item.probability is not None and item.state == "uncertain" for item in observations):
        yield Flag(code="all_indeterminate", text="Every probability lies near its threshold.")
