"""README's and docs/results.md's tables are the output of benchmarks/, and the verdicts follow from the figures."""

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
    return json.loads((ROOT / "benchmarks" / "main.json").read_text(encoding="utf-8"))


def verdict(module: ModuleType, extracted: dict, start: str) -> bool | None:
    lines = list(module.protocol_lines(module.Figures(extracted)))
    return next(line.holds for line in lines if line.asked.startswith(start))


def row(rows: list[dict], **wanted: str) -> dict:
    return next(r for r in rows if all(r[key] == value for key, value in wanted.items()))


def shows(document: str, tables: str) -> bool:
    text = (ROOT / document).read_text(encoding="utf-8")
    return all(table in text for table in tables.split("\n\n"))


def test_readme_shows_the_arms_that_carry_the_claim(results_table: ModuleType, extracted: dict) -> None:
    assert shows("README.md", results_table.headline(extracted))
    assert shows("README.md", extracted["commit"][:7])


def test_results_show_the_tables_as_they_are(results_table: ModuleType, extracted: dict) -> None:
    assert shows("docs/results.md", results_table.table(extracted))
    assert shows("docs/results.md", extracted["commit"][:7])


def test_results_show_the_run_on_cpu_as_it_is(results_table: ModuleType) -> None:
    extracted = json.loads((ROOT / "benchmarks" / "main_cpu.json").read_text(encoding="utf-8"))
    assert shows("docs/results.md", results_table.said(extracted))
    assert "cannot be said" not in results_table.said(extracted)


def test_results_show_the_large_run_as_it_is(results_table: ModuleType) -> None:
    extracted = json.loads((ROOT / "benchmarks" / "gpu.json").read_text(encoding="utf-8"))
    assert shows("docs/results.md", results_table.short(extracted))


def comparison(extracted: dict, baseline: str, name: str = "report_f1") -> dict:
    return row(extracted["comparisons"], name=name, arm="full", baseline=baseline)


@pytest.mark.parametrize(
    ("relative", "share", "holds"),
    [(0.10, 0.051, True), (0.099, 0.051, False), (0.5, 0.049, False), (0.5, -0.1, False)],
)
def test_the_first_line_needs_ten_percent_and_a_bound_above_five(
    results_table: ModuleType, extracted: dict, relative: float, share: float, holds: bool
) -> None:
    comparison(extracted, "report_only").update(relative=relative, relative_ci95=[share, 0.9])
    assert verdict(results_table, extracted, "primary: report_f1, `full` over `report_only` ") is holds


@pytest.mark.parametrize(("difference", "p", "holds"), [(0.1, 0.009, True), (0.1, 0.01, False), (-0.1, 0.001, False)])
def test_a_control_is_beaten_at_p_below_a_hundredth(
    results_table: ModuleType, extracted: dict, difference: float, p: float, holds: bool
) -> None:
    comparison(extracted, "classifier_template").update(difference=difference, p_holm=p)
    assert verdict(results_table, extracted, "primary: report_f1, `full` over `classifier_template`") is holds


@pytest.mark.parametrize(
    ("difference", "low", "holds"), [(0.01, 0.001, True), (0.009, 0.001, False), (0.02, 0.0, False)]
)
def test_the_head_needs_a_hundredth(
    results_table: ModuleType, extracted: dict, difference: float, low: float, holds: bool
) -> None:
    comparison(extracted, "label", "auc").update(difference=difference, ci95=[low, 0.1])
    assert verdict(results_table, extracted, "1.") is holds


def test_a_part_is_worth_something_where_one_of_two_intervals_lies_above_zero(
    results_table: ModuleType, extracted: dict
) -> None:
    f1, auc = (comparison(extracted, "full_no_where", name) for name in ("report_f1", "auc"))
    for first, second, holds in ((0.01, -0.01, True), (-0.01, 0.01, True), (-0.01, 0.0, False)):
        f1["ci95"], auc["ci95"] = [first, 0.2], [second, 0.2]
        assert verdict(results_table, extracted, "3. where") is holds


@pytest.mark.parametrize(("ours", "others", "holds"), [(0.05, 0.05, True), (0.051, 0.2, False), (0.04, 0.039, False)])
def test_contradictions_have_a_limit_and_a_rival(
    results_table: ModuleType, extracted: dict, ours: float, others: float, holds: bool
) -> None:
    for arm, value in (("full", ours), ("template", others)):
        row(extracted["audit"], test="contradiction_report", arm=arm)["value"] = value
    assert verdict(results_table, extracted, "2.") is holds


@pytest.mark.parametrize(("low", "holds"), [(0.001, True), (0.0, False)])
def test_a_wrong_place_must_cost_something(results_table: ModuleType, extracted: dict, low: float, holds: bool) -> None:
    comparison(extracted, "full_displaced_where")["ci95"] = [low, 0.3]
    assert verdict(results_table, extracted, "4. the place: report_f1") is holds
    audited = row(extracted["audit"], test="shortcut_effect_report_vs_full_displaced_where", arm="full")
    audited["ci95"] = [-0.3, -low]
    assert verdict(results_table, extracted, "4. the place: `full` leans less") is holds


@pytest.mark.parametrize(("value", "n", "holds"), [(0.9, 20, True), (0.89, 20, False), (1.0, 19, None)])
def test_few_pairs_prove_nothing(
    results_table: ModuleType, extracted: dict, value: float, n: int, holds: bool | None
) -> None:
    row(extracted["audit"], test="counterfactual_necessity_report", arm="full").update(value=value, n=n)
    assert verdict(results_table, extracted, "8.") is holds


def test_the_decoder_may_lie_two_hundredths_below_its_head(results_table: ModuleType, extracted: dict) -> None:
    for difference, holds in ((-0.02, True), (-0.021, False)):
        comparison(extracted, "classifier_template_full").update(difference=difference)
        assert verdict(results_table, extracted, "9.") is holds


def test_what_was_not_measured_is_a_dash(results_table: ModuleType, extracted: dict) -> None:
    extracted["audit"] = []
    assert verdict(results_table, extracted, "2.") is None
    assert results_table.number(-0.05) == "-.050" and results_table.signed(1.0) == "+1.00"


def test_results_show_the_boxes_as_they_were_measured() -> None:
    spec = importlib.util.spec_from_file_location("nih_boxes", ROOT / "benchmarks" / "nih_boxes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = json.loads((ROOT / "benchmarks" / "nih_boxes.json").read_text(encoding="utf-8"))
    framed = json.loads((ROOT / "benchmarks" / "nih_frame.json").read_text(encoding="utf-8"))
    assert shows("docs/results.md", module.table(found)) and shows("docs/results.md", module.table(framed))
    whole = module.np.zeros((module.FINE, module.FINE))
    whole[:128, :128] = 1.0
    quarter = module.Box(0.0, 0.0, 0.25, 0.5)
    assert module._held(whole, quarter) == (0.5, 0.5)


def test_results_show_the_settings_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    settings_table = importlib.import_module("settings_table")
    shown = settings_table.table(settings_table.load(sorted((ROOT / "benchmarks").glob("ablation_*.json"))))
    assert shows("docs/results.md", shown)


def test_results_show_sides_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    extracted = json.loads((ROOT / "benchmarks" / "sides.json").read_text(encoding="utf-8"))
    sides = importlib.import_module("sides")
    assert shows("docs/results.md", sides.table(extracted))
    named = {entry["arm"]: entry["rows"] for entry in extracted["arms"]}
    assert all(row(named["full"], test=f"{test}_report")["n"] > 400 for test in ("side_accuracy", "wrong_side"))
