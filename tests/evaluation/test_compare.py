import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdistill.evaluation.bootstrap import Estimate
from kdistill.evaluation.compare import holm, paired_difference, randomisation_p, swap_weights, taken_from
from kdistill.evaluation.f1 import confusion
from kdistill.evaluation.measures import LabelMaterial, Measure, RankMaterial, evaluate, own_ranks, stack
from kdistill.evaluation.targets import Targets

from .matrices import draw_case


def p_of_means(ours: np.ndarray, theirs: np.ndarray, patients: list[str], swaps: int = 2000) -> float | None:
    stacked = np.concatenate([ours, theirs])
    kept, swapped = taken_from(swap_weights(patients, swaps, 0))
    return randomisation_p((kept.T @ stacked - swapped.T @ stacked) / len(ours))


@given(st.lists(st.floats(0.1, 1), min_size=5, max_size=5), st.lists(st.floats(0.1, 1), min_size=5, max_size=5))
def test_difference_is_antisymmetric(first, second) -> None:
    a, b = (Estimate(values[0], np.asarray(values)) for values in (first, second))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference == -back.difference
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=1e-12)


def test_relative_difference_by_hand() -> None:
    found = paired_difference(Estimate(0.6, np.array([0.6, 0.66])), Estimate(0.5, np.array([0.5, 0.55])))
    assert found.relative == pytest.approx(0.2)
    assert found.relative_ci95 == pytest.approx((0.2, 0.2))
    assert paired_difference(Estimate(0.6), Estimate(0.0)).relative is None
    assert paired_difference(Estimate(None), Estimate(0.5)).difference is None


def test_pairing_removes_what_both_arms_share() -> None:
    shared = np.random.default_rng(0).normal(0.5, 0.2, 500)
    found = paired_difference(Estimate(0.51, shared + 0.01), Estimate(0.5, shared))
    assert found.ci95 == pytest.approx((0.01, 0.01))


def test_p_equals_the_exact_test_over_all_swaps() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0.5, 1, 10), random.normal(0, 1, 10)
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = (np.abs(signs @ (ours - theirs)) >= abs((ours - theirs).sum()) - 1e-12).mean()
    found = p_of_means(ours, theirs, [str(i) for i in range(10)], swaps=20_000)
    assert found == pytest.approx(exact, abs=0.003)  # exact 0.0117, standard error 0.0008, measured off by 0.0002


def test_identical_arms_have_p_one_and_swaps_keep_patients_whole() -> None:
    values = np.random.default_rng(0).normal(0, 1, 20)
    assert p_of_means(values, values, [str(i) for i in range(20)]) == 1.0
    weights = swap_weights(["a", "b", "a"], 100, 0)
    assert (weights[0] == weights[2]).all()
    assert (weights[:, 0] == 0).all()


def test_p_is_uniform_under_the_null() -> None:
    """200 trials without a difference: the share of p <= 0.1 lies in 0.1 +- 3 standard errors; measured 0.09."""
    random = np.random.default_rng(0)
    found = [p_of_means(*random.normal(0, 1, (2, 30)), [str(i) for i in range(30)], swaps=200) for _ in range(200)]
    assert 0.03 <= np.mean(np.asarray(found) <= 0.1) <= 0.17


def test_undefined_score_has_no_p() -> None:
    assert randomisation_p(np.array([0.1, np.nan])) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=14))
def test_holm_never_lowers_and_keeps_the_order(p_values) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.asarray(adjusted)[order]) >= 0).all()


def test_stacked_material_gives_each_arms_own_score_when_nothing_is_swapped() -> None:
    first, second = draw_case(0), draw_case(0)
    worse = np.random.default_rng(9).random(first.scores.shape)
    targets = Targets(first.positive, first.known)
    kept, swapped = taken_from(swap_weights(first.patients, 100, 0))
    cases = (
        (Measure("auc"), RankMaterial(first.scores, targets), RankMaterial(worse, targets)),
        (Measure("auc", "macro"), RankMaterial(first.scores, targets), RankMaterial(worse, targets)),
        (
            Measure("report_f1"),
            LabelMaterial(confusion(first.positive, second.scores > 0.5, first.known)),
            LabelMaterial(confusion(first.positive, worse > 0.5, first.known)),
        ),
    )
    for measure, ours, theirs in cases:
        stacked = stack(own_ranks(measure, ours), own_ranks(measure, theirs))
        for weights, alone in ((kept, ours), (swapped, theirs)):
            expected = evaluate([measure], alone, np.ones((len(worse), 1)))[measure][0]
            assert evaluate([measure], stacked, weights)[measure][0] == pytest.approx(expected, abs=1e-12)


def test_ranks_make_the_test_blind_to_an_arms_scale() -> None:
    """The same ranking on another scale is the same arm: p must be 1, which raw scores would not give."""
    case = draw_case(0)
    measure, targets = Measure("auc"), Targets(case.positive, case.known)
    ours, theirs = RankMaterial(case.scores, targets), RankMaterial(case.scores / 10, targets)
    stacked = stack(own_ranks(measure, ours), own_ranks(measure, theirs))
    kept, swapped = (evaluate([measure], stacked, w)[measure] for w in taken_from(swap_weights(case.patients, 200, 0)))
    assert randomisation_p(kept - swapped) == 1.0
