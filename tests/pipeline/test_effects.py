"""benchmarks/effects.py on finished runs: the same students differ by nothing, and what was not run is named."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def effects() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))  # as when the script is run: it takes the table's formats from its neighbour
    spec = importlib.util.spec_from_file_location("effects", BENCHMARKS / "effects.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["effects"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(effects: ModuleType, tiny_run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A sweep of which two settings are finished, both by the same student."""
    sweep = tmp_path_factory.mktemp("effects")
    for setting in ("joint", "two-stages"):
        shutil.copytree(tiny_run[1], sweep / setting)
    return json.loads(json.dumps(effects.extract(sweep), allow_nan=False))


def test_a_student_differs_from_itself_by_nothing(found: dict) -> None:
    assert {row["name"] for row in found["differences"]} >= {
        "report_f1",
        "rationale_f1",
        "auc",
        "auc of the rarer half",
    }
    for row in found["differences"]:
        assert (row["arm"], row["baseline"]) == ("two-stages/full", "joint/full")
        if row["difference"] is not None:
            assert row["difference"] == 0 and row["ci95"] == [0, 0] and row["p"] in (1, None)


def test_scores_are_those_of_the_runs_own_evaluation(found: dict, tiny_run: tuple[Path, Path]) -> None:
    scores = json.loads((tiny_run[1] / "evaluation" / "scores.json").read_text(encoding="utf-8"))
    for row in found["scores"]:
        policy = "negative" if row["name"] == "auc" else "positive"
        own = [
            s["value"]
            for s in scores
            if (s["name"], s["arm"], s["average"], s["uncertain"]) == (row["name"], "full", row["average"], policy)
            and (s["reference"], s["split"], s["subgroup"], s["observation"], s["observations"])
            == ("truth", "test", None, None, 14)
        ]
        assert own == [row["value"]]


def test_the_table_names_what_was_not_run(effects: ModuleType, found: dict) -> None:
    table = effects.table(found)
    assert "| two stages |" in table and "| joint/full |" in table
    missing = next(line for line in table.splitlines() if line.startswith("Not run: "))
    assert "queries from literature, 30 studies" in missing and "two stages" not in missing


def test_the_documents_show_the_table_as_it_is(effects: ModuleType) -> None:
    found = json.loads((BENCHMARKS / "effects.json").read_text(encoding="utf-8"))
    shown = (BENCHMARKS.parent / "docs" / "decoupling.md").read_text(encoding="utf-8")
    for part in effects.table(found).split("\n\n"):
        assert part in shown
