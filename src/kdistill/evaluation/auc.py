"""Area under the ROC curve and average precision, for any weighting of the studies at once.

AUROC = P(score of a positive > score of a negative) + P(tie) / 2 (Hanley & McNeil 1982, Radiology 143:29).
AP = sum_k (recall_k - recall_{k-1}) precision_k over distinct thresholds, as scikit-learn's average_precision_score.
Axes: N studies, L observations, M = known (study, observation) items, R weightings. An item is sorted once; each
weighting then costs one cumulative sum.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation.f1 import nan_mean

#: Items x weightings handled together, so that sums stay in cache. Measured on one core for M = 8,400, R = 1,001,
#: cumulative sums alone: 24 ms in blocks of 32 weightings (int32), 56 ms in blocks of 256; in float64 45 and 190 ms.
_BLOCK_ITEMS: Final = 600 * 64
_MIN_WIDTH: Final = 32


class RankScores(NamedTuple):
    """AUROC and average precision, each [R] (or [R, L]); NaN where a class is missing or a score is not finite."""

    auc: NDArray[np.float64]
    auprc: NDArray[np.float64]


class _Order(NamedTuple):
    """Items in ascending order of score, and where the tie groups that hold a positive begin and end."""

    rows: NDArray[np.intp]
    positive_rows: NDArray[np.intp]
    start: NDArray[np.intp]
    end: NDArray[np.intp]
    positive_start: NDArray[np.intp]
    positive_end: NDArray[np.intp]


def _sorted(scores: NDArray[np.float64], positive: NDArray[np.bool_], rows: NDArray[np.intp]) -> _Order:
    order = np.argsort(scores, kind="stable")
    scores, positive, rows = scores[order], positive[order], rows[order]
    levels = np.unique(scores[positive])
    positives = scores[positive]
    return _Order(
        rows,
        rows[positive],
        np.searchsorted(scores, levels, "left"),
        np.searchsorted(scores, levels, "right"),
        np.searchsorted(positives, levels, "left"),
        np.searchsorted(positives, levels, "right"),
    )


def _cumulative(weights: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Cumulative weight before each item, with the total last: [M + 1, R]."""
    sums = np.zeros((len(rows) + 1, weights.shape[1]), dtype=weights.dtype)
    np.cumsum(weights[rows], axis=0, out=sums[1:])
    return sums


def _curve_areas(order: _Order, weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    every, positives = _cumulative(weights, order.rows), _cumulative(weights, order.positive_rows)
    total, total_positive = every[-1].astype(np.float64), positives[-1].astype(np.float64)
    here = positives[order.positive_end] - positives[order.positive_start]
    negative_below = every[order.start] - positives[order.positive_start]
    negative_tied = every[order.end] - every[order.start] - here
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = (here * (negative_below + negative_tied / 2)).sum(axis=0)  # the division makes it float64: no overflow
        auc = wins / (total_positive * (total - total_positive))
        found, called = total_positive - positives[order.positive_start], total - every[order.start]
        precision = np.divide(found, called, out=np.zeros(found.shape), where=called > 0)
        average_precision = (here * precision).sum(axis=0) / total_positive
    one_class = (total_positive <= 0) | (total - total_positive <= 0)
    return np.where(one_class, np.nan, auc), np.where(one_class, np.nan, average_precision)


def rank_scores(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    rows: NDArray[np.intp],
    weights: NDArray[np.float64],
) -> RankScores:
    """AUROC and average precision of a list of items.

    Args:
        scores: float [M], higher means more likely positive.
        positive: bool [M].
        rows: int [M], the study of each item.
        weights: float [N, R], how often each study counts in each weighting (>= 0).

    Returns:
        Two arrays [R]; NaN where one class only is left, or where a score is not finite.
    """
    num = weights.shape[1]
    result = RankScores(np.full(num, np.nan), np.full(num, np.nan))
    if not len(scores) or not np.isfinite(scores).all():
        return result
    order = _sorted(scores, positive, rows)
    width = max(_MIN_WIDTH, _BLOCK_ITEMS // len(scores))
    # How often a patient was drawn is a whole number: int32 sums are exact and twice as fast. Others stay float64.
    dtype = np.int32 if np.array_equal(weights, weights.astype(np.int32)) else np.float64
    for begin in range(0, num, width):
        block = np.ascontiguousarray(weights[:, begin : begin + width], dtype=dtype)
        result.auc[begin : begin + width], result.auprc[begin : begin + width] = _curve_areas(order, block)
    return result


def micro_rank_scores(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    known: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> RankScores:
    """All known items of [N, L] in one ranking, whatever their observation. Each array [R].

    A predictor that knows only each observation's prevalence is well above 0.5 here (see `prevalence_scores`).
    """
    rows, columns = np.nonzero(known)
    return rank_scores(scores[rows, columns], positive[rows, columns], rows, weights)


def observation_rank_scores(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    known: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> RankScores:
    """One ranking for each observation. Each array [R, L]; NaN columns where a class is missing."""
    columns = []
    for column in range(scores.shape[1]):
        rows = np.flatnonzero(known[:, column])
        columns.append(rank_scores(scores[rows, column], positive[rows, column], rows, weights))
    return RankScores(np.stack([c.auc for c in columns], axis=1), np.stack([c.auprc for c in columns], axis=1))


def macro_rank_scores(per_observation: RankScores) -> RankScores:
    """Mean over the observations [R, L] -> [R]; those that are undefined are left out."""
    return RankScores(nan_mean(per_observation.auc), nan_mean(per_observation.auprc))


def prevalence_scores(
    positive: NDArray[np.bool_], known: NDArray[np.bool_], groups: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """What a predictor says that knows only the prevalence of each observation (within each group, if given), [N, L].

    The prevalence is that of the evaluated studies themselves, which makes it the best of all predictors that never
    look at an image (ranking by the true rate is optimal): a floor for the micro-AUC, and with `groups` = data set also
    the floor that a model reaches by recognising where a film comes from.
    """
    labels = np.zeros(len(positive), np.intp) if groups is None else groups
    result = np.zeros(positive.shape)
    for group in np.unique(labels):
        rows = labels == group
        total = known[rows].sum(axis=0)
        result[rows] = (positive[rows] & known[rows]).sum(axis=0) / np.maximum(total, 1)
    return result
