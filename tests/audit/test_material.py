"""What is known of the test studies: everything, or it is no reference."""

from __future__ import annotations

from dataclasses import replace

from kdistill.observations import OBSERVATIONS

from .planted import make_cases


def test_truth_of_a_few_observations_is_no_truth_of_all() -> None:
    cases = make_cases()
    matrix = cases.truth_matrix()
    assert matrix is not None and matrix.shape == (len(cases.studies), len(OBSERVATIONS))
    first = cases.studies[0].study_id
    partial = {name: state for name, state in cases.truth[first].truth.items() if name != "Edema"}
    truth = {**cases.truth, first: cases.truth[first].model_copy(update={"truth": partial})}
    assert replace(cases, truth=truth).truth_matrix() is None
    assert replace(cases, truth={}).truth_matrix() is None
