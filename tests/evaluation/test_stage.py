import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kdistill.artifact import StageWriter, open_stage
from kdistill.errors import InputError
from kdistill.evaluation.config import ComparisonSpec, EvaluationConfig, PrimaryEndpoint
from kdistill.evaluation.f1 import f1_score
from kdistill.evaluation.stage import build_evaluation, mixed_arithmetic
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.records import Study, Truth, write_jsonl

from .run_folders import PlainLabeler, RunFolders, draw_truth, write_labels, write_run, write_student, write_studies

CONFIG = EvaluationConfig(
    num_bootstrap=100,
    num_permutations=100,
    min_subgroup_patients=5,
    primary=PrimaryEndpoint(baselines=("report_only", "template", "report_only_long")),
    comparisons=(
        ComparisonSpec(name="auc", arm="full", baseline="label"),
        ComparisonSpec(name="auc", arm="full", baseline="report_only"),
    ),
)
INTERFACE_KEYS = {
    "name",
    "arm",
    "split",
    "average",
    "observation",
    "observations",
    "uncertain",
    "labeler",
    "reference",
    "value",
    "ci95",
    "n",
    "num_positive",
    "seeds",
    "reason",
}


def evaluate(root, run: RunFolders, config: EvaluationConfig = CONFIG) -> tuple[list[dict], list[dict], str]:
    folder = root / "evaluation"
    folder.mkdir()
    build_evaluation(
        StageWriter(folder),
        config,
        students=run.students,
        studies_dir=run.studies_dir,
        labels_dir=run.labels_dir,
        labeler=PlainLabeler(),
    )
    scores, comparisons = (json.loads((folder / f"{n}.json").read_text()) for n in ("scores", "comparisons"))
    return scores, comparisons, (folder / "table.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolders:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def results(run, tmp_path_factory) -> tuple[list[dict], list[dict], str]:
    return evaluate(tmp_path_factory.mktemp("results"), run)


def pick(rows: list[dict], **wanted) -> list[dict]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def one(rows: list[dict], **wanted) -> dict:
    (found,) = pick(rows, **{"subgroup": None, "reference": "truth", "observation": None, "observations": 14} | wanted)
    return found


def test_every_score_carries_its_definition(results) -> None:
    scores, _, _ = results
    assert all(set(score) >= INTERFACE_KEYS for score in scores)
    assert {s["reference"] for s in scores} == {"truth", "report"}
    for score in scores:
        assert (score["value"] is None) <= bool(score["reason"])
        assert score["value"] is None or np.isfinite(score["value"])
        if score["ci95"] and score["name"] != "ece":  # ECE grows under resampling: its interval may lie above the value
            assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
        if score["name"].endswith("_f1"):
            assert score["labeler"] == "plain@1"
            assert score["uncertain"] in ("positive", "negative")


def test_both_conventions_both_sets_and_each_observation_are_there(results) -> None:
    scores, _, _ = results
    f1 = pick(scores, name="report_f1", arm="full", reference="truth", subgroup=None)
    averaged = {(s["average"], s["observations"], s["uncertain"]) for s in f1 if s["average"]}
    assert averaged == {
        (a, n, u) for a in ("micro", "macro", "example") for n in (14, 5) for u in ("positive", "negative")
    }
    assert {s["observation"] for s in f1 if s["average"] is None} == set(OBSERVATIONS)
    policies = {s["uncertain"] for s in pick(scores, name="auc", arm="full", reference="report", subgroup=None)}
    assert policies == {"positive", "negative", "masked"}


def test_value_is_the_mean_over_seeds_of_the_files_own_score(run, results) -> None:
    scores, _, _ = results
    expected = []
    for seed in (0, 1):
        table = pyarrow.parquet.read_table(run.students["full", seed] / "predictions.parquet").to_pylist()
        stated = np.array([[PlainLabeler().label(r["findings"])[n] == 1 for n in OBSERVATIONS] for r in table])
        expected.append(f1_score(run.truth, stated, "micro"))
    score = one(scores, name="report_f1", arm="full", average="micro", uncertain="positive")
    assert score["per_seed"] == pytest.approx(expected)
    assert score["value"] == pytest.approx(np.mean(expected))
    assert (score["seeds"], score["n"], score["num_patients"]) == ([0, 1], 60, 30)
    assert score["num_positive"] == run.truth.sum()


def test_arm_without_a_head_or_rationale_is_null_with_the_reason(results) -> None:
    scores, comparisons, table = results
    assert one(scores, name="report_f1", arm="report_only", average="micro", uncertain="positive")["value"] > 0
    auc = one(scores, name="auc", arm="report_only", average="micro", uncertain="negative")
    assert auc["value"] is None
    assert "no label head" in auc["reason"]
    rationale = one(scores, name="rationale_f1", arm="report_only", average="micro", uncertain="positive")
    assert rationale["value"] is None
    assert "writes none" in rationale["reason"]
    (row,) = pick(comparisons, name="auc", baseline="report_only", average="micro")
    assert (row["difference"], row["p"]) == (None, None)
    assert "no label head" in row["reason"]
    assert "no label head" in table


def test_prevalence_floor_stands_beside_the_auc(results) -> None:
    scores, _, table = results
    floor = one(scores, name="auc", arm="prevalence_only", average="micro", uncertain="negative")
    full = one(scores, name="auc", arm="full", average="micro", uncertain="negative")
    assert 0.5 < floor["value"] < full["value"]
    assert one(scores, name="auc", arm="prevalence_only", average="macro", uncertain="negative")["value"] == 0.5
    assert "prevalence_only" in table


def test_primary_endpoint_and_untrained_baseline(results) -> None:
    _, comparisons, table = results
    primary = pick(comparisons, primary=True)
    assert [row["baseline"] for row in primary] == ["report_only", "template", "report_only_long"]
    assert {(r["name"], r["average"], r["uncertain"], r["observations"], r["reference"]) for r in primary} == {
        ("report_f1", "micro", "positive", 14, "truth")
    }
    first, _, absent = primary
    assert first["difference"] == pytest.approx(first["arm_value"] - first["baseline_value"])
    assert first["relative"] == pytest.approx(first["difference"] / first["baseline_value"])
    assert first["ci95"][0] > 0
    assert first["p"] == pytest.approx(1 / 101)
    assert first["p_holm"] == pytest.approx(2 / 101)
    assert absent["difference"] is None
    assert "report_only_long" in absent["reason"]
    assert "primary endpoint" in table


def test_holm_runs_across_observations(results) -> None:
    _, comparisons, _ = results
    rows = [r for r in pick(comparisons, name="report_f1", baseline="report_only") if r["observation"]]
    assert len(rows) == 14
    assert len({row["holm_family"] for row in rows}) == 1
    assert all(row["p_holm"] >= row["p"] for row in rows if row["p"] is not None)
    assert max(row["p_holm"] for row in rows) > max(1 / 101, min(row["p"] for row in rows))


def test_same_inputs_give_the_same_bytes(run, results, tmp_path) -> None:
    scores, comparisons, table = results
    again = evaluate(tmp_path, run)
    assert (scores, comparisons, table) == again


def test_mixed_sources_are_scored_within_each_and_their_floor_is_named(tmp_path) -> None:
    run = write_run(tmp_path, with_truth=False, sources=("nih", "covid"), seeds=1)
    scores, _, table = evaluate(tmp_path, run)
    groups = {s["subgroup"] for s in scores if s["subgroup"] and s["subgroup"].startswith("source=")}
    assert groups == {"source=covid", "source=nih"}
    inside = pick(scores, name="auc", arm="full", subgroup="source=nih", average="micro", reference="labels")
    assert inside[0]["n"] == 30
    assert pick(scores, name="auc", arm="source_prevalence_only", average="macro", reference="labels")
    assert "telling the data sets apart" in table
    assert {s["reference"] for s in scores} == {"labels", "report"}


def test_unmapped_columns_are_left_out_and_named(tmp_path) -> None:
    run = write_run(tmp_path, seeds=1)
    known = [name for name in OBSERVATIONS if name not in ("Fracture", "Edema")]
    rows = [
        Truth(study_id=f"s{row}", truth={name: int(stated[INDEX[name]]) for name in known})
        for row, stated in enumerate(run.truth)
    ]
    write_jsonl(run.studies_dir / "truth.jsonl", rows)
    scores, _, _ = evaluate(tmp_path, run)
    macro = one(scores, name="report_f1", arm="full", average="macro", uncertain="positive")
    assert "12 of 14" in macro["reason"]
    assert "Fracture" in macro["reason"]
    assert macro["value"] is not None
    (edema,) = pick(scores, name="auc", arm="full", observation="Edema", reference="truth", uncertain="negative")
    assert (edema["value"], edema["n"]) == (None, 0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("empty split", "no study"),
        ("one patient", "one patient"),
        ("one class", "no positive case"),
        ("nan scores", "not finite"),
        ("all positive", "no negative case"),
    ],
)
def test_fault_25_null_with_the_reason(case, reason, tmp_path) -> None:
    """FAULTS row 25: one class only, one patient, empty split, NaN scores."""
    truth = draw_truth({"empty split": 0, "one patient": 2}.get(case, 30))
    observation = OBSERVATIONS[5]
    if case in ("one class", "all positive"):
        truth[:, 5] = case == "all positive"
    folder = write_student(tmp_path, "full", 0, truth if len(truth) else draw_truth(4), error_rate=0.1)
    if case == "nan scores":
        rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
        rows[0]["probabilities"][5] = float("nan")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "predictions.parquet")
    studies_dir = write_studies(tmp_path, truth, with_truth=True)
    run = RunFolders(studies_dir, write_labels(tmp_path, truth), {("full", 0): folder}, truth)
    scores, comparisons, table = evaluate(tmp_path, run)
    wanted = pick(scores, name="auc", arm="full", observation=observation, uncertain="negative")
    assert wanted
    assert all(score["value"] is None and reason in score["reason"] for score in wanted)
    assert all(score["ci95"] is None for score in scores if score["value"] is None)
    assert comparisons
    assert "full" in table
    if case == "nan scores":
        assert "not finite" in one(scores, name="auc", arm="full", average="macro", uncertain="negative")["reason"]


