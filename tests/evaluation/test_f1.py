import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as sklearn_f1

from kdistill.errors import InputError
from kdistill.evaluation.f1 import (
    confusion,
    f1_example,
    f1_macro,
    f1_micro,
    f1_per_observation,
    f1_score,
    pool,
)

from .matrices import draw_case


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("ours", "theirs"), [("micro", "micro"), ("macro", "macro"), ("example", "samples")])
def test_equals_scikit_learn(seed, ours, theirs) -> None:
    case = draw_case(seed)
    predicted = case.scores > 0.5
    expected = sklearn_f1(case.positive, predicted, average=theirs, zero_division=0)
    assert f1_score(case.positive, predicted, ours) == pytest.approx(expected, abs=1e-12)  # worst seen 1.1e-16


def test_weights_equal_scikit_learns_sample_weights() -> None:
    case = draw_case(1)
    predicted, weights = case.scores > 0.5, np.random.default_rng(0).integers(0, 4, len(case.positive)).astype(float)
    counts, column = confusion(case.positive, predicted), weights[:, None]
    pooled = pool(counts, column)
    for value, average in (
        (f1_micro(pooled), "micro"),
        (f1_macro(pooled), "macro"),
        (f1_example(counts, column), "samples"),
    ):
        expected = sklearn_f1(case.positive, predicted, average=average, sample_weight=weights, zero_division=0)
        assert value[0] == pytest.approx(expected, abs=1e-12)
    expected = sklearn_f1(case.positive, predicted, average=None, sample_weight=weights)
    assert f1_per_observation(pooled)[0] == pytest.approx(expected, abs=1e-12)


def test_micro_and_macro_are_not_swapped() -> None:
    """Mutation spot: a common observation always right, a rare one always missed. By hand: micro 18/20, macro 1/2."""
    reference = np.array([[1, 0]] * 9 + [[0, 1]] * 2, dtype=bool)
    predicted = np.array([[1, 0]] * 9 + [[0, 0]] * 2, dtype=bool)
    assert f1_score(reference, predicted, "micro") == pytest.approx(18 / 20)
    assert f1_score(reference, predicted, "macro") == pytest.approx(0.5)
    assert f1_score(reference, predicted, "example") == pytest.approx(9 / 11)


def test_flattened_arrays_are_refused_because_that_is_accuracy() -> None:
    case = draw_case(0)
    flat, predicted = case.positive.ravel(), (case.scores > 0.5).ravel()
    trap = sklearn_f1(flat, predicted, average="micro")
    assert trap == pytest.approx(accuracy_score(flat, predicted))
    assert trap > f1_score(case.positive, case.scores > 0.5, "micro") + 0.1
    with pytest.raises(InputError, match="accuracy"):
        confusion(flat, predicted)


def test_uncertain_labels_must_be_decided_first() -> None:
    with pytest.raises(InputError, match="policy"):
        confusion(np.array([[1, -1]]), np.array([[1, 0]]))


def test_unknown_labels_count_nowhere() -> None:
    case = draw_case(2)
    predicted = case.scores > 0.5
    scrambled = np.where(case.known, predicted, ~predicted)
    for average in ("micro", "macro", "example"):
        assert f1_score(case.positive, predicted, average, case.known) == f1_score(
            case.positive, scrambled, average, case.known
        )


def test_undefined_without_a_positive_case() -> None:
    reference, predicted = np.zeros((3, 2), bool), np.array([[1, 0], [0, 0], [0, 0]], bool)
    assert np.isnan(f1_score(reference, predicted, "micro"))
    assert np.isnan(f1_score(reference, predicted, "macro"))
    one = reference.copy()
    one[0, 0] = True
    assert f1_score(one, predicted, "macro") == 1.0  # the second observation cannot be scored and is left out


@given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_averages_do_not_depend_on_the_order_of_observations(seed, order) -> None:
    case = draw_case(seed, num=20, observations=6)
    predicted = case.scores > 0.5
    for average in ("micro", "macro", "example"):
        first = f1_score(case.positive, predicted, average, case.known)
        second = f1_score(case.positive[:, order], predicted[:, order], average, case.known[:, order])
        assert first == pytest.approx(second, abs=1e-12, nan_ok=True)
