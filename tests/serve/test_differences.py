"""Where two explanations of one image differ, on readings whose answer is known."""

from __future__ import annotations

import pytest

from kdistill.explain.build import explain
from kdistill.explain.explanation import Explanation
from kdistill.explain.reading import Reading
from kdistill.serve.differences import differences, stated

from ..explain.conftest import make_reading, radiograph
from .serving import context_of

CONTEXT = context_of("any")


def told(reading: Reading) -> Explanation:
    return explain("x", radiograph(), reading, CONTEXT)


def texts(a: Reading, b: Reading) -> list[tuple[str, str, str]]:
    return [(found.observation, found.kind, found.text) for found in differences(told(a), told(b))]


def test_a_finding_that_only_one_states() -> None:
    a = make_reading(findings="There is a left pleural effusion. No edema.", rationale="Left pleural effusion.")
    b = make_reading(findings="No pleural effusion. Possible edema.")
    assert texts(a, b) == [
        ("Edema", "stated", "Only B states it (report)."),
        ("Pleural Effusion", "stated", "Only A states it (report and rationale)."),
    ]
    assert [found.only for found in differences(told(a), told(b))] == ["b", "a"]


def test_possible_and_present_are_both_statements() -> None:
    assert texts(make_reading(findings="Possible edema."), make_reading(findings="There is edema.")) == []


def test_probabilities_on_different_sides_of_their_own_thresholds() -> None:
    a, b = make_reading({"Edema": 0.62, "Fracture": 0.9}), make_reading({"Edema": 0.31, "Fracture": 0.6})
    assert texts(a, b) == [
        ("Edema", "threshold", "A is above its threshold (0.62 against 0.50), B below (0.31 against 0.50)."),
    ]
    assert texts(b, a) == [
        ("Edema", "threshold", "B is above its threshold (0.62 against 0.50), A below (0.31 against 0.50)."),
    ]
    near = texts(make_reading({"Edema": 0.5004}), make_reading({"Edema": 0.4}))
    assert near[0][2].startswith("A is above its threshold (0.5004 against 0.5000)")  # never "0.50 is above 0.50"


def test_thresholds_are_each_models_own() -> None:
    """The same probability may lie on different sides."""
    a = told(make_reading({"Edema": 0.45}))
    b = a.model_copy(
        update={
            "observations": tuple(
                item.model_copy(update={"threshold": 0.4}) if item.name == "Edema" else item for item in a.observations
            )
        }
    )
    assert [(found.observation, found.kind, found.only) for found in differences(a, b)] == [("Edema", "threshold", "b")]


def test_sides_of_the_body() -> None:
    def effusion(side: str, probability: float = 0.9, findings: str = "") -> Reading:
        return make_reading({"Pleural Effusion": probability}, {"Pleural Effusion": side}, findings)

    assert texts(effusion("left"), effusion("right")) == [("Pleural Effusion", "side", "A says left, B says right.")]
    assert texts(effusion("left"), effusion("left")) == []
    # What is absent has no side: nothing is said against the other's.
    assert [kind for _, kind, _ in texts(effusion("left"), effusion("right", 0.05))] == ["threshold"]
    # Where no classifier names a side, the words do.
    written = make_reading(findings="There is a left pleural effusion.")
    other = make_reading(findings="There is a right pleural effusion.")
    assert texts(written, other) == [("Pleural Effusion", "side", "A says left, B says right.")]


@pytest.mark.parametrize("which", [0, 1])
def test_an_abstention_says_nothing_that_could_differ(which: int) -> None:
    pair = [told(make_reading({"Edema": 0.9}, findings="There is edema.")), told(make_reading())]
    pair[which] = pair[which].model_copy(update={"abstained": True})
    assert differences(*pair) == ()


def test_equal_answers_do_not_differ() -> None:
    reading = make_reading({"Edema": 0.9}, findings="There is edema.", rationale="Edema.")
    assert texts(reading, reading) == []
    assert stated(told(reading)) == {"Edema": ("report", "rationale")}
