"""F1 of label matrices: micro, macro, example average and per observation, for any weighting of the studies.

F1 = 2 TP / (2 TP + FP + FN), counted over positive labels. Axes: N studies, L observations, R weightings (one column of
`weights` for each bootstrap resample). Averages as scikit-learn names them (micro, macro, samples), checked against it.
Micro F1 over flattened 0/1 arrays with both classes counted is accuracy; it comes out far higher, because most labels
are 0. These functions therefore take matrices only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError

Average = Literal["micro", "macro", "example"]


def confusion(
    reference: NDArray[np.bool_], predicted: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Per study and observation: true positive, false positive, false negative, known (each 0 or 1).

    Args:
        reference: bool [N, L].
        predicted: bool [N, L].
        known: bool [N, L]; False entries count nowhere. None: all are known.

    Returns:
        float64 [N, L, 4].

    Raises:
        InputError: Not matrices of one shape (a flattened array would turn micro F1 into accuracy), or not 0/1.
    """
    reference, predicted = np.asarray(reference), np.asarray(predicted)
    if reference.ndim != 2 or reference.shape != predicted.shape:
        raise InputError(
            f"F1 needs two label matrices [studies, observations], got {reference.shape} and {predicted.shape}",
            remedy="Do not flatten labels: micro F1 over flattened 0/1 arrays is accuracy.",
        )
    for name, array in (("reference", reference), ("prediction", predicted)):
        if not np.isin(array, (0, 1)).all():
            raise InputError(f"the {name} holds values other than 0 and 1", remedy="Apply an uncertain policy first.")
    mask = np.ones(reference.shape, bool) if known is None else np.asarray(known, bool)
    positive, stated = reference.astype(bool) & mask, predicted.astype(bool) & mask
    return np.stack([positive & stated, ~positive & stated, positive & ~stated, mask], axis=-1).astype(np.float64)


def pool(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums over studies: [N, L, 4] and [N, R] -> [R, L, 4] (exact for integer weights)."""
    flat = counts.reshape(counts.shape[0], -1)
    return (weights.T @ flat).reshape(weights.shape[1], *counts.shape[1:])


def _f1(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 over the last axis (TP, FP, FN, ...); NaN where the reference has no positive."""
    true, false, missed = pooled[..., 0], pooled[..., 1], pooled[..., 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(true + missed > 0, 2 * true / (2 * true + false + missed), np.nan)


def f1_per_observation(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each observation from `pool`, [R, L]; NaN where the (resampled) reference has no positive case."""
    return _f1(pooled)


def f1_micro(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of the counts summed over observations, from `pool`, [R]."""
    return _f1(pooled.sum(axis=1))


def f1_macro(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the observations' F1, from `pool`, [R]; observations without a positive reference case are left out."""
    return nan_mean(_f1(pooled))


def f1_example(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the studies' F1, [R]. A study with no positive in reference and prediction counts 0, as scikit-learn's
    `average="samples", zero_division=0` and f1chexbert count it; a study of which nothing is known is left out."""
    sums = counts.sum(axis=1)
    denominator = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    each = np.divide(2 * sums[:, 0], denominator, out=np.zeros_like(denominator), where=denominator > 0)
    present = (sums[:, 3] > 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights.T @ (each * present)) / (weights.T @ present)


def nan_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is left (without numpy's warning)."""
    valid = ~np.isnan(values)
    total = np.where(valid, values, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / valid.sum(axis=-1)


def f1_score(
    reference: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    average: Average,
    known: NDArray[np.bool_] | None = None,
) -> float:
    """One unweighted F1 of two label matrices [N, L]; NaN where it is undefined.

    >>> import numpy as np
    >>> f1_score(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]]), "micro")
    0.8
    """
    counts = confusion(reference, predicted, known)
    ones = np.ones((len(counts), 1))
    match average:
        case "micro":
            return float(f1_micro(pool(counts, ones))[0])
        case "macro":
            return float(f1_macro(pool(counts, ones))[0])
        case "example":
            return float(f1_example(counts, ones)[0])
