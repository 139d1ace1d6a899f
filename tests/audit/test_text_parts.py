"""Counterfactual, shortcut, swap and consistency rows of students whose behaviour is known."""

from __future__ import annotations

import numpy as np
import pytest

from kdistill.audit.config import AuditConfig
from kdistill.audit.consistency import TORN, consistency_rows
from kdistill.audit.counterfactual import TESTS, counterfactual_rows
from kdistill.audit.material import said_of
from kdistill.audit.resampling import PatientBootstrap, fraction, value_of
from kdistill.audit.rows import AuditRow
from kdistill.audit.shortcut import shortcut_rows
from kdistill.audit.swap import Known, constant_rows, other_patient, swap_row
from kdistill.explain.reading import Reading

from . import planted
from .planted import READER, blind, cheat, faithful, make_cases, pair_said, truth_matrix

CASES = make_cases()
BOOT = PatientBootstrap(CASES.patient_ids, 200, seed=0)
ALL_KNOWN = Known(truth_matrix(), np.ones(len(CASES.studies), dtype=bool))


def rows_of(student: planted.Student, *, head: bool = True, seeds: int = 1) -> dict[str, AuditRow]:
    said = [pair_said(student, head=head)] * seeds
    tests = [planted.test_said(student, head=head)] * seeds
    return {row.test: row for row in counterfactual_rows("arm", said, tests, CASES, BOOT, READER)}


@pytest.mark.parametrize(
    ("student", "test", "value", "passed"),
    [
        (faithful, "counterfactual_necessity_report", 1.0, True),
        (faithful, "counterfactual_necessity_rationale", 1.0, True),
        (faithful, "counterfactual_necessity_head", 1.0, True),
        (faithful, "counterfactual_necessity_probability", 1.0, True),
        (faithful, "counterfactual_sufficiency_report", 1.0, None),
        (faithful, "off_target_stability_report", 1.0, True),
        (faithful, "side_flip_report", 1.0, True),
        (faithful, "side_flip_head", 1.0, True),
        (blind, "counterfactual_necessity_report", 0.0, False),
        (blind, "counterfactual_necessity_probability", 0.0, False),
        (blind, "side_flip_rationale", 0.0, False),
        # Perfectly stable, because it looks at nothing: the baseline beside it says so.
        (blind, "off_target_stability_report", 1.0, True),
    ],
)
def test_counterfactual(student: planted.Student, test: str, value: float, passed: bool | None) -> None:
    row = rows_of(student)[test]
    assert row.value == value and row.passed is passed and row.n > 0
    assert row.ci95 == (value, value)


def test_every_test_has_one_row_in_every_case() -> None:
    assert set(rows_of(faithful)) == set(TESTS)
    headless = rows_of(faithful, head=False)
    assert set(headless) == set(TESTS)
    assert all(row.value is None and "not run: " in (row.reason or "") for t, row in headless.items() if "_head" in t)
    assert headless["counterfactual_necessity_probability"].value is None
    none = {row.test: row for row in counterfactual_rows("arm", None, [], CASES, BOOT, READER)}
    assert set(none) == set(TESTS) and all((r.reason or "").startswith("not run: this arm") for r in none.values())
    empty = make_cases([])
    nothing = list(counterfactual_rows("arm", [], [], empty, BOOT, READER))
    assert {r.reason for r in nothing} == {"not run: the data have no counterfactual pairs"}


def test_stability_baseline_is_agreement_with_a_stranger() -> None:
    row = rows_of(faithful)["off_target_stability_report"]
    assert row.baseline is not None and row.baseline < 1.0
    assert rows_of(blind)["off_target_stability_report"].baseline == 1.0


def test_spontaneous_changes_are_the_baseline_of_necessity() -> None:
    """A student that says Edema in every first image and never in a second one."""
    images = planted.make_images()
    before = said_of([planted.write_row({planted.TIED: "left", "Edema": None}) for _ in images], None, READER)
    after = said_of([planted.write_row({}) for _ in images], None, READER)
    from kdistill.audit.material import PairSaid

    rows = {r.test: r for r in counterfactual_rows("arm", [PairSaid(before, after)], [], CASES, BOOT, READER)}
    row = rows["counterfactual_necessity_report"]
    # All that it said goes, whether removed or not: the value alone would look perfect.
    assert row.value == 1.0 and row.baseline == 1.0


