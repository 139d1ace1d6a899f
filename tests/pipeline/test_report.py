"""The run's HTML report: of a hand-made run, of an empty one, and of the finished tiny run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kdistill.audit.rows import AuditRow
from kdistill.evaluation.comparisons import Comparison
from kdistill.evaluation.scores import Score
from kdistill.explain.explanation import NOTICE
from kdistill.pipeline.report import ONE_SEED, write_report
from kdistill.pipeline.report_cases import Case, choose_cases, outlined
from kdistill.pipeline.report_plots import Interval, Line, forest_plot, line_plot, ticks
from kdistill.records import Study, StudyImage, write_jsonl

PAYLOAD = "<script>alert(1)</script>\"'"


def score(arm: str, name: str, average: str, uncertain: str, value: float | None) -> Score:
    return Score(
        name=name,
        arm=arm,
        split="test",
        average=average,  # type: ignore[arg-type]
        observation=None,
        observations=14,
        uncertain=uncertain,  # type: ignore[arg-type]
        labeler="rules@1",
        reference="truth",
        subgroup=None,
        value=value,
        ci95=None if value is None else (value - 0.0123, value + 0.0123),
        n=57,
        num_positive=31,
        num_patients=29,
        seeds=(0,),
        per_seed=(value,),
        reason=None if value is not None else f"one class only {PAYLOAD}",
    )


def comparison(baseline: str, low: float | None) -> Comparison:
    known = low is not None
    return Comparison(
        name="report_f1",
        arm="full",
        baseline=baseline,
        split="test",
        average="micro",
        observation=None,
        observations=14,
        uncertain="positive",
        labeler="rules@1",
        reference="truth",
        primary=True,
        arm_value=0.61 if known else None,
        baseline_value=0.5 if known else None,
        difference=0.11 if known else None,
        relative=0.22 if known else None,
        ci95=(low, 0.2) if low is not None else None,
        relative_ci95=None,
        p=0.013 if known else None,
        p_holm=0.026 if known else None,
        holm_family="primary",
        test="paired randomisation",
        n=57,
        num_patients=29,
        seeds=(0,),
        baseline_seeds=(0,),
        reason=None if known else "not trained in this run",
    )


def audit_row(test: str, passed: bool | None, value: float | None) -> AuditRow:
    reason = "a reason" if value is not None else f"not run: {PAYLOAD}"
    return AuditRow(test=test, arm="full", value=value, baseline=0.25, ci95=None, n=40, passed=passed, reason=reason)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Scores, comparisons, an audit and studies, as earlier stages publish them; no student."""
    for name in ("evaluation", "audit", "studies"):
        (tmp_path / name).mkdir()
    scores = [
        score("full", "report_f1", "micro", "positive", 0.7391),
        score("full", "auc", "micro", "negative", 0.9127),
        score("report_only", "report_f1", "micro", "positive", 0.6204),
        score("report_only", "auc", "micro", "negative", None),
    ]
    comparisons = [comparison("report_only", 0.02), comparison("template", -0.01), comparison("teacher_label", None)]
    rows = [
        audit_row("side_flip_report", False, 0.8142),
        audit_row("off_target_stability_report", True, 0.9671),
        audit_row("swap_image", None, None),
    ]
    for path, records in (
        ("evaluation/scores.json", scores),
        ("evaluation/comparisons.json", comparisons),
        ("audit/audit.json", rows),
    ):
        (tmp_path / path).write_text(json.dumps([r.model_dump(mode="json") for r in records]))
    write_jsonl(tmp_path / "studies" / "studies.jsonl", [study(n, f"source {PAYLOAD}") for n in range(6)])
    (tmp_path / "recipe.yaml").write_text("description: 'A run <b>'\nstudies:\n  confounds: ['sizes differ']\n")
    return tmp_path


def study(number: int, source: str = "phantom") -> Study:
    image = StudyImage(image_path="a.png", row=number)
    split = "test" if number % 2 else "train"
    return Study(study_id=f"s{number}", patient_id=f"p{number}", split=split, images=(image,), source=source)


def page_of(run_dir: Path) -> str:
    write_report(run_dir / "report.html", run_dir=run_dir, recipe_name=f"demo {PAYLOAD}")
    return (run_dir / "report.html").read_text()


def section(html: str, key: str) -> str:
    return html.split(f'<section id="{key}">')[1].split("<section id=")[0]


def test_numbers_are_those_of_the_files(run_dir: Path) -> None:
    html = page_of(run_dir)
    results = section(html, "results")
    shown = set(re.findall(r"\b0\.\d{3}\b", re.sub(r"<[^>]+>", " ", results)))
    known = {f"{x:.3f}" for v in (0.7391, 0.9127, 0.6204) for x in (v, v - 0.0123, v + 0.0123)}
    assert shown == known
    assert "one class only" in results and "57 (29)" in results
    differences = section(html, "comparisons")
    assert "+0.110" in differences and "[+0.020, +0.200]" in differences and "0.0130" in differences
    assert "not run: not trained in this run" in differences
    head = html.split("<nav")[0]
    assert head.count("interval above 0") == 1 and head.count("interval not above 0") == 1
    assert "1 tests failed" in head and "A run &lt;b&gt;" in head


