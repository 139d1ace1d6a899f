"""From outputs and references to scores that carry their own definition (INTERFACE: scores.json). No I/O, no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation import auc
from kdistill.evaluation.bootstrap import Estimate, bootstrap_weights, estimate, interval, patient_index
from kdistill.evaluation.config import CALIBRATION_BINS
from kdistill.evaluation.f1 import confusion
from kdistill.evaluation.measures import (
    CALIBRATION_NAMES,
    RANK_NAMES,
    LabelMaterial,
    Material,
    Measure,
    Name,
    RankMaterial,
    TextMaterial,
    Values,
    evaluate,
    f1_measures,
    mean_over_seeds,
    rank_measures,
)
from kdistill.evaluation.reasons import remark, why_missing
from kdistill.evaluation.targets import Targets, binarise
from kdistill.observations import UncertainPolicy
from kdistill.records import Record

ReferenceKind = Literal["truth", "report", "labels"]

#: Floors for the AUC. Neither looks at an image: the first knows how common each observation is, the second also which
#: data set a film comes from.
PREVALENCE_ONLY: Final = "prevalence_only"
SOURCE_PREVALENCE_ONLY: Final = "source_prevalence_only"

#: Both conventions for F1, always; all three for rankings.
F1_POLICIES: Final[tuple[UncertainPolicy, ...]] = ("positive", "negative")
RANK_POLICIES: Final[tuple[UncertainPolicy, ...]] = ("negative", "positive", "masked")


class Score(Record):
    """One number and everything that it means. `subgroup` is None or "<field>=<value>"; `per_seed` goes with `seeds`.

    `reason` says why there is no value, or, beside a value, what was left out of it.
    """

    name: str
    arm: str
    split: str
    average: Literal["micro", "macro", "example"] | None
    observation: str | None
    observations: Literal[14, 5] | None
    uncertain: UncertainPolicy | None
    labeler: str | None
    reference: ReferenceKind
    subgroup: str | None
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    num_positive: int | None
    num_patients: int
    seeds: tuple[int, ...]
    per_seed: tuple[float | None, ...]
    reason: str | None


@dataclass(frozen=True)
class Outputs:
    """What one arm said under one seed about the N studies of the cohort, in its order.

    `probabilities` [N, L] or None (no label head; NaN where one is missing). `report_states`, `rationale_states` int8
    [N, L], the labels of the generated texts (see targets.state_matrix), or None (it wrote none). `text` is what BLEU
    and ROUGE compare, or None.
    """

    arm: str
    seed: int
    probabilities: NDArray[np.float64] | None = None
    report_states: NDArray[np.int8] | None = None
    rationale_states: NDArray[np.int8] | None = None
    text: TextMaterial | None = None


@dataclass(frozen=True)
class Reference:
    """What the cohort is scored against: states int8 [N, L], UNKNOWN where it says nothing."""

    kind: ReferenceKind
    states: NDArray[np.int8]
    labeler: str | None = None


@dataclass(frozen=True)
class Scope:
    """Which studies are scored: rows of the cohort, their patients, and what to call them."""

    split: str
    rows: NDArray[np.intp]
    patient_ids: tuple[str, ...]
    weights: NDArray[np.float64]
    subgroup: str | None = None


@dataclass(frozen=True)
class Entry:
    """A score with its resamples, for paired differences."""

    score: Score
    estimate: Estimate


def make_scope(
    split: str,
    rows: NDArray[np.intp],
    patient_ids: Sequence[str],
    *,
    num_bootstrap: int,
    seed: int,
    subgroup: str | None = None,
) -> Scope:
    """Draw the patients' weights for some rows of the cohort; equal rows and seed give equal (paired) resamples."""
    patients = tuple(patient_ids[row] for row in rows)
    return Scope(split, rows, patients, bootstrap_weights(patients, num_bootstrap, seed), subgroup)


