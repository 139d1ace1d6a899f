"""benchmarks/sweep_pool.py: one pool for the students of all settings."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep_pool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "benchmarks" / "sweep_pool.py"
    spec = importlib.util.spec_from_file_location("sweep_pool", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sweep_pool", module)
    monkeypatch.syspath_prepend(str(path.parent))  # where its processes look for it
    spec.loader.exec_module(module)
    return module


def test_a_job_that_fails_costs_no_other_and_none_begins_after_the_deadline(
    sweep_pool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = sweep_pool._Pool(1, time.monotonic() + 600)
    jobs = [("a", math.sqrt, (4.0,)), ("b", math.sqrt, (-1.0,)), ("c", math.sqrt, (9.0,))]
    assert pool.run(jobs) == ["b"]
    said = capsys.readouterr().out
    assert "a: 2 s" in said and "b: FAILED ValueError" in said and "c: 3 s" in said
    pool.deadline = time.monotonic()
    assert pool.run(jobs) == ["a", "b", "c"]
    pool.pool.shutdown()


def test_it_reads_sweeps_and_recipes(sweep_pool: ModuleType) -> None:
    sweep = sweep_pool._recipes(ROOT / "recipes" / "ablation.yaml", ["studies.num_test=10"])
    assert len(sweep) == 9 and {recipe.studies.num_test for recipe in sweep.values()} == {10}
    assert list(sweep_pool._recipes(ROOT / "recipes" / "gpu.yaml", [])) == ["gpu"]
