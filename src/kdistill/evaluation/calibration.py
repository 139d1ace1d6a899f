"""Do the probabilities mean what they say? Brier score, expected calibration error, reliability table.

Brier = mean (p - y)^2 (Brier 1950). ECE = sum_b (n_b / n) |mean y - mean p| over bins of equal width on [0, 1], the
last one closed (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599), pooled over all known (study, observation)
items. ECE is biased upwards in small samples, and its bootstrap interval more so: compare it between arms, not with 0.
Axes: N studies, L observations, K bins, R weightings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class ReliabilityBin(BaseModel):
    """One bin of a reliability diagram: [low, high), `n` items, mean probability, observed rate (None when empty)."""

    model_config = ConfigDict(frozen=True)

    low: float
    high: float
    n: int
    mean_probability: float | None
    observed_rate: float | None


def brier(
    probabilities: NDArray[np.float64],
    positive: NDArray[np.bool_],
    known: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean squared error of the probabilities over known items, [R]."""
    error = np.where(known, (probabilities - positive) ** 2, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights.T @ error) / (weights.T @ known.sum(axis=1).astype(np.float64))


def bin_sums(
    probabilities: NDArray[np.float64], positive: NDArray[np.bool_], known: NDArray[np.bool_], num_bins: int
) -> NDArray[np.float64]:
    """Per study and bin: number of items, sum of probabilities, number of positives. float64 [N, K, 3]."""
    rows, columns = np.nonzero(known)
    p, y = probabilities[rows, columns], positive[rows, columns]
    bins = np.clip((p * num_bins).astype(np.intp), 0, num_bins - 1)
    sums = np.zeros((len(probabilities), num_bins, 3))
    for index, value in enumerate((np.ones_like(p), p, y.astype(np.float64))):
        np.add.at(sums[..., index], (rows, bins), value)
    return sums


def expected_calibration_error(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """ECE from `bin_sums` [N, K, 3], in [0, 1], lower is better, [R]."""
    pooled = (weights.T @ sums.reshape(len(sums), -1)).reshape(weights.shape[1], *sums.shape[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(pooled[..., 1] - pooled[..., 2]).sum(axis=1) / pooled[..., 0].sum(axis=1)


def reliability_table(sums: NDArray[np.float64]) -> list[ReliabilityBin]:
    """The rows of a reliability diagram from `bin_sums` [N, K, 3]."""
    pooled, num_bins = sums.sum(axis=0), sums.shape[1]
    return [
        ReliabilityBin(
            low=index / num_bins,
            high=(index + 1) / num_bins,
            n=int(count),
            mean_probability=probability / count if count else None,
            observed_rate=positives / count if count else None,
        )
        for index, (count, probability, positives) in enumerate(pooled.tolist())
    ]