def test_auc_differences_stand_beside_those_of_f1(run_dir: Path) -> None:
    auc = {"name": "auc", "uncertain": "negative", "primary": False, "difference": 0.0684, "labeler": None}
    other = {**auc, "uncertain": "positive", "difference": 0.0791}
    first = comparison("report_only", 0.02)
    rows = [first, first.model_copy(update=auc), first.model_copy(update=other)]
    path = run_dir / "evaluation" / "comparisons.json"
    path.write_text(json.dumps([row.model_dump(mode="json") for row in rows]))
    differences = section(page_of(run_dir), "comparisons")
    assert "auc micro" in differences and "+0.068" in differences
    assert "+0.079" not in differences  # the main policy of AUC reads uncertain as negative


def test_failed_audit_rows_are_open_and_first(run_dir: Path) -> None:
    audit = section(page_of(run_dir), "audit")
    titles = re.findall(r"<details( open)?><summary>([^<]+)</summary>", audit)
    assert titles[0] == (" open", "Failed: 1") and titles[1] == (" open", "Passed: 1")
    assert "0.814" in audit and "0.967" in audit and "0.250" in audit


def test_hostile_text_stays_text(run_dir: Path) -> None:
    html = page_of(run_dir)
    assert html.count("<script>") == 1 and "alert(1)</script>" not in html
    assert html.count("&lt;script&gt;") >= 3 and "sizes differ" in html and NOTICE in html


def test_missing_sections_say_why(tmp_path: Path) -> None:
    html = page_of(tmp_path)
    for key in ("results", "comparisons", "studies", "audit", "pairs", "curves", "data", "provenance"):
        assert "not run: " in section(html, key), key


class _Counter(HTMLParser):
    """Checks that every element that is opened is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img", "br", "input", "rect", "stop"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_of_a_finished_run(tiny_run: tuple[Path, Path]) -> None:
    _, run = tiny_run
    html = (run / "report" / "report.html").read_text()
    parser = _Counter()
    parser.feed(html)
    assert parser.open == []
    assert ONE_SEED in html.split("<nav")[0]
    for key in ("results", "studies", "audit", "pairs", "curves", "data", "definitions", "provenance"):
        assert not section(html, key).lstrip().startswith('<p class="missing">'), key
    cases = section(html, "studies")
    assert 1 <= cases.count('<article class="case') <= 10 and "Evidence map of" in cases
    assert section(html, "pairs").count('<article class="pair"') >= 3
    assert not re.search(r'(?:src|href)="(?!data:image/png|#)', html) and " style=" not in html


def test_audit_of_a_finished_run(tiny_run: tuple[Path, Path]) -> None:
    rows = json.loads((tiny_run[1] / "audit" / "audit.json").read_text())
    assert all(set(r) == {"test", "arm", "value", "baseline", "ci95", "n", "passed", "reason"} for r in rows)
    assert len({(r["test"], r["arm"]) for r in rows}) == len(rows)
    assert all(r["value"] is not None or r["reason"].startswith("not run: ") for r in rows)
    by_test = {(r["test"], r["arm"]): r for r in rows}
    for test in ("pointing_game", "weight_randomisation", "swap_image", "off_target_stability_report"):
        assert by_test[test, "full"]["value"] is not None, test
    assert by_test["citations_verbatim", "teacher"]["value"] == 1.0
    for method in ("gradcam", "hirescam"):
        assert by_test[f"pointing_game_{method}", "label"]["value"] is not None, method


def test_cases_are_chosen_by_rule_alone() -> None:
    edema = frozenset({"Edema"})
    cases = [Case(study(n), edema if n % 3 else frozenset(), edema if n % 2 else frozenset()) for n in range(60)]
    chosen = choose_cases(cases, "run")
    assert [case.is_wrong for case in chosen] == [True] * 5 + [False] * 5
    assert all(case.known == edema for case in chosen[5:])
    assert chosen == choose_cases(cases[::-1], "run") != choose_cases(cases, "other run")


def test_plots() -> None:
    plot = forest_plot([Interval(PAYLOAD, 0.1, 0.05, 0.15, "good"), Interval("b", -0.1, None, None, "open")], title="t")
    assert "+0.100" in plot and "-0.100" in plot and "<script>" not in plot
    curve = line_plot([Line("a", [0, 10], [1.0, float("nan")]), Line("b", [0, 10], [2.0, 3.0])], title="t", y_label="y")
    assert curve.count("<polyline") == 2 and "nan" not in curve
    assert line_plot([], title="t", y_label="y") == ""
    assert ticks(-0.11, 0.23) == [-0.1, 0.0, 0.1, 0.2]


def test_outline_is_the_edge_of_the_mask() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    drawn = outlined(np.full((8, 8), 9, np.uint8), mask)
    assert (drawn[3:5, 3:5] == 9).all() and (drawn[2, 2:6] != 9).all() and (drawn[0] == 9).all()
