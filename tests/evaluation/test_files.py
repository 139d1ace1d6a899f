import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from kdistill.errors import InputError
from kdistill.evaluation.config import EvaluationConfig
from kdistill.evaluation.files import FileScores, score_files
from kdistill.observations import OBSERVATIONS

from .run_folders import PlainLabeler, draw_truth, write_text

CONFIG = EvaluationConfig(num_bootstrap=100)
TRUTH = draw_truth(40)


def write_csv(path, rows) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def label_rows(prefix: str = "") -> list[dict]:
    return [
        {"study_id": f"s{i}", "patient_id": f"p{i}"}
        | {prefix + n: int(v) for n, v in zip(OBSERVATIONS, stated, strict=True)}
        for i, stated in enumerate(TRUTH)
    ]


def probability_rows() -> list[dict]:
    return [
        {"study_id": f"s{i}"} | {n: 0.9 if v else 0.2 for n, v in zip(OBSERVATIONS, stated, strict=True)}
        for i, stated in enumerate(TRUTH)
    ]


def report_rows() -> list[dict]:
    return [{"study_id": f"s{i}", "report": write_text(stated)} for i, stated in enumerate(TRUTH)]


def score(reference, predictions, **more) -> FileScores:
    return score_files(reference, predictions, labeler=PlainLabeler(), config=CONFIG, **more)


def value(result: FileScores, name: str, average: str | None = "micro", uncertain: str | None = "negative"):
    (found,) = [
        s
        for s in result.scores
        if (s.name, s.average, s.uncertain, s.observation) == (name, average, uncertain, None)
        and s.observations in (14, None)
        and s.arm != "prevalence_only"
    ]
    return found.value


def test_csv_of_labels_against_csv_of_probabilities(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    write_csv(tmp_path / "p.csv", probability_rows())
    result = score(tmp_path / "r.csv", tmp_path / "p.csv")
    assert value(result, "auc") == 1.0
    assert not any(s.name == "report_f1" for s in result.scores)
    assert result.notes == ()
    assert any(s.arm == "prevalence_only" for s in result.scores)
    assert {s.reference for s in result.scores} == {"labels"}


def test_reports_against_truth_and_reports(tmp_path) -> None:
    reference = [a | {"report": b["report"]} for a, b in zip(label_rows("truth:"), report_rows(), strict=True)]
    write_csv(tmp_path / "r.csv", reference)
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row) for row in report_rows()))
    result = score(tmp_path / "r.csv", tmp_path / "p.jsonl")
    assert {s.reference for s in result.scores if s.name == "report_f1"} == {"truth", "report"}
    assert all(s.value == 1.0 for s in result.scores if s.name == "report_f1" and s.average == "micro")
    assert value(result, "bleu4", None, None) == pytest.approx(1)


