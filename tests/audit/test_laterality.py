"""Sides of findings: right, opposite, not named; each student's behaviour is planted."""

from __future__ import annotations

import pytest

from kdistill.audit.laterality import TESTS, laterality_rows
from kdistill.audit.material import Cases, Said, said_of
from kdistill.audit.resampling import PatientBootstrap
from kdistill.audit.rows import AuditRow
from kdistill.records import Side, Truth

from .planted import READER, THRESHOLDS, Shown, Student, make_study, truth_of, write_row

EFFUSION, NODULE = "Pleural Effusion", "Lung Lesion"
#: Effusions of all three sides, some beside a nodule; a heart, which has none; a film without findings.
SHOWN: tuple[Shown, ...] = (
    {EFFUSION: "left"},
    {EFFUSION: "right", NODULE: "left"},
    {EFFUSION: "bilateral", "Cardiomegaly": None},
    {EFFUSION: "left", NODULE: "right"},
    {},
    {EFFUSION: "right"},
)


def make_cases(*, with_sides: bool = True) -> Cases:
    studies = tuple(make_study(number) for number in range(len(SHOWN)))
    truth = {
        study.study_id: Truth(
            study_id=study.study_id,
            truth=truth_of(shown),
            sides={name: side for name, side in shown.items() if side is not None} if with_sides else {},
        )
        for study, shown in zip(studies, SHOWN, strict=True)
    }
    return Cases(studies, truth, ())


def said_by(student: Student, *, head: bool = True) -> Said:
    return said_of([write_row(student(shown), head=head) for shown in SHOWN], THRESHOLDS if head else None, READER)


def rows_of(*students: Student, head: bool = True, with_sides: bool = True) -> dict[str, AuditRow]:
    cases = make_cases(with_sides=with_sides)
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)
    rows = laterality_rows("arm", [said_by(student, head=head) for student in students], cases, boot, READER)
    return {row.test: row for row in rows}


def faithful(shown: Shown) -> Shown:
    return shown


def mirrored(shown: Shown) -> Shown:
    other: dict[Side, Side] = {"left": "right", "right": "left"}
    return {name: other.get(side, side) if side else None for name, side in shown.items()}


def always_left(shown: Shown) -> Shown:
    return {name: "left" if side else None for name, side in shown.items()}


def without_sides(shown: Shown) -> Shown:
    return dict.fromkeys(shown)


def inventor(shown: Shown) -> Shown:
    """Says a nodule on the right of every film, there or not."""
    return {**shown, NODULE: "right"}


@pytest.mark.parametrize("slot", ["report", "rationale", "head"])
@pytest.mark.parametrize(
    ("student", "accuracy", "wrong", "n"),
    [
        (faithful, 1.0, 0.0, 7),
        # Both sides stay both: right, and never opposite.
        (mirrored, 1 / 7, 6 / 7, 7),
        # Left where both are: wrong, but not the opposite side.
        (always_left, 3 / 7, 3 / 7, 7),
        # What is not there has no side: of its nodules the two that are there count.
        (inventor, 6 / 7, 1 / 7, 7),
    ],
)
def test_right_and_opposite_sides(slot: str, student: Student, accuracy: float, wrong: float, n: int) -> None:
    rows = rows_of(student)
    right, opposite = rows[f"side_accuracy_{slot}"], rows[f"wrong_side_{slot}"]
    assert right.value == pytest.approx(accuracy, abs=1e-6) and opposite.value == pytest.approx(wrong, abs=1e-6)
    assert right.n == opposite.n == n


def test_the_baseline_is_another_studys_side() -> None:
    """Effusions (left, right, both, left, right) beside left, right, left, right, both; nodules trade places."""
    rows = rows_of(faithful)
    assert rows["side_accuracy_report"].baseline == pytest.approx(2 / 7, abs=1e-6)
    assert rows["wrong_side_report"].baseline == pytest.approx(3 / 7, abs=1e-6)
    # Who always says the same learns nothing from the film: value and baseline are one.
    constant = rows_of(always_left)["side_accuracy_report"]
    assert constant.value == constant.baseline


def test_seeds_are_averaged() -> None:
    assert rows_of(faithful, mirrored)["side_accuracy_report"].value == pytest.approx(4 / 7, abs=1e-6)


def test_texts_without_sides_have_no_case() -> None:
    rows = rows_of(without_sides)
    assert rows["side_accuracy_report"].value is None
    assert rows["side_accuracy_report"].reason == "not run: no case to measure it on"


def test_without_truth_or_head_it_says_so() -> None:
    rows = rows_of(faithful, with_sides=False)
    assert set(rows) == set(TESTS)
    assert {row.reason for row in rows.values()} == {"not run: the data give no side of a finding"}
    headless = rows_of(faithful, head=False)
    assert set(headless) == set(TESTS) and headless["side_accuracy_report"].value == 1.0
    assert headless["wrong_side_head"].reason == "not run: this arm predicts no side"
