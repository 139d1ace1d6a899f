"""benchmarks/step_speed.py compares steps that differ in the teacher's terms alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdistill.distillation.collate import Visit
from kdistill.distillation.config import ARMS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def step_speed() -> ModuleType:
    path = ROOT / "benchmarks" / "step_speed.py"
    spec = importlib.util.spec_from_file_location("step_speed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["step_speed"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_both_steps_read_the_same_texts(step_speed: ModuleType, tmp_path: Path) -> None:
    module = step_speed
    first, second, order = module.contestants(module.Sizes(num_studies=4, batch_size=2, size_px=32, num_articles=10))
    visits = [Visit(0), Visit(1)]
    assert set(first.objective.weights) == set(ARMS["full"].terms)
    assert set(first.objective.weights) - set(second.objective.weights) == module.TEACHER_TERMS
    assert first.step(visits) == second.step(visits) > 50
    found = module.result(module.race(first, second, order, rounds=1, steps=1, size=2))
    lines = list(module.table(found))
    assert lines[-1].startswith("ratio ") and len(lines) == 5
    file = tmp_path / "races.json"
    for _ in range(2):  # a race of the same steps takes the place of the one before
        module.keep(found, file, "here")
    (kept,) = json.loads(file.read_text(encoding="utf-8"))
    assert kept["hardware"] == "here" and kept["ratio"] == found["ratio"]


def test_the_document_shows_the_races_that_were_kept(step_speed: ModuleType) -> None:
    races = json.loads((ROOT / "benchmarks" / "step_speed.json").read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "objective.md").read_text(encoding="utf-8")
    for race in races:
        *table, ratio = step_speed.table(race)
        assert "\n".join(table) in document and ratio in document and race["commit"][:7] in document
