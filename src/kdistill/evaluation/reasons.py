"""Why a score is null, and what was left out of one that is not (FAULTS row 25). Every null carries one of these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation.measures import CALIBRATION_NAMES, F1_NAMES, RANK_NAMES, Material, Measure, RankMaterial
from kdistill.evaluation.targets import Targets
from kdistill.observations import OBSERVATIONS


def why_missing(
    measure: Measure, parts: Sequence[Material | None], targets: Targets | None, num_patients: int
) -> str | None:
    """The reason for which this score has no value; None if it has one.

    Args:
        measure: The score.
        parts: The material of each seed; None where the arm does not give it.
        targets: The reference on the scored studies; None for text scores.
        num_patients: Patients behind it.
    """
    if num_patients == 0:
        return "no study to score"
    if num_patients == 1:
        return "one patient only: no score can be told from chance"
    if any(part is None for part in parts):
        return _not_given(measure)
    if targets is None:
        return None
    return _classes(measure, targets) or _not_finite(measure, parts)


def _not_given(measure: Measure) -> str:
    match measure.name:
        case "auc" | "auprc" | "brier" | "ece":
            return "no probabilities: this arm has no label head"
        case "rationale_f1":
            return "no rationale: this arm writes none"
        case _:
            return "no generated report to score"


def _classes(measure: Measure, targets: Targets) -> str | None:
    positives, negatives = _totals(measure, targets)
    known = int((positives + negatives).sum())
    if not known:
        return "the reference has nothing to say about it"
    if measure.average == "macro":
        return None if _scorable(measure, positives, negatives).any() else "no observation with both classes"
    if measure.name in CALIBRATION_NAMES:
        return None
    if not positives.sum():
        return f"no positive case among {known}"
    if not negatives.sum() and measure.name in RANK_NAMES:
        return f"no negative case among {known}"
    return None


def _totals(measure: Measure, targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    known = targets.known[:, measure.columns]
    positive = targets.positive[:, measure.columns] & known
    return positive.sum(axis=0), (known & ~positive).sum(axis=0)


def _scorable(measure: Measure, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which observations enter a macro average: F1 needs a positive case, a ranking needs both classes."""
    return positives > 0 if measure.name in F1_NAMES else (positives > 0) & (negatives > 0)


def _not_finite(measure: Measure, parts: Sequence[Material | None]) -> str | None:
    columns = measure.columns
    for part in parts:
        if isinstance(part, RankMaterial):
            used = part.scores[:, columns][part.targets.known[:, columns]]
            if bad := int((~np.isfinite(used)).sum()):
                return f"{bad} of {used.size} probabilities are not finite"
    return None


def remark(measure: Measure, targets: Targets) -> str | None:
    """What an average leaves out: observations that the reference cannot score (None: nothing)."""
    if measure.observation is not None or measure.observations is None:
        return None
    positives, negatives = _totals(measure, targets)
    usable = _scorable(measure, positives, negatives) if measure.average == "macro" else positives + negatives > 0
    if usable.all():
        return None
    names = [OBSERVATIONS[column] for column in measure.columns[~usable]]
    return f"over {int(usable.sum())} of {len(usable)} observations; not scorable here: {', '.join(names)}"