def label_material(states: NDArray[np.int8], reference: Targets, uncertain: UncertainPolicy) -> LabelMaterial:
    """Count a generated text's labels against the reference; the text's uncertain labels follow the same policy."""
    return LabelMaterial(confusion(reference.positive, binarise(states, uncertain).positive, reference.known))


def material(
    outputs: Outputs,
    measure: Name,
    reference: Reference,
    uncertain: UncertainPolicy,
    scope: Scope,
    num_bins: int = CALIBRATION_BINS,
) -> Material | None:
    """What a measure needs of an arm's outputs on the scope's studies; None if the arm does not give it."""
    targets = binarise(reference.states, uncertain).take(scope.rows)
    match measure:
        case "report_f1" | "rationale_f1":
            states = outputs.report_states if measure == "report_f1" else outputs.rationale_states
            return None if states is None else label_material(states[scope.rows], targets, uncertain)
        case "auc" | "auprc" | "brier" | "ece":
            if outputs.probabilities is None:
                return None
            return RankMaterial(outputs.probabilities[scope.rows], targets, num_bins)
        case "bleu4" | "rougeL":
            if outputs.text is None:
                return None
            return outputs.text.take(scope.rows)


@dataclass(frozen=True)
class Family:
    """Measures that share material: one pass over the resamples gives them all."""

    name: Name
    measures: tuple[Measure, ...]
    policies: tuple[UncertainPolicy, ...]


def all_families() -> tuple[Family, ...]:
    """Every score of labels and probabilities."""
    probability = (*rank_measures(), *(Measure(name) for name in CALIBRATION_NAMES))
    return (
        Family("report_f1", tuple(f1_measures("report_f1")), F1_POLICIES),
        Family("rationale_f1", tuple(f1_measures("rationale_f1")), F1_POLICIES),
        Family("auc", probability, RANK_POLICIES),
    )


def main_families() -> tuple[Family, ...]:
    """The few scores that are shown for each subgroup."""
    return (
        Family("report_f1", (Measure("report_f1"),), F1_POLICIES),
        Family("auc", (Measure("auc"), Measure("auc", "macro")), ("negative",)),
    )


def score_arm(
    seeds: Sequence[Outputs],
    reference: Reference,
    scope: Scope,
    families: Sequence[Family],
    *,
    labeler: str | None,
    num_bins: int,
) -> list[Entry]:
    """All scores of one arm against one reference.

    Args:
        seeds: The arm's outputs, one for each seed; a score is the mean over them.
        reference: The reference labels of the whole cohort.
        scope: The studies to score.
        families: Which scores.
        labeler: Name and revision of what labelled the generated texts.
        num_bins: Bins of the calibration error.
    """
    entries: list[Entry] = []
    for family in families:
        done: dict[bytes, list[Values]] = {}
        for policy in family.policies:
            parts = [material(o, family.name, reference, policy, scope, num_bins) for o in seeds]
            values = _values(family, parts, scope, done)
            targets = binarise(reference.states, policy).take(scope.rows)
            used = labeler if family.name in ("report_f1", "rationale_f1") else reference.labeler
            stamp = _Stamp(seeds[0].arm, tuple(o.seed for o in seeds), policy, used, reference.kind)
            entries += _entries(family.measures, values, parts, targets, scope, stamp)
    return entries


@dataclass(frozen=True)
class _Stamp:
    """The part of a score's definition that does not depend on the measure."""

    arm: str
    seeds: tuple[int, ...]
    uncertain: UncertainPolicy | None
    labeler: str | None
    reference: ReferenceKind


def _values(
    family: Family, parts: Sequence[Material | None], scope: Scope, done: dict[bytes, list[Values]]
) -> list[Values]:
    """Values for each seed; policies that leave the same targets (certain references) are computed once."""
    usable = [part for part in parts if part is not None]
    if len(usable) < len(parts) or not len(scope.rows):
        return []
    key = b"".join(_identity(part) for part in usable)
    if key not in done:
        done[key] = [evaluate(family.measures, part, scope.weights) for part in usable]
    return done[key]


