import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from kdistill.evaluation.calibration import bin_sums, brier, expected_calibration_error, reliability_table

from .matrices import draw_case


def test_brier_equals_scikit_learn() -> None:
    case = draw_case(0)
    weights = np.random.default_rng(0).integers(0, 3, (len(case.scores), 1)).astype(float)
    spread = np.repeat(weights, 14, axis=1)[case.known]
    expected = brier_score_loss(case.positive[case.known], case.scores[case.known], sample_weight=spread)
    assert brier(case.scores, case.positive, case.known, weights)[0] == pytest.approx(expected, abs=1e-12)


def test_ece_equals_a_loop_over_bins() -> None:
    case = draw_case(1)
    # Clear of the bins' edges: 0.3 * 10 may fall on either side of 3.
    scores = np.clip(case.scores + 0.013, 0, 1)
    p, y = scores[case.known], case.positive[case.known]
    expected = sum(
        inside.mean() * abs(y[inside].mean() - p[inside].mean())
        for inside in (np.clip((p * 10).astype(int), 0, 9) == k for k in range(10))
        if inside.any()
    )
    sums = bin_sums(scores, case.positive, case.known, 10)
    assert expected_calibration_error(sums, np.ones((len(scores), 1)))[0] == pytest.approx(expected, abs=1e-12)


def test_perfect_and_worst_probabilities() -> None:
    positive = np.array([[True, False], [False, True]])
    known, weights = np.ones_like(positive), np.ones((2, 1))
    right, wrong = positive.astype(float), 1.0 - positive
    assert brier(right, positive, known, weights)[0] == 0
    assert expected_calibration_error(bin_sums(right, positive, known, 10), weights)[0] == 0
    assert brier(wrong, positive, known, weights)[0] == 1
    assert expected_calibration_error(bin_sums(wrong, positive, known, 10), weights)[0] == 1


def test_reliability_table_counts_every_known_item_once() -> None:
    case = draw_case(2)
    table = reliability_table(bin_sums(case.scores, case.positive, case.known, 10))
    assert sum(row.n for row in table) == case.known.sum()
    assert [row.low for row in table] == pytest.approx(np.arange(10) / 10)
    empty = reliability_table(np.zeros((1, 4, 3)))
    assert all(row.mean_probability is None and row.observed_rate is None for row in empty)
