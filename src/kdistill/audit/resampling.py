"""Ratios of sums, averaged over seeds inside each patient resample (`evaluation.bootstrap` draws the patients)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdistill.evaluation.bootstrap import Estimate, bootstrap_weights, estimate


class Fraction(NamedTuple):
    """Cases of one seed: whose they are, and what each adds to numerator and denominator (float64 [N] each).

    Every figure of the audit is such a ratio: a share of cases (numerator 0 or 1), a mean, or an F1 (2 TP over
    2 TP + FP + FN).
    """

    patient_ids: Sequence[str]
    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


def fraction(patient_ids: Sequence[str], numerator: ArrayLike, denominator: ArrayLike | None = None) -> Fraction:
    """Build a Fraction; without a denominator every case counts once."""
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, dtype=np.float64)
    return Fraction(patient_ids, top, bottom)


class PatientBootstrap:
    """One set of patient resamples, shared by every figure, so that any two of them are paired.

    Args:
        patient_ids: All patients that any figure may be about.
        num_bootstrap: Resamples.
        seed: Of the draws.
    """

    def __init__(self, patient_ids: Iterable[str], num_bootstrap: int, seed: int) -> None:
        patients = sorted(set(patient_ids))
        self._row = {patient: row for row, patient in enumerate(patients)}
        self._weights = bootstrap_weights(patients, num_bootstrap, seed)

    def weights(self, patient_ids: Sequence[str]) -> NDArray[np.float64]:
        """Weights of cases [N, 1 + R]; column 0 is the data as they are."""
        return self._weights[[self._row[p] for p in patient_ids]]

    def ratio(self, seeds: Sequence[Fraction]) -> Estimate:
        """Mean over seeds of sum(numerator) / sum(denominator), with its resamples.

        Returns:
            An Estimate; without a value where some seed has no case.
        """
        if not seeds or any(part.denominator.sum() == 0 for part in seeds):
            return Estimate(None, None, "no case to measure it on")
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = [self._sum(p, p.numerator) / self._sum(p, p.denominator) for p in seeds]
        return estimate(np.mean(columns, axis=0))

    def _sum(self, part: Fraction, values: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.asarray([self._row[p] for p in part.patient_ids], dtype=np.intp)
        totals = np.bincount(rows, weights=values, minlength=len(self._weights))
        return totals @ self._weights


def value_of(parts: Sequence[Fraction]) -> float | None:
    """The ratio alone, mean over seeds; None where some seed has no case."""
    sums = [(p.numerator.sum(), p.denominator.sum()) for p in parts]
    if not sums or any(bottom == 0 for _, bottom in sums):
        return None
    return float(np.mean([top / bottom for top, bottom in sums]))


def num_cases(parts: Sequence[Fraction]) -> int:
    """Cases of one seed (the mean over seeds): the sum of the denominators, where each case counts once."""
    return round(float(np.mean([part.denominator.sum() for part in parts]))) if parts else 0


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second under the same resamples."""
    if first.value is None or second.value is None or first.samples is None or second.samples is None:
        return Estimate(None, None, first.reason or second.reason)
    return Estimate(first.value - second.value, first.samples - second.samples)
