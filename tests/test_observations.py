from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdistill import observations as obs
from kdistill.observations import OBSERVATIONS, OBSERVATIONS_5, PARENT, as_binary, with_parents

STATES = st.dictionaries(st.sampled_from(OBSERVATIONS), st.sampled_from([1, 0, -1, None]))


def test_order_is_that_of_the_official_labeler(shared_data):
    with (shared_data / "chexpert_labeler_reference" / "labeled_reports.csv").open() as file:
        assert next(csv.reader(file))[1:] == list(OBSERVATIONS)


def test_subset_and_hierarchy_name_observations():
    assert set(OBSERVATIONS_5) < set(OBSERVATIONS)
    assert set(PARENT) | set(PARENT.values()) <= set(OBSERVATIONS)
    assert len(obs.FINDINGS) == 13 and obs.NO_FINDING not in obs.FINDINGS


@pytest.mark.parametrize(
    ("state", "positive", "negative", "masked"), [(1, 1, 1, 1), (0, 0, 0, 0), (-1, 1, 0, None), (None, 0, 0, None)]
)
def test_uncertain_policies(state, positive, negative, masked):
    assert as_binary(state, "positive") == positive
    assert as_binary(state, "negative") == negative
    assert as_binary(state, "masked") == masked


def test_unknown_state_is_refused():
    with pytest.raises(ValueError, match="not a label state"):
        as_binary(2, "positive")  # type: ignore[arg-type]


def test_grandparents_become_positive():
    assert with_parents({"Pneumonia": 1})["Lung Opacity"] == 1


@given(STATES)
def test_parents_are_only_raised_and_twice_is_once(labels):
    once = with_parents(labels)
    assert with_parents(once) == once
    assert all(once[name] == labels.get(name) or once[name] == 1 for name in OBSERVATIONS)
