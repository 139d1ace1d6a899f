"""Data workers and decoding processes change no result: a stage made without them stands when a run has some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdistill.artifact import open_stage
from kdistill.config import config_hash, dump_yaml
from kdistill.errors import PolicyError
from kdistill.pipeline.recipe import Recipe
from kdistill.pipeline.run import _refuse_other_recipe
from kdistill.pipeline.stages import RunFolder, base_stages, student_stage
from kdistill.studies import stage as studies_stage
from kdistill.studies.decoding import DecoderPool

from ..studies.dicom_files import raster
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


@pytest.mark.parametrize(("settings", "expected"), [({}, 1), ({"processes": 2}, 2), ({"decode_processes": 3}, 3)])
def test_images_are_decoded_by_as_many_processes_as_are_asked_for(
    settings: dict[str, int], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real pool does the work; only its size is noted."""
    sizes: list[int] = []

    class Noted(DecoderPool):
        def __init__(self, processes: int, *arguments: Any, **more: Any) -> None:
            sizes.append(processes)
            super().__init__(processes, *arguments, **more)

    monkeypatch.setattr(studies_stage, "DecoderPool", Noted)
    film = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(raster(film, "PNG"))
    (tmp_path / "studies.csv").write_text("study_id,patient_id,image_path\ns,p,a.png\n")
    folder = {"kind": "folder", "path": str(tmp_path), "size_px": 64}
    asked = Recipe.model_validate({**TINY, **settings, "studies": folder})
    stage = base_stages(asked, RunFolder(tmp_path / "run"))[0]
    with open_stage(stage.path, stage=stage.name, config=stage.config) as writer:
        stage.build(writer, None)
    assert sizes == [expected] and writer.counts.total() == 1


def test_the_number_of_decoding_processes_makes_no_other_run(tmp_path: Path) -> None:
    few, many = (Recipe.model_validate({**TINY, "decode_processes": number}) for number in (1, 8))
    hashes = {config_hash(base_stages(one, RunFolder(tmp_path))[0].config) for one in (recipe(), few, many)}
    assert len(hashes) == 1
    (saved := tmp_path / "recipe.yaml").write_text(dump_yaml(few), encoding="utf-8")
    _refuse_other_recipe(many, saved)
