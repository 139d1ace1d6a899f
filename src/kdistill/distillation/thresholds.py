"""Decision thresholds from the validation split, labelled like the training data."""

from __future__ import annotations

import numpy as np

#: Fewer positives than this say nothing about a threshold: 0.5 is kept.
LEAST_POSITIVES = 3


def choose_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> tuple[list[float], list[int]]:
    """For each observation the threshold with the highest F1 on its known validation labels.

    Candidates lie half-way between neighbouring scores; among equal F1 the one nearest to 0.5 wins.

    Args:
        probabilities: [N, 14].
        targets: [N, 14], 1, 0 or NaN.

    Returns:
        14 thresholds and the number of positives behind each.
    """
    values, positives = [], []
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        truth, scores = targets[known, column] == 1, probabilities[known, column]
        positives.append(int(truth.sum()))
        usable = LEAST_POSITIVES <= truth.sum() < len(truth)
        values.append(best_f1_threshold(scores, truth) if usable else 0.5)
    return values, positives


def best_f1_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold t for which `scores >= t` has the highest F1 (see `choose_thresholds`).

    >>> best_f1_threshold(np.array([0.1, 0.2, 0.6, 0.8]), np.array([False, False, True, True]))
    0.4
    """
    distinct = np.unique(scores)
    candidates = np.concatenate([[distinct[0]], (distinct[1:] + distinct[:-1]) / 2])
    found = scores[None, :] >= candidates[:, None]
    true_positives = (found & truth).sum(axis=1)
    f1 = 2 * true_positives / (found.sum(axis=1) + truth.sum())
    best = candidates[np.isclose(f1, f1.max(), rtol=0, atol=1e-12)]
    return float(best[np.abs(best - 0.5).argmin()])
