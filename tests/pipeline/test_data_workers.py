"""Data workers change no result: a student made without them stands when a run goes on with some."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.config import config_hash, dump_yaml
from kdistill.errors import PolicyError
from kdistill.pipeline.recipe import Recipe
from kdistill.pipeline.run import _refuse_other_recipe
from kdistill.pipeline.stages import RunFolder, student_stage

from .tiny import TINY


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({**TINY, "distillation": {**TINY["distillation"], **changes}})


def test_a_student_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    found = [
        config_hash(student_stage(recipe(**changes), RunFolder(tmp_path), "full", 0).config)
        for changes in ({}, {"data_workers": 2}, {"training_view": "any_frontal"})
    ]
    assert found[0] == found[1] != found[2]


def test_a_run_goes_on_with_other_workers_and_not_with_other_views(tmp_path: Path) -> None:
    saved = tmp_path / "recipe.yaml"
    saved.write_text(dump_yaml(recipe()), encoding="utf-8")
    _refuse_other_recipe(recipe(data_workers=2), saved)
    with pytest.raises(PolicyError, match=r"distillation\.training_view"):
        _refuse_other_recipe(recipe(data_workers=2, training_view="any_frontal"), saved)
