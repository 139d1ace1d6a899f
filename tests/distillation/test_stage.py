"""The student stage from folders to folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdistill.artifact import StageWriter
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.predict import encode_images
from kdistill.distillation.references import template_findings
from kdistill.distillation.stage import build_student
from kdistill.distillation.thresholds import best_f1_threshold, choose_thresholds
from kdistill.errors import ConfigError, InputError
from kdistill.observations import OBSERVATIONS
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student
from kdistill.student.thresholds import load_thresholds
from kdistill.studies.store import load_images, load_studies

from .toy import ToyDirs


def build(
    world: ToyDirs,
    student: StudentConfig,
    config: DistillationConfig,
    arm: str,
    folder: Path,
    read_student_dir: Path | None = None,
) -> StageWriter:
    folder.mkdir(parents=True)
    stage = StageWriter(folder)
    build_student(
        stage,
        config,
        student,
        arm,
        0,
        studies_dir=world.studies,
        labels_dir=world.labels,
        rationales_dir=world.rationales,
        teacher_dir=world.teacher,
        read_student_dir=read_student_dir,
    )
    return stage


@pytest.fixture(scope="module")
def trained(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StageWriter]:
    root = tmp_path_factory.mktemp("student")
    stages = {arm: build(world, tiny, short, arm, root / arm) for arm in ("report_only", "label", "full")}
    for arm in ("nearest_report", "classifier_template"):
        stages[arm] = build(world, tiny, short, arm, root / arm, root / "label")
    return stages


def rows(stage: StageWriter, name: str = "predictions.parquet") -> list[dict]:
    return pq.read_table(stage.dir / name).to_pylist()


@pytest.mark.parametrize("arm", ["report_only", "label", "full", "nearest_report", "classifier_template"])
def test_tables_hold_validation_and_test_of_every_arm(
    trained: dict[str, StageWriter], world: ToyDirs, arm: str
) -> None:
    table = rows(trained[arm])
    expected = [s.study_id for split in ("validate", "test") for s in load_studies(world.studies, split)]
    assert [row["study_id"] for row in table] == expected
    assert {row["arm"] for row in table} == {arm} and {row["seed"] for row in table} == {0}
    has_head = arm not in ("report_only", "nearest_report")
    for row in table:
        assert (row["probabilities"] is not None) == (row["sides"] is not None) == has_head
        assert row["probabilities"] is None or len(row["probabilities"]) == len(row["sides"]) == 14
    assert any(row["rationale"] for row in table) == (arm == "full")
    pairs = rows(trained[arm], "pair_predictions.parquet")
    assert [(row["pair_id"], row["which"]) for row in pairs] == [("c0", "before"), ("c0", "after")]


def test_published_model_predicts_what_the_table_says(
    trained: dict[str, StageWriter], world: ToyDirs, short: DistillationConfig
) -> None:
    model = load_student(trained["full"].dir / "model")
    study_rows = [s.images[0].row for split in ("validate", "test") for s in load_studies(world.studies, split)]
    again = encode_images(
        model, load_images(world.studies), study_rows, batch_size=short.prediction_batch, blanked=False
    )
    np.testing.assert_array_equal(again.probabilities, [row["probabilities"] for row in rows(trained["full"])])
    alone = encode_images(model, load_images(world.studies), study_rows, batch_size=1, blanked=False)
    np.testing.assert_allclose(alone.probabilities, again.probabilities, atol=1e-6)  # 1e-7 seen


def test_thresholds_belong_to_arms_with_a_label_head(trained: dict[str, StageWriter]) -> None:
    loaded = {arm: load_thresholds(trained[arm].dir / "model") for arm in ("report_only", "label", "full")}
    assert loaded["report_only"] is None
    assert loaded["label"].label_source == "explicit" and loaded["full"].label_source == "teacher"


def test_history_and_counts(trained: dict[str, StageWriter]) -> None:
    lines = [json.loads(line) for line in (trained["full"].dir / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20 and any("validation_micro_auc" in line for line in lines)
    counts = trained["full"].counts
    assert counts["predicted_studies"] == 16 and counts["label_from_report"] == 24 * 14
    assert counts["trained_in_bfloat16"] == 0


def test_equal_runs_publish_equal_bytes(
    trained: dict[str, StageWriter], world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    again = build(world, tiny, short, "full", tmp_path / "full")
    for name in ("model/model.safetensors", "predictions.parquet", "pair_predictions.parquet", "history.jsonl"):
        assert (again.dir / name).read_bytes() == (trained["full"].dir / name).read_bytes(), name


def test_nearest_report_copies_a_training_report(trained: dict[str, StageWriter], world: ToyDirs) -> None:
    known = {(s.findings, s.impression) for s in load_studies(world.studies, "train")}
    assert all((row["findings"], row["impression"]) in known for row in rows(trained["nearest_report"]))


def test_classifier_template_repeats_the_label_head(trained: dict[str, StageWriter]) -> None:
    for one, two in zip(rows(trained["label"]), rows(trained["classifier_template"]), strict=True):
        np.testing.assert_allclose(one["probabilities"], two["probabilities"], atol=1e-6)
    probabilities = np.zeros(14)
    probabilities[OBSERVATIONS.index("Pleural Effusion")] = 0.5
    sides = ["left"] * 14
    assert template_findings(probabilities, sides, [0.5] * 14) == "Left pleural effusion."
    assert template_findings(np.zeros(14), sides, [0.5] * 14) == "No acute abnormality."


def test_the_template_of_fulls_head_says_what_fulls_head_knows(
    trained: dict[str, StageWriter], world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    made = build(world, tiny, short, "classifier_template_full", tmp_path / "a", read_student_dir=trained["full"].dir)
    for one, two in zip(rows(trained["full"]), rows(made), strict=True):
        np.testing.assert_allclose(one["probabilities"], two["probabilities"], atol=1e-6)


def test_references_need_the_label_student(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="label"):
        build(world, tiny, short, "nearest_report", tmp_path / "a")


def test_blank_image_arm_is_blind(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    table = rows(build(world, tiny, short, "blank_image", tmp_path / "blank"))
    assert len({tuple(row["probabilities"]) for row in table}) == 1
    assert len({row["findings"] for row in table}) == 1


def test_arms_of_one_more_term_are_trained_and_published(
    world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig, tmp_path: Path
) -> None:
    """From folders to folders; the arm of the student's own texts loads the teacher and leaves it as published."""
    teacher = (world.teacher / "model/model.safetensors").read_bytes()
    for arm, term in (("consistency",) * 2, ("counterfactual",) * 2, ("on_policy", "token")):
        stage = build(world, tiny, dense.model_copy(update={"num_image_visits": 16}), f"full_{arm}", tmp_path / arm)
        lines = [json.loads(line) for line in (stage.dir / "history.jsonl").read_text().splitlines()]
        assert any(line.get(f"{term}_loss", 0) > 0 for line in lines) and len(rows(stage)) == 16
    assert (world.teacher / "model/model.safetensors").read_bytes() == teacher


