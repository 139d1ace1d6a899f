"""Is one arm better than another? Paired bootstrap differences, paired approximate randomisation, Holm.

Randomisation (Noreen 1989; Yeh 2000, arXiv:cs/0008005): under the hypothesis that the two arms are interchangeable,
each patient's outputs may be swapped between them; p is the share of random swaps whose absolute difference reaches the
observed one, with one added to both counts. For rankings the scores are first replaced by each arm's own ranks, since
arms need not share a scale (Bandos, Rockette & Gur 2005, Statistics in Medicine 24:2873).
Holm (1979): step-down control of the family-wise error.
Axes: N studies, R resamples, K swaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation.bootstrap import Estimate, interval, patient_index


class Difference(NamedTuple):
    """Arm minus baseline, and the same divided by the baseline, each with its 95% interval."""

    difference: float | None
    ci95: tuple[float, float] | None
    relative: float | None
    relative_ci95: tuple[float, float] | None


def paired_difference(arm: Estimate, baseline: Estimate) -> Difference:
    """Difference of two scores under the same resamples (pairing comes from equal columns of weights)."""
    if arm.value is None or baseline.value is None:
        return Difference(None, None, None, None)
    relative = arm.value / baseline.value - 1 if baseline.value else None
    if arm.samples is None or baseline.samples is None:
        return Difference(arm.value - baseline.value, None, relative, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = arm.samples / baseline.samples - 1
    return Difference(
        arm.value - baseline.value,
        interval(arm.samples - baseline.samples),
        relative,
        interval(ratios) if relative is not None else None,
    )


def swap_weights(patient_ids: Sequence[str], num_permutations: int, seed: int) -> NDArray[np.float64]:
    """Which arm each study is taken from: float64 [N, 1 + K] of 0 (as it is) and 1 (swapped), whole patients at a time.

    Column 0 is all zeros: the data as they are.
    """
    index, num_patients = patient_index(patient_ids)
    random = np.random.default_rng(seed)
    swaps = random.integers(0, 2, size=(num_patients, num_permutations))
    return np.concatenate([np.zeros((len(index), 1)), swaps[index]], axis=1).astype(np.float64)


def taken_from(swaps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights over the stacked studies of both arms, [2N, 1 + K] each: what makes up the arm, and the baseline."""
    return np.concatenate([1 - swaps, swaps]), np.concatenate([swaps, 1 - swaps])


def randomisation_p(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p of paired approximate randomisation; None where the score is undefined.

    Args:
        differences: [1 + K], arm minus baseline: first as they are, then under each swap.
    """
    if not np.isfinite(differences).all():
        return None
    # Sums in another order differ in the last bits: a swap that changes nothing must count as reaching the difference.
    reached = np.abs(differences[1:]) >= abs(differences[0]) - 1e-12
    return float((1 + reached.sum()) / len(differences))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p values, in the given order; None (not testable) stays None and counts in no family.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = running
    return adjusted