def test_sufficiency_stands_beside_recall() -> None:
    """A student that never says effusion: nothing follows from adding one, and its recall is 0 too."""

    def deaf(shown: planted.Shown) -> planted.Shown:
        return {name: side for name, side in faithful(shown).items() if name != planted.TIED}

    row = rows_of(deaf)["counterfactual_sufficiency_report"]
    assert row.value == 0.0 and row.baseline == 0.0
    assert rows_of(deaf)["counterfactual_necessity_report"].value is None
    assert rows_of(faithful)["counterfactual_sufficiency_report"].baseline == 1.0


def shortcut_of(**students: planted.Student) -> dict[tuple[str, str], AuditRow]:
    said = {name: [pair_said(student)] for name, student in students.items()}
    return {(row.test, row.arm): row for row in shortcut_rows(said, CASES, BOOT, AuditConfig())}


def test_shortcut_effect_and_losses() -> None:
    rows = shortcut_of(full=faithful, report_only=cheat)
    for test in ("shortcut_effect_report", "shortcut_effect_head", "shortcut_f1_loss_report", "shortcut_auc_loss"):
        assert rows[test, "full"].value == 0.0, test
        assert rows[test, "report_only"].value == 1.0, test
    assert rows["shortcut_effect_probability", "report_only"].value == pytest.approx(0.8)
    versus = rows["shortcut_effect_report_vs_report_only", "full"]
    assert (versus.value, versus.baseline, versus.passed) == (0.0, 1.0, True)
    assert rows["shortcut_f1_loss_report_vs_report_only", "full"].passed is True
    absent = rows["shortcut_effect_report_vs_full_no_where", "full"]
    assert absent.value is None and absent.reason == "not run: the recipe has no arm full_no_where"


def test_shortcut_comparison_fails_where_the_arm_is_moved_as_much() -> None:
    rows = shortcut_of(full=cheat, report_only=cheat)
    assert rows["shortcut_effect_report_vs_report_only", "full"].passed is False
    assert rows["shortcut_f1_loss_report_vs_report_only", "full"].passed is False


def test_shortcut_without_pairs_is_not_run() -> None:
    rows = list(shortcut_rows({"full": [pair_said(faithful)]}, make_cases([]), BOOT, AuditConfig()))
    assert rows and all(row.value is None and (row.reason or "").startswith("not run: ") for row in rows)


@pytest.mark.parametrize(("student", "passed"), [(faithful, True), (blind, False)])
def test_swap(student: planted.Student, passed: bool) -> None:
    row = swap_row("arm", [planted.test_said(student)], ALL_KNOWN, CASES, BOOT)
    assert row.passed is passed
    if student is blind:
        assert row.value == 0.0


def test_a_study_of_which_nothing_is_known_is_no_study_without_findings() -> None:
    said, studies = planted.test_said(faithful), np.arange(len(CASES.studies)) % 2 == 0
    row = swap_row("arm", [said], Known(truth_matrix() & studies[:, None], studies), CASES, BOOT)
    assert (row.baseline, row.n) == (1.0, 4)


class GreyReader:
    """Says "edema" of an even image of one grey, and nothing of any other."""

    name, size_px, thresholds = "grey", 8, None

    def __init__(self, grey: int) -> None:
        self.grey = grey

    def read(self, images: np.ndarray) -> list[Reading]:
        texts = ["Edema." if (image == self.grey).all() else "No acute abnormality." for image in images]
        return [Reading(None, None, None, text, "", text) for text in texts]


def test_the_blank_image_is_the_students_own_grey() -> None:
    said, grey = planted.test_said(faithful), 51
    rows = constant_rows(
        "arm", said, GreyReader(grey), ALL_KNOWN, CASES, BOOT, READER, mean_grey=grey, num_noise=2, seed=0
    )
    drop = {row.test: row.value for row in rows}
    # Edema is there in 4 of 8 studies, effusion in 4: "edema" of all has F1 8 / 16, "nothing" 0.
    assert drop == {"blank_image": pytest.approx(0.5), "noise_image": pytest.approx(1.0)}


