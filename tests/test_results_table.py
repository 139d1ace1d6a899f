"""README's results are the output of benchmarks/results_table.py, and its verdicts follow from the figures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_table", ROOT / "benchmarks" / "results_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def extracted() -> dict:
    return json.loads((ROOT / "benchmarks" / "evidence.json").read_text(encoding="utf-8"))


def verdict(module: ModuleType, extracted: dict, start: str) -> bool | None:
    lines = list(module.protocol_lines(module.Figures(extracted)))
    return next(line.holds for line in lines if line.asked.startswith(start))


def row(rows: list[dict], **wanted: str) -> dict:
    return next(r for r in rows if all(r[key] == value for key, value in wanted.items()))


def test_readme_shows_the_tables_as_they_are(results_table: ModuleType, extracted: dict) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for part in results_table.table(extracted).split("\n\n"):
        assert part in readme
    assert extracted["commit"][:7] in readme


@pytest.mark.parametrize(
    ("relative", "low", "holds"), [(0.08, 0.001, True), (0.079, 0.001, False), (0.5, -0.001, False), (0.5, 0.0, False)]
)
def test_the_primary_line_needs_size_and_interval(
    results_table: ModuleType, extracted: dict, relative: float, low: float, holds: bool
) -> None:
    found = row(extracted["comparisons"], name="report_f1", arm="full", baseline="report_only")
    found |= {"relative": relative, "ci95": [low, 0.4]}
    assert verdict(results_table, extracted, "primary: report_f1, `full` over `report_only` ") is holds


def test_a_control_that_gains_as_much_fails_the_line(results_table: ModuleType, extracted: dict) -> None:
    assert verdict(results_table, extracted, "2.") is True
    gain = row(extracted["comparisons"], name="report_f1", arm="full", baseline="report_only")["difference"]
    row(extracted["comparisons"], name="report_f1", arm="template", baseline="report_only")["difference"] = gain
    assert verdict(results_table, extracted, "2.") is False


@pytest.mark.parametrize(("value", "n", "holds"), [(0.9, 20, True), (0.89, 20, False), (1.0, 19, None)])
def test_few_pairs_prove_nothing(
    results_table: ModuleType, extracted: dict, value: float, n: int, holds: bool | None
) -> None:
    row(extracted["audit"], test="counterfactual_necessity_report", arm="full").update(value=value, n=n)
    assert verdict(results_table, extracted, "5.") is holds


def test_what_was_not_measured_is_a_dash(results_table: ModuleType, extracted: dict) -> None:
    extracted["audit"] = []
    assert verdict(results_table, extracted, "4.") is None
    assert "| full | .650 [.627, .676] | .681 [.657, .707] |" in results_table.table(extracted)
    assert results_table.number(-0.05) == "-.050" and results_table.signed(1.0) == "+1.00"