def test_an_arm_whose_vision_nothing_would_train_is_refused(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    cut = tiny.model_copy(update={"text_gradient": False})
    with pytest.raises(ConfigError, match="report_only has only text terms"):
        build(world, cut, short, "report_only", tmp_path / "report_only")
    assert len(rows(build(world, cut, short, "full", tmp_path / "full"))) == 16


def test_another_vocabulary_is_refused_before_the_first_step(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config

    from kdistill.teacher.tokenizer import train_tokenizer

    other = train_tokenizer(["another corpus of words"] * 3, 300)
    other.save_pretrained(tmp_path / "lm")
    config = GPT2Config(vocab_size=len(other), n_embd=16, n_layer=1, n_head=2, n_positions=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    foreign = StudentConfig.model_validate(
        {**tiny.model_dump(), "language": {"kind": "transformers", "path": str(tmp_path / "lm")}}
    )
    with pytest.raises(ConfigError, match="one vocabulary"):
        build(world, foreign, short, "full", tmp_path / "full")
    stage = build(world, foreign, short, "full_no_token", tmp_path / "full_no_token")
    assert len(rows(stage)) == 16


def test_thresholds_maximise_f1_and_need_positives() -> None:
    truth = np.array([0, 0, 1, 1, 1], dtype=bool)
    assert best_f1_threshold(np.array([0.1, 0.6, 0.5, 0.7, 0.9]), truth) == pytest.approx(0.3)
    targets = np.stack([truth, np.zeros(5), np.array([1, np.nan, 1, 1, 0])], axis=1)
    scores = np.array([[0.1, 0.2, 0.9], [0.6, 0.2, 0.1], [0.5, 0.2, 0.8], [0.7, 0.2, 0.7], [0.9, 0.2, 0.2]])
    values, positives = choose_thresholds(scores, targets)
    assert values == pytest.approx([0.3, 0.5, 0.45]) and positives == [3, 0, 3]