def test_swap_partners_are_other_patients() -> None:
    patients = ["a", "a", "a", "b", "c", "a"]
    partner = other_patient(patients)
    assert all(patients[row] != patients[other] for row, other in enumerate(partner))


def consistency_of(rows: list[dict]) -> dict[str, AuditRow]:
    said = said_of(rows, planted.THRESHOLDS, READER)
    return {row.test: row for row in consistency_rows("arm", [said], CASES, BOOT)}


def test_consistency() -> None:
    good = consistency_of([planted.write_row(faithful(planted.study_shows(n))) for n in range(8)])
    assert good["rationale_vs_probability"].value == 1.0 and good["rationale_vs_probability"].passed is True
    assert good["degenerate_report"].passed is True and good["prior_mentioned_report"].passed is True
    assert good["rationale_negations"].value is None
    assert good["report_rationale_agreement"].value == 1.0
    assert (good["report_rationale_agreement"].baseline or 0.0) < 1.0
    bad = [planted.write_row(faithful(planted.study_shows(n))) for n in range(8)]
    for row in bad:
        row["rationale"] = "No pleural effusion. " * 3 + "The heart is unchanged."
    found = consistency_of(bad)
    assert found["report_rationale_agreement"].value == 0.0
    # The effusion is denied in all 8 studies, and there in 4 of them.
    assert found["rationale_negations"].value == 0.5 and found["rationale_negations"].passed is False
    assert found["degenerate_rationale"].value == 1.0 and found["degenerate_rationale"].passed is False
    assert found["prior_mentioned_rationale"].value == 1.0 and found["prior_mentioned_rationale"].passed is False


def test_contradictions_are_counted_beside_those_of_the_test_reports() -> None:
    rows = [planted.write_row(faithful(planted.study_shows(n))) for n in range(8)]
    good = consistency_of(rows)
    for row in (good[test] for test in TORN):
        assert row.value == 0.0 and row.n == 8 and row.passed is None
    assert good["contradiction_report"].baseline == 0.0
    for row in rows[:2]:  # these show an effusion
        row["findings"] += " No pleural effusion."
    for row in rows[:4]:
        row["rationale"] = "No edema. Mild edema."
    rows[4]["rationale"] = "No pleural effusion. No edema."  # this study shows both
    found = consistency_of(rows)
    assert [found[test].value for test in TORN] == [2 / 8, 4 / 8, 1 / 8]
    for row in rows:
        row["rationale"] = ""
    silent = consistency_of(rows)
    assert silent["contradiction_report"].value == 2 / 8
    assert [silent[test].value for test in TORN[1:]] == [None, None]


def test_two_degrees_of_one_finding_are_counted() -> None:
    rows = [planted.write_row(faithful(planted.study_shows(n))) for n in range(8)]
    for row in rows[:3]:
        row["findings"] = "Mild cardiomegaly. Severe cardiomegaly."
    rows[0]["rationale"] = "Mild edema. Moderate edema."
    found = consistency_of(rows)
    assert found["two_degrees_report"].value == 3 / 8 and found["two_degrees_report"].baseline == 0.0
    assert found["two_degrees_rationale"].value == 1 / 8 and found["two_degrees_rationale"].passed is None
    assert found["contradiction_report"].value == 0.0


def test_ratio_is_the_mean_over_seeds_of_ratios_of_sums() -> None:
    boot = PatientBootstrap(["a", "b"], 500, seed=1)
    first, second = fraction(["a", "a", "b"], [1, 0, 1]), fraction(["a", "b"], [0, 1], [1, 3])
    found = boot.ratio([first, second])
    assert found.value == pytest.approx((2 / 3 + 1 / 4) / 2) == value_of([first, second])
    # Of two patients a resample holds aa, ab or bb: three possible values, all that occur.
    expected = {(1 / 2 + 0) / 2, (2 / 3 + 1 / 4) / 2, (1 + 1 / 3) / 2}
    assert found.samples is not None and set(np.round(found.samples, 9)) == set(np.round(list(expected), 9))
    assert boot.ratio([fraction(["a"], [0], [0])]).value is None
