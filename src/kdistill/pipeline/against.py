"""`evaluate RUN --against RUN`: the same arms of two runs, paired on the test studies that both predicted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from kdistill.artifact import StageWriter, read_manifest
from kdistill.errors import InputError
from kdistill.evaluation.config import ComparisonSpec, EvaluationConfig, PrimaryEndpoint
from kdistill.pipeline.recipe import load_recipe
from kdistill.pipeline.run import RECIPE
from kdistill.pipeline.stages import RunFolder, student_keys


def compare_runs(run_dir: Path, against_dir: Path) -> list[dict[str, Any]]:
    """Compare every arm that two runs share: report_f1, rationale_f1 and micro-AUC, `run_dir` minus `against_dir`.

    Generated texts of both are read by the labeler of `run_dir`'s recipe.

    Args:
        run_dir: The run in question.
        against_dir: The baseline; its studies must be the same.

    Returns:
        Rows as in comparisons.json; the baseline's arms are called `<run>:<arm>`.

    Raises:
        InputError: The runs have other test studies, or share no arm.
    """
    run, against = RunFolder(run_dir), RunFolder(against_dir)
    if read_manifest(run.studies).identity != read_manifest(against.studies).identity:
        raise InputError(
            "the two runs have other studies, so nothing can be paired",
            where=str(against_dir),
            remedy="Compare runs whose `studies` sections are equal.",
        )
    ours, theirs = _students(run), _students(against)
    shared = sorted({arm for arm, _ in ours} & {arm for arm, _ in theirs})
    if not shared:
        raise InputError("the two runs share no arm", where=str(against_dir))
    students = ours | {(f"{against_dir.name}:{arm}", seed): path for (arm, seed), path in theirs.items()}
    config = _config(run_dir, shared, against_dir.name)
    return _compare(config, students, run)


def _students(run: RunFolder) -> dict[tuple[str, int], Path]:
    recipe = load_recipe(str(run.dir / RECIPE))
    return {(arm, seed): run.student(arm, seed) for arm, seed in student_keys(recipe)}


def _config(run_dir: Path, arms: list[str], name: str) -> EvaluationConfig:
    settings = load_recipe(str(run_dir / RECIPE)).evaluation
    specs = [
        ComparisonSpec(name=score, arm=arm, baseline=f"{name}:{arm}")
        for arm in arms
        for score in ("report_f1", "rationale_f1", "auc")
    ]
    first = PrimaryEndpoint(arm=arms[0], baselines=(f"{name}:{arms[0]}",))
    return settings.model_copy(update={"comparisons": tuple(specs), "primary": first, "subgroups": ()})


def _compare(config: EvaluationConfig, students: dict[tuple[str, int], Path], run: RunFolder) -> list[dict[str, Any]]:
    from kdistill.evaluation.stage import build_evaluation
    from kdistill.labelers.labeler import open_labeler

    with tempfile.TemporaryDirectory() as folder:
        stage = StageWriter(Path(folder))
        labeler = open_labeler(load_recipe(str(run.dir / RECIPE)).labeler)
        build_evaluation(
            stage, config, students=students, studies_dir=run.studies, labels_dir=run.labels, labeler=labeler
        )
        rows: list[dict[str, Any]] = json.loads((stage.dir / "comparisons.json").read_text(encoding="utf-8"))
    return rows
