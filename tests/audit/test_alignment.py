"""The row `alignment` falls with every flip in one planted rationale, and holds where it says the same otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kdistill.audit.alignment import alignment_rows, load_readings
from kdistill.audit.config import AuditConfig
from kdistill.audit.material import PREDICTIONS
from kdistill.audit.rows import AuditRow
from kdistill.errors import InputError
from kdistill.observations import OBSERVATIONS
from kdistill.teacher.reading import Guess, Reading, ReportReader, SentenceReader, Thresholds

CONFIG = AuditConfig(arm="full", alignment_controls=("shuffled_teacher",), num_bootstrap=100)
#: What the reports say, and what a student that learned of them writes: six studies, of which one states nothing.
REPORTS = (
    "Moderate left consolidation in the lower zone. No pneumothorax.",
    "Large right pleural effusion. No cardiomegaly.",
    "Possible right pneumonia in the upper zone.",
    "Mild cardiomegaly. No pleural effusion.",
    "Left rib fracture.",
    "No acute abnormality.",
)
FAITHFUL = (
    "Moderate left consolidation in the lower zone. Consolidation fills the airspaces. No pneumothorax.",
    "No cardiomegaly. Severe right pleural effusion. Pleural effusion blunts the costophrenic angle.",
    "Possible right pneumonia in the upper zone.",
    "Mild cardiomegaly. No pleural effusion.",
    "Left fracture.",
    "No acute abnormality.",
)


class Unasked(SentenceReader):
    """The reports name what they state: the language model is asked about nothing."""

    def __init__(self) -> None:
        pass

    def guess(self, sentences: Iterable[str]) -> dict[str, Guess]:
        assert not list(sentences)
        return {}


@pytest.fixture(scope="module")
def teacher() -> ReportReader:
    return ReportReader(Unasked(), Thresholds(posterior=0.8, margin=1.0, cases=0))


@pytest.fixture(scope="module")
def readings(teacher: ReportReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rationales")
    write_readings(folder, teacher.read_many(REPORTS))
    return folder


def write_readings(folder: Path, readings: Sequence[Reading], split: str = "validate") -> None:
    lines = [
        json.dumps({"study_id": f"s{n}", "split": split, **reading.model_dump(mode="json")})
        for n, reading in enumerate(readings)
    ]
    (folder / "readings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows_of(readings: Path, folder: Path, arms: Mapping[str, Sequence[str | None]]) -> dict[tuple[str, str], AuditRow]:
    """The rows of arms that wrote these rationales of the validation studies (and something of a test study)."""
    students = {}
    for arm, rationales in arms.items():
        rows = [
            {"study_id": f"s{n}", "patient_id": f"p{n}", "split": "validate", "rationale": text}
            for n, text in enumerate(rationales)
        ]
        rows.append({"study_id": "t0", "patient_id": "q0", "split": "test", "rationale": "Severe edema."})
        path = students[arm, 0] = folder / arm
        path.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path / PREDICTIONS)
    found = alignment_rows(students, load_readings(readings), CONFIG)
    return {(row.test, row.arm): row for row in found}


def value_of(readings: Path, folder: Path, rationales: Sequence[str]) -> float:
    value = rows_of(readings, folder, {"full": rationales})["alignment", "full"].value
    assert value is not None
    return value


def changed(number: int, text: str) -> list[str]:
    return [text if n == number else said for n, said in enumerate(FAITHFUL)]


def test_a_rationale_that_says_what_the_teacher_reads_is_aligned(readings: Path, tmp_path: Path) -> None:
    row = rows_of(readings, tmp_path, {"full": FAITHFUL})["alignment", "full"]
    # On the normal film neither states a finding: it has no say.
    assert (row.value, row.ci95, row.n) == (1.0, (1.0, 1.0), 5)


@pytest.mark.parametrize(
    ("kind", "text", "study"),
    [
        ("polarity", "No consolidation. No pneumothorax.", 1 / 2),
        ("certainty", "Possible moderate left consolidation in the lower zone. No pneumothorax.", 1 / 2),
        ("side", "Moderate right consolidation in the lower zone. No pneumothorax.", (3 / 4 + 1) / 2),
        ("zone", "Moderate left consolidation in the upper zone. No pneumothorax.", (3 / 4 + 1) / 2),
        ("severity", "Severe left consolidation in the lower zone. No pneumothorax.", (3 / 4 + 1) / 2),
        ("observation", "Moderate left atelectasis in the lower zone. No pneumothorax.", 1 / 2),
        ("silence", "No pneumothorax.", 2 / 3),
    ],
)
def test_one_flip_in_one_rationale_lowers_the_row_by_what_it_is_worth(
    readings: Path, tmp_path: Path, kind: str, text: str, study: float
) -> None:
    assert value_of(readings, tmp_path, changed(0, text)) == pytest.approx((4 + study) / 5, abs=1e-6), kind


@pytest.mark.parametrize(
    "text",
    [
        "There is moderate consolidation in the left lower zone. There is no evidence of pneumothorax.",
        "Negative for pneumothorax. The film shows moderate consolidation in the left lower zone.",
    ],
)
def test_other_words_for_the_same_cost_nothing(readings: Path, tmp_path: Path, text: str) -> None:
    assert value_of(readings, tmp_path, changed(0, text)) == 1.0


def test_the_control_writes_in_the_same_style_about_the_wrong_study(readings: Path, tmp_path: Path) -> None:
    shuffled = [*FAITHFUL[1:], FAITHFUL[0]]
    rows = rows_of(
        readings, tmp_path, {"full": FAITHFUL, "shuffled_teacher": shuffled, "report_only": [None] * len(FAITHFUL)}
    )
    own, control = rows["alignment", "full"], rows["alignment", "shuffled_teacher"]
    assert control.value is not None and control.value < 0.3 and control.n == 6
    versus = rows["alignment_vs_shuffled_teacher", "full"]
    assert (versus.value, versus.baseline, versus.passed, versus.n) == (own.value, control.value, True, own.n)
    assert rows["alignment", "report_only"].reason == "not run: this arm writes no rationale"
    same = rows_of(readings, tmp_path, {"full": FAITHFUL, "shuffled_teacher": FAITHFUL})
    assert same["alignment_vs_shuffled_teacher", "full"].passed is False


def test_the_teacher_states_one_fact_of_an_observation_as_in_its_rationales(
    teacher: ReportReader, tmp_path: Path
) -> None:
    """Left and right make bilateral, and the greater degree stands."""
    report = "Mild left pleural effusion. Moderate right pleural effusion."
    write_readings(tmp_path, teacher.read_many([report]))
    (facts,) = load_readings(tmp_path).values()
    assert facts["Pleural Effusion"] == ("Pleural Effusion", "present", "bilateral", None, "moderate")
    assert set(facts) <= set(OBSERVATIONS) - {"No Finding"}


def test_only_validation_studies_are_read_and_damage_is_named(readings: Path, tmp_path: Path) -> None:
    assert load_readings(tmp_path) == {}
    path = tmp_path / "readings.jsonl"
    whole = (readings / path.name).read_text(encoding="utf-8")
    path.write_text(whole.replace('"validate"', '"train"'), encoding="utf-8")
    assert load_readings(tmp_path) == {}
    assert [row.value for row in alignment_rows({("full", 0): tmp_path}, {}, CONFIG)] == [None]
    for broken in ('{"study_id": "s9", "split": "validate"}', "[1]", "{"):
        path.write_text(whole + broken + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"readings\.jsonl line 7"):
            load_readings(tmp_path)