def _identity(part: Material) -> bytes:
    match part:
        case RankMaterial(_, targets):
            return targets.positive.tobytes() + targets.known.tobytes()
        case LabelMaterial(counts):
            return counts.tobytes()
        case TextMaterial():
            return b"text"


def _entries(
    measures: Sequence[Measure],
    values: Sequence[Values],
    parts: Sequence[Material | None],
    targets: Targets | None,
    scope: Scope,
    stamp: _Stamp,
) -> Iterator[Entry]:
    """Turn the values of all seeds into scores, or say why there is none."""
    num_patients = patient_index(scope.patient_ids)[1]
    means = mean_over_seeds(values) if values else {}
    for measure in measures:
        missing = why_missing(measure, parts, targets, num_patients)
        if missing is not None:
            yield _entry(measure, Estimate(None, None, missing), [], targets, scope, stamp)
            continue
        found = estimate(means[measure], None if targets is None else remark(measure, targets))
        each = [float(v[measure][0]) for v in values]
        yield _entry(measure, found, each, targets, scope, stamp)


def _entry(
    measure: Measure, found: Estimate, each: Sequence[float], targets: Targets | None, scope: Scope, stamp: _Stamp
) -> Entry:
    n, num_positive = len(scope.rows), None
    if targets is not None:
        known = targets.known[:, measure.columns]
        n, num_positive = int(known.any(axis=1).sum()), int((targets.positive[:, measure.columns] & known).sum())
    score = Score(
        name=measure.name,
        arm=stamp.arm,
        split=scope.split,
        average=measure.average,
        observation=measure.observation,
        observations=measure.observations,
        uncertain=stamp.uncertain,
        labeler=stamp.labeler,
        reference=stamp.reference,
        subgroup=scope.subgroup,
        value=found.value,
        ci95=interval(found.samples),
        n=n,
        num_positive=num_positive,
        num_patients=patient_index(scope.patient_ids)[1],
        seeds=stamp.seeds,
        per_seed=tuple(each),
        reason=found.reason,
    )
    return Entry(score, found)


def score_texts(seeds: Sequence[Outputs], scope: Scope) -> list[Entry]:
    """BLEU-4 and ROUGE-L of one arm against the reports of the scope's studies."""
    stamp = _Stamp(seeds[0].arm, tuple(o.seed for o in seeds), None, None, "report")
    measures = (Measure("bleu4", None, None, None), Measure("rougeL", None, None, None))
    parts = [None if o.text is None else o.text.take(scope.rows) for o in seeds]
    usable = [part for part in parts if part is not None]
    values = [evaluate(measures, part, scope.weights) for part in usable] if len(usable) == len(parts) else []
    return list(_entries(measures, values if len(scope.rows) else [], parts, None, scope, stamp))


def score_floors(reference: Reference, scope: Scope, sources: Sequence[str], *, num_bins: int) -> Iterator[Entry]:
    """AUC of the predictors that never look at an image, under each policy."""
    groups = np.unique(np.asarray([sources[row] for row in scope.rows], dtype=str), return_inverse=True)[1].astype(
        np.intp
    )
    arms: list[tuple[str, NDArray[np.intp] | None]] = [(PREVALENCE_ONLY, None)]
    if len(np.unique(groups)) > 1:
        arms.append((SOURCE_PREVALENCE_ONLY, groups))
    measures = tuple(m for m in rank_measures() if m.observation is None and m.name in RANK_NAMES)
    for arm, by in arms:
        for policy in RANK_POLICIES:
            targets = binarise(reference.states, policy).take(scope.rows)
            part = RankMaterial(auc.prevalence_scores(*targets, by), targets, num_bins)
            values = [evaluate(measures, part, scope.weights)] if len(scope.rows) else []
            stamp = _Stamp(arm, (), policy, reference.labeler, reference.kind)
            yield from _entries(measures, values, [part], targets, scope, stamp)