def test_missing_or_double_study_is_refused_by_count(tmp_path) -> None:
    run = write_run(tmp_path, num=10, seeds=1)
    path = run.students["template", 0] / "predictions.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.slice(0, 7), path)
    with pytest.raises(InputError, match="3 of 10 test studies are missing") as caught:
        evaluate(tmp_path, run)
    assert "template/seed-0" in str(caught.value)
    assert "s9" not in str(caught.value)


def test_damaged_predictions_are_named(tmp_path) -> None:
    run = write_run(tmp_path, num=4, seeds=1)
    (run.students["full", 0] / "predictions.parquet").write_bytes(b"PAR1 not parquet")
    with pytest.raises(InputError, match="full/seed-0"):
        evaluate(tmp_path, run)


def test_projects_own_labeler_reads_real_sentences_by_default(tmp_path) -> None:
    """By hand: one study right, one hedged, one missed. U+: TP 2, FN 1; U-: TP 1, FN 2 (both over 5 observations)."""
    effusion, edema = INDEX["Pleural Effusion"], INDEX["Edema"]
    truth = np.zeros((3, 14), bool)
    truth[[0, 1], effusion] = truth[2, edema] = True
    findings = ["Small left pleural effusion.", "Possible right pleural effusion.", "No pneumothorax."]
    run = RunFolders(write_studies(tmp_path, truth, with_truth=True), tmp_path / "labels", {}, truth)
    folder = write_student(tmp_path, "full", 0, truth, error_rate=0.1)
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    rows = [row | {"findings": text, "rationale": ""} for row, text in zip(rows, findings, strict=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "predictions.parquet")
    out = tmp_path / "evaluation"
    out.mkdir()
    build_evaluation(
        StageWriter(out),
        CONFIG,
        students={("full", 0): folder},
        studies_dir=run.studies_dir,
        labels_dir=run.labels_dir,
    )
    scores = json.loads((out / "scores.json").read_text())
    f1 = {
        u: one(scores, name="report_f1", arm="full", average="micro", uncertain=u, observations=5)
        for u in ("positive", "negative")
    }
    assert f1["positive"]["value"] == pytest.approx(4 / 5)
    assert f1["negative"]["value"] == pytest.approx(2 / 4)
    assert f1["positive"]["labeler"].startswith("kdistill-rules@")


def test_report_that_the_labeler_cannot_read_is_no_reference(tmp_path) -> None:
    run = write_run(tmp_path, num=10, seeds=1)
    path = run.studies_dir / "studies.jsonl"
    german = "Kein Erguss und kein Infiltrat. Das Herz ist nicht verbreitert."
    studies = [Study.model_validate_json(line) for line in path.read_text().splitlines()]
    studies[0] = studies[0].model_copy(update={"findings": german})
    write_jsonl(path, studies)
    folder = tmp_path / "evaluation"
    folder.mkdir()
    stage = StageWriter(folder)
    build_evaluation(
        stage,
        CONFIG,
        students=run.students,
        studies_dir=run.studies_dir,
        labels_dir=run.labels_dir,
        labeler=PlainLabeler(),
    )
    scores = json.loads((folder / "scores.json").read_text())
    assert stage.counts["reports_not_read"] == 1
    assert one(scores, name="auc", arm="full", average="micro", uncertain="negative", reference="report")["n"] == 9
    assert one(scores, name="auc", arm="full", average="micro", uncertain="negative")["n"] == 10


def test_p_of_fewer_runs_than_the_difference_says_so(run: RunFolders, results, tmp_path) -> None:
    """`evaluate --against` may meet a run with more seeds: p pairs the shared ones, the difference averages all."""
    more = {**run.students, ("full", 2): run.students["full", 1]}
    _, comparisons, _ = evaluate(tmp_path, replace(run, students=more))
    (row,) = pick(comparisons, name="report_f1", baseline="template", average="micro", uncertain="positive")
    assert row["seeds"] == [0, 1, 2] and row["baseline_seeds"] == [0, 1] and row["p"] is not None
    assert row["reason"] == "p is of the shared seeds alone (0, 1), the difference of all"
    (even,) = pick(results[1], name="report_f1", baseline="template", average="micro", uncertain="positive")
    assert even["reason"] is None


def test_students_of_two_arithmetics_are_told_apart(run: RunFolders, tmp_path) -> None:
    """A run that was extended on other hardware: the table says whose arithmetic was whose."""
    students = {}
    for (arm, seed), folder in run.students.items():
        with open_stage(tmp_path / arm / str(seed), stage="student", config={}) as stage:
            shutil.copy(folder / "predictions.parquet", stage.dir)
            stage.count("trained_in_bfloat16", int(arm == "full"))
        students[arm, seed] = tmp_path / arm / str(seed)
    *_, table = evaluate(tmp_path, replace(run, students=students))
    assert "in bfloat16: full/seed-0, full/seed-1. They differ in this, too." in table
    assert mixed_arithmetic(run.students) is None  # no manifest says it
    assert mixed_arithmetic({key: path for key, path in students.items() if key[0] != "full"}) is None
