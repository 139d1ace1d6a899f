import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from kdistill.evaluation.auc import (
    macro_rank_scores,
    micro_rank_scores,
    observation_rank_scores,
    prevalence_scores,
    rank_scores,
)
from kdistill.evaluation.bootstrap import bootstrap_weights

from .matrices import draw_case


def one_weighting(num: int) -> np.ndarray:
    return np.ones((num, 1))


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn_under_bootstrap_weights(seed) -> None:
    case = draw_case(seed)
    weights = bootstrap_weights(case.patients, 100, seed)
    micro = micro_rank_scores(case.scores, case.positive, case.known, weights)
    each = observation_rank_scores(case.scores, case.positive, case.known, weights)
    for column in (0, 1, 57, 100):
        spread = np.repeat(weights[:, column : column + 1], 14, axis=1)
        items = (case.positive[case.known], case.scores[case.known])
        # worst seen 2e-16 over 4 seeds x 4 weightings
        assert micro.auc[column] == pytest.approx(roc_auc_score(*items, sample_weight=spread[case.known]), abs=1e-12)
        expected = average_precision_score(*items, sample_weight=spread[case.known])
        assert micro.auprc[column] == pytest.approx(expected, abs=1e-12)
        for observation in (0, 7, 13):
            rows = case.known[:, observation]
            pair = (case.positive[rows, observation], case.scores[rows, observation])
            expected = roc_auc_score(*pair, sample_weight=weights[rows, column])
            assert each.auc[column, observation] == pytest.approx(expected, abs=1e-12)


def test_fractional_weights_equal_scikit_learn() -> None:
    """Whole-number weights take an int32 path; others must not be rounded."""
    case = draw_case(5)
    weights = np.random.default_rng(0).random((len(case.scores), 3))
    found = observation_rank_scores(case.scores, case.positive, np.ones_like(case.known), weights)
    expected = roc_auc_score(case.positive[:, 4], case.scores[:, 4], sample_weight=weights[:, 2])
    assert found.auc[2, 4] == pytest.approx(expected, abs=1e-12)


def test_brute_force_over_all_pairs() -> None:
    case = draw_case(3, num=15, observations=3)
    scores, positive = case.scores.ravel(), case.positive.ravel()
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[positive] for n in scores[~positive]]
    known = np.ones_like(case.known)
    found = micro_rank_scores(case.scores, case.positive, known, one_weighting(15))
    assert found.auc[0] == pytest.approx(np.mean(wins), abs=1e-12)


def test_micro_and_macro_are_not_swapped() -> None:
    """Mutation spot: within each observation the ranking is perfect, across observations it is upside down."""
    positive = np.array([[1, 1], [0, 1], [0, 0]], dtype=bool)
    scores = np.array([[0.9, 0.2], [0.5, 0.2], [0.5, 0.1]])
    known = np.ones_like(positive)
    micro = micro_rank_scores(scores, positive, known, one_weighting(3))
    macro = macro_rank_scores(observation_rank_scores(scores, positive, known, one_weighting(3)))
    assert macro.auc[0] == 1.0
    assert micro.auc[0] == pytest.approx(5 / 9)  # by hand: 0.9 beats 3 of 3 negatives, each 0.2 beats 1 of 3


def test_prevalence_alone_is_well_above_half_in_micro_and_half_in_macro() -> None:
    case = draw_case(0, num=400)
    floor = prevalence_scores(case.positive, case.known)
    weights = one_weighting(400)
    micro = micro_rank_scores(floor, case.positive, case.known, weights)
    macro = macro_rank_scores(observation_rank_scores(floor, case.positive, case.known, weights))
    assert micro.auc[0] > 0.6
    assert macro.auc[0] == 0.5


def test_no_constant_predictor_beats_the_prevalence_floor() -> None:
    case = draw_case(1, num=200)
    weights, random = one_weighting(200), np.random.default_rng(0)
    best = micro_rank_scores(prevalence_scores(case.positive, case.known), case.positive, case.known, weights).auc[0]
    for _ in range(50):
        constant = np.tile(random.random(14), (200, 1))
        assert micro_rank_scores(constant, case.positive, case.known, weights).auc[0] <= best + 1e-12


def test_knowing_the_source_alone_raises_the_macro_auc_of_mixed_data_but_not_within_a_source() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1], 100)
    positive = random.random((200, 5)) < np.where(groups[:, None] == 0, 0.1, 0.7)
    known, weights = np.ones_like(positive), one_weighting(200)
    scores = prevalence_scores(positive, known, groups)
    mixed = macro_rank_scores(observation_rank_scores(scores, positive, known, weights)).auc[0]
    inside = macro_rank_scores(
        observation_rank_scores(scores[:100], positive[:100], known[:100], one_weighting(100))
    ).auc[0]
    assert mixed > 0.75
    assert inside == 0.5


@pytest.mark.parametrize("positive", [[False, False], [True, True]])
def test_one_class_is_undefined(positive) -> None:
    found = rank_scores(np.array([0.1, 0.9]), np.array(positive), np.arange(2), np.ones((2, 2)))
    assert np.isnan(found.auc).all()
    assert np.isnan(found.auprc).all()


def test_nan_scores_and_no_items_are_undefined() -> None:
    assert np.isnan(rank_scores(np.array([np.nan, 0.9]), np.array([True, False]), np.arange(2), np.ones((2, 1))).auc[0])
    empty = np.empty(0)
    assert np.isnan(rank_scores(empty, empty.astype(bool), empty.astype(int), np.ones((0, 1))).auc[0])


@given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_averages_do_not_depend_on_the_order_of_observations(seed, order) -> None:
    case = draw_case(seed, num=20, observations=6)
    weights = bootstrap_weights(case.patients, 100, 0)
    shuffled = (case.scores[:, order], case.positive[:, order], case.known[:, order], weights)
    first = micro_rank_scores(case.scores, case.positive, case.known, weights)
    second = micro_rank_scores(*shuffled)
    np.testing.assert_allclose(first.auc, second.auc, atol=1e-12)
    first = macro_rank_scores(observation_rank_scores(case.scores, case.positive, case.known, weights))
    second = macro_rank_scores(observation_rank_scores(*shuffled))
    np.testing.assert_allclose(first.auprc, second.auprc, atol=1e-12)


@given(seed=st.integers(0, 1000))
def test_equal_weights_equal_no_weights(seed) -> None:
    case = draw_case(seed, num=20, observations=4)
    ones = micro_rank_scores(case.scores, case.positive, case.known, np.ones((20, 1)))
    threes = micro_rank_scores(case.scores, case.positive, case.known, np.full((20, 1), 3.0))
    np.testing.assert_allclose([ones.auc, ones.auprc], [threes.auc, threes.auprc], atol=1e-12)


@given(seed=st.integers(0, 200))
def test_reversing_the_scores_mirrors_the_auc(seed) -> None:
    case = draw_case(seed, num=20, observations=4)
    weights = np.ones((20, 1))
    up = micro_rank_scores(case.scores, case.positive, case.known, weights).auc[0]
    down = micro_rank_scores(-case.scores, case.positive, case.known, weights).auc[0]
    assert up + down == pytest.approx(1, abs=1e-12)
