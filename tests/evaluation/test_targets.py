import numpy as np
import pytest

from kdistill.evaluation.targets import BLANK, UNKNOWN, binarise, columns_of, mask_silent_columns, state_matrix
from kdistill.observations import INDEX, OBSERVATIONS, OBSERVATIONS_5, as_binary, empty_labels


def test_uncertain_policies_are_not_swapped() -> None:
    """Mutation spot: flipping the uncertain policy must fail here."""
    states = np.array([[1, 0, -1, BLANK, UNKNOWN]], dtype=np.int8)
    positive, negative, masked = (binarise(states, policy) for policy in ("positive", "negative", "masked"))
    assert positive.positive.tolist() == [[True, False, True, False, False]]
    assert negative.positive.tolist() == [[True, False, False, False, False]]
    assert positive.known.tolist() == negative.known.tolist() == [[True, True, True, True, False]]
    assert masked.known.tolist() == [[True, True, False, False, False]]


@pytest.mark.parametrize("policy", ["positive", "negative", "masked"])
@pytest.mark.parametrize("state", [1, 0, -1, None])
def test_matrix_form_agrees_with_the_scalar_rule(policy, state) -> None:
    targets = binarise(state_matrix([{"Edema": state}]), policy)
    column = INDEX["Edema"]
    expected = as_binary(state, policy)
    assert bool(targets.known[0, column]) == (expected is not None)
    assert bool(targets.positive[0, column]) == (expected == 1)


def test_absent_column_is_unknown_and_never_negative() -> None:
    states = state_matrix([{"Edema": 0}, empty_labels()])
    assert (states[0] == UNKNOWN).sum() == 13
    assert (states[1] == BLANK).all()
    assert not binarise(states, "negative").known[0, INDEX["Fracture"]]


def test_column_that_a_source_never_fills_is_unknown_there_only() -> None:
    blank, edema = empty_labels(), empty_labels() | {"Edema": 1}
    states, marked = mask_silent_columns(state_matrix([blank, edema, edema]), ["nih", "covid", "covid"])
    assert (states[0] == UNKNOWN).all()
    assert states[1, INDEX["Edema"]] == 1
    assert (states[1] == UNKNOWN).sum() == 13
    assert marked == 14 + 13


def test_columns_do_not_depend_on_the_order_of_names() -> None:
    assert columns_of(OBSERVATIONS_5[::-1]).tolist() == columns_of(OBSERVATIONS_5).tolist()
    assert [OBSERVATIONS[c] for c in columns_of(OBSERVATIONS_5)] == sorted(OBSERVATIONS_5, key=OBSERVATIONS.index)