def test_parquet_with_a_list_of_probabilities(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    rows = [{"study_id": r["study_id"], "probabilities": [r[n] for n in OBSERVATIONS]} for r in probability_rows()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert value(score(tmp_path / "r.csv", tmp_path / "p.parquet"), "auc") == 1.0


def test_output_of_the_label_command_is_a_reference(tmp_path) -> None:
    lines = [{"id": row["study_id"], "labels": {n: row[n] for n in OBSERVATIONS}} for row in label_rows()]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    write_csv(tmp_path / "p.csv", probability_rows())
    result = score(tmp_path / "r.jsonl", tmp_path / "p.csv")
    assert value(result, "auc") == 1.0
    assert any("patient_id" in note for note in result.notes)


def test_studies_without_a_patient_are_no_one_patient(tmp_path) -> None:
    """Half of the patients are not named: taken together they were drawn, and left out, as one patient."""
    rows = label_rows("truth:")
    write_csv(
        tmp_path / "r.csv", [{**row, "patient_id": row["patient_id"] if n % 2 else " "} for n, row in enumerate(rows)]
    )
    write_csv(tmp_path / "p.csv", probability_rows())
    result = score(tmp_path / "r.csv", tmp_path / "p.csv")
    assert {found.num_patients for found in result.scores} == {40}
    assert result.notes == (
        "20 studies without a patient_id count as patients of their own, intervals may be too narrow",
    )


def test_a_patient_is_named_by_either_file(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", [{**row, "patient_id": ""} for row in label_rows()])
    write_csv(tmp_path / "p.csv", [{**row, "patient_id": f"p{n // 2}"} for n, row in enumerate(probability_rows())])
    result = score(tmp_path / "r.csv", tmp_path / "p.csv")
    assert {found.num_patients for found in result.scores} == {20} and not result.notes


def test_fewer_probability_columns_are_scored_on_those_alone(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    rows = [{k: v for k, v in row.items() if k in ("study_id", "Edema", "Pneumonia")} for row in probability_rows()]
    write_csv(tmp_path / "p.csv", rows)
    result = score(tmp_path / "r.csv", tmp_path / "p.csv")
    (macro,) = [
        s
        for s in result.scores
        if (s.name, s.average, s.observations, s.uncertain) == ("auc", "macro", 14, "negative")
        and s.arm != "prevalence_only"
    ]
    assert macro.value == 1.0
    assert "2 of 14" in (macro.reason or "")


def test_mismatched_studies_are_named_and_counted(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    rows = probability_rows()
    rows[3]["study_id"] = "stranger"
    write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(InputError, match="1 of 40 reference studies have no prediction.*'s3'") as caught:
        score(tmp_path / "r.csv", tmp_path / "p.csv")
    assert "1 of 40 predictions have no reference study ('stranger')" in str(caught.value)
    result = score(tmp_path / "r.csv", tmp_path / "p.csv", allow_missing=True)
    assert any("'s3'" in note for note in result.notes)
    assert {s.n for s in result.scores if s.average == "micro"} == {39}


def test_all_problems_are_told_at_once_with_their_lines(tmp_path) -> None:
    rows = label_rows()
    rows[0]["Edema"] = 2
    rows[1]["study_id"] = "s0"
    rows[2]["study_id"] = ""
    write_csv(tmp_path / "r.csv", rows)
    write_csv(tmp_path / "p.csv", probability_rows())
    with pytest.raises(InputError, match="3 problems") as caught:
        score(tmp_path / "r.csv", tmp_path / "p.csv")
    for part in ("line 2: Edema: '2'", "line 3: the same study_id as line 2", "line 4: no study_id"):
        assert part in str(caught.value)


@pytest.mark.parametrize("bad", ["1.2", "-0.1", "high", "", "nan"])
def test_a_probability_must_be_one(bad, tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    rows = probability_rows()
    rows[5]["Edema"] = bad
    write_csv(tmp_path / "p.csv", rows)
    with pytest.raises(InputError, match="line 7: Edema"):
        score(tmp_path / "r.csv", tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "no record"),
        ("p.csv", "study_id,colour\ns0,red\n", "no probability column"),
        ("p.csv", "study_id,report\ns0,a,b\n", "line 2: not as many fields"),
        ("p.jsonl", '{"study_id": "s0", "report": "x"}\n{"study_id"', "line 2: not JSON"),
        ("p.jsonl", "[1]", "line 1: not a JSON object"),
        ("p.parquet", "PAR1", "parquet"),
        ("p.xlsx", "x", "unknown kind"),
        ("p.jsonl", '{"study_id": "s0", "probabilities": [0.5]}', "list of 14"),
    ],
)
def test_bad_prediction_files_are_refused_by_name(name, content, message, tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        score(tmp_path / "r.csv", tmp_path / name)
    assert name in str(caught.value)


def test_missing_file_and_binary_file(tmp_path) -> None:
    write_csv(tmp_path / "r.csv", label_rows())
    with pytest.raises(InputError, match="cannot be read"):
        score(tmp_path / "r.csv", tmp_path / "absent.csv")
    (tmp_path / "p.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot be read"):
        score(tmp_path / "r.csv", tmp_path / "p.csv")
