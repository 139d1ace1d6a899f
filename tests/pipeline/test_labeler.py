"""The labeler of a recipe: what the labels stage depends on, and what a recipe may say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kdistill.errors import ConfigError, WeightsError
from kdistill.labelers.chexbert_conversion import convert_chexbert
from kdistill.pipeline.against import compare_runs
from kdistill.pipeline.recipe import Recipe, load_recipe
from kdistill.pipeline.stages import RunFolder, all_stages

from ..labelers.chexbert_files import random_state, write_official, write_vocabulary
from .tiny import TINY, kdistill, write_recipe


def labels_config(recipe: Recipe, run: Path) -> object:
    (stage,) = [stage for stage in all_stages(recipe, RunFolder(run)) if stage.name == "labels"]
    return stage.config


def converted(folder: Path, seed: int) -> str:
    folder.mkdir()
    out = folder / "weights"
    convert_chexbert(write_official(folder / "c.pth", random_state(seed)), out, write_vocabulary(folder))
    return str(out)


def test_labels_depend_on_the_weights_not_on_speed(tmp_path: Path) -> None:
    one, other = converted(tmp_path / "one", 0), converted(tmp_path / "other", 1)
    found = []
    for section in (
        {"kind": "chexbert", "checkpoint": one},
        {"kind": "chexbert", "checkpoint": one, "batch_size": 2, "device": "cpu"},
        {"kind": "chexbert", "checkpoint": other},
    ):
        recipe = load_recipe(str(write_recipe(tmp_path / "r.yaml", labeler=section)))
        found.append(labels_config(recipe, tmp_path))
    assert found[0] == found[1] != found[2]  # the files of both checkpoints are equal in size
    with pytest.raises(WeightsError, match="convert-chexbert"):
        recipe = load_recipe(str(tmp_path / "r.yaml"), [f"labeler.checkpoint={tmp_path}"])
        labels_config(recipe, tmp_path)


def test_recipes_without_a_labeler_use_the_rules(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "r.yaml")))
    assert recipe.labeler.model_dump() == {"kind": "rules"}
    assert labels_config(recipe, tmp_path) == recipe.labeler
    with pytest.raises(ConfigError, match="checkpoint"):
        load_recipe(str(write_recipe(tmp_path / "r.yaml", labeler={"kind": "chexbert"})))
    with pytest.raises(ConfigError, match="chexpert"):
        load_recipe(str(write_recipe(tmp_path / "r.yaml", labeler={"kind": "chexpert"})))


def smallest(labeler: dict[str, str]) -> dict[str, Any]:
    """The tiny recipe made smaller still: here the way counts, not what is learned."""
    sections: dict[str, Any] = {name: TINY[name] for name in ("studies", "literature", "teacher", "distillation")}
    training = {**sections["teacher"]["training"], "steps": 4, "save_steps": 4}
    return {
        "labeler": labeler,
        "studies": {**sections["studies"], "num_train": 16, "num_validate": 8, "num_test": 12, "num_pairs": 4},
        "literature": {"sources": [{"kind": "phantom", "seed": 9100, "num_articles": 80}]},
        "teacher": {**sections["teacher"], "training": training},
        "distillation": {**sections["distillation"], "arms": ["report_only", "full"], "num_image_visits": 32},
        "evaluation": {"num_bootstrap": 100, "num_permutations": 100},
    }


def test_a_whole_run_with_chexbert_names_it_everywhere(tmp_path: Path) -> None:
    """Random weights of the true architecture, converted; every stage from studies to the page."""
    checkpoint = converted(tmp_path / "chexbert", 0)
    recipe = write_recipe(tmp_path / "r.yaml", **smallest({"kind": "chexbert", "checkpoint": checkpoint}))
    run = tmp_path / "run"
    kdistill("run", str(recipe), "--out", str(run))

    written = json.loads((run / "labels" / "labeler.json").read_text())
    identity = f"{written['name']}@{written['revision']}"
    assert re.fullmatch(r"chexbert@[0-9a-f]{12}", identity)
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    named = {(score["name"], score["reference"]): score["labeler"] for score in scores}
    # What is generated is read by it, and so are the reports that stand as reference; the known truth by nobody.
    for score in ("report_f1", "rationale_f1"):
        assert named[score, "truth"] == named[score, "report"] == identity
    assert named["auc", "report"] == identity and named["auc", "truth"] is None
    assert {score["labeler"] for score in scores} == {identity, None}
    comparisons = json.loads((run / "evaluation" / "comparisons.json").read_text())
    compared = [row for row in comparisons if row["name"] == "report_f1" and row["difference"] is not None]
    assert compared and {row["labeler"] for row in compared} == {identity}
    page = (run / "report" / "report.html").read_text()
    assert f"generated texts were read by {identity}; this is CheXbert F1." in page
    assert "kdistill-rules" not in page
    # Two runs set side by side are read by it as well: it used to be the rules, whatever the recipe said.
    beside = compare_runs(run, run)
    assert {row["labeler"] for row in beside if row["name"] == "report_f1"} == {identity}
