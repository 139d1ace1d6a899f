"""benchmarks/step_speed.py compares steps that differ in the teacher's terms alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from kdistill.distillation.collate import Visit
from kdistill.distillation.config import ARMS


def test_both_steps_read_the_same_texts() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "step_speed.py"
    spec = importlib.util.spec_from_file_location("step_speed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["step_speed"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    first, second, order = module.contestants(module.Sizes(num_studies=4, batch_size=2, size_px=32, num_articles=10))
    visits = [Visit(0), Visit(1)]
    assert set(first.objective.weights) == set(ARMS["full"].terms)
    assert set(first.objective.weights) - set(second.objective.weights) == module.TEACHER_TERMS
    assert first.step(visits) == second.step(visits) > 50
    lines = list(module.table(module.race(first, second, order, rounds=1, steps=1, size=2)))
    assert lines[-1].startswith("ratio ") and len(lines) == 5
