"""The labeler of a recipe: what the labels stage depends on, and what a recipe may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.errors import ConfigError, WeightsError
from kdistill.labelers.chexbert_conversion import convert_chexbert
from kdistill.pipeline.recipe import Recipe, load_recipe
from kdistill.pipeline.stages import RunFolder, all_stages

from ..labelers.chexbert_files import random_state, write_official, write_vocabulary
from .tiny import write_recipe


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
