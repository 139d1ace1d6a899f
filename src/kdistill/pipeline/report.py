"""A run's HTML report: one self-contained page of what was run, what came out, and what speaks against it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kdistill.config import parse_yaml
from kdistill.explain.html import asset, document, table, text
from kdistill.pipeline.report_cases import explained_studies, pair_section
from kdistill.pipeline.report_files import RunFiles, load_run
from kdistill.pipeline.report_tables import (
    audit_section,
    bullet_list,
    comparison_section,
    count_section,
    curve_section,
    definition_section,
    missing,
    provenance_section,
    score_tables,
)
from kdistill.studies import store

logger = logging.getLogger(__name__)

ONE_SEED: Final = "One seed is a demonstration, not evidence."


def write_report(out_path: Path, *, run_dir: Path, recipe_name: str) -> None:
    """Write a run's report. A section whose input is absent says "not run: why"; none is left out.

    Args:
        out_path: The HTML file.
        run_dir: The run, with whatever stages it has.
        recipe_name: What the report is about.

    Raises:
        InputError: A published file is damaged.
    """
    run = load_run(run_dir)
    out_path.write_text(render_report(run, recipe_name), encoding="utf-8")
    logger.info("report: %s", out_path)


def render_report(run: RunFiles, recipe_name: str) -> str:
    """The whole document."""
    sections: tuple[tuple[str, str, Callable[[], str]], ...] = (
        ("results", "Results", lambda: score_tables(run.scores)),
        ("comparisons", "Comparisons", lambda: comparison_section(run.comparisons)),
        ("studies", "Ten explained test studies", lambda: explained_studies(run, recipe_name)),
        ("audit", "Audit: is the explanation true to the image?", lambda: audit_section(run.audit)),
        ("pairs", "Counterfactual pairs", lambda: pair_section(run, recipe_name)),
        ("curves", "Learning curves", lambda: curve_section(run)),
        ("data", "Data", lambda: data_section(run)),
        ("definitions", "What each number means", definition_section),
        ("provenance", "Provenance", lambda: provenance_section(run)),
    )
    links = "".join(f'<a href="#{key}">{text(title)}</a>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{text(title)}</h2>{build()}</section>' for key, title, build in sections)
    page = f"{_head(run, recipe_name)}<nav aria-label='Sections'>{links}</nav><main class='report-main'>{body}</main>"
    style = asset("kdistill.explain", "page.css") + asset("kdistill.pipeline", "report.css")
    return document(title=f"kdistill: {recipe_name}", style=style, script="", body=page)


def _recipe(run: RunFiles) -> dict[str, Any]:
    path = run.run_dir / "recipe.yaml"
    if not path.is_file():
        return {}
    found = parse_yaml(path.read_text(encoding="utf-8"), where=path.name)
    return found if isinstance(found, dict) else {}


def _head(run: RunFiles, recipe_name: str) -> str:
    description = _recipe(run).get("description", "")
    seeds = ", ".join(str(seed) for seed in run.seeds) or "none"
    lines = [
        f"Arms: {', '.join(run.arms) or 'none'}.",
        f"{'Seed' if len(run.seeds) == 1 else 'Seeds'}: {seeds}.",
        *_test_size(run),
    ]
    warning = f'<p class="one-seed">{text(ONE_SEED)}</p>' if len(run.seeds) == 1 else ""
    return (
        f'<header class="head"><h1 class="run">Run <span class="mono">{text(recipe_name)}</span></h1>'
        f'<p class="headline">{text(description)}</p><p>{text(" ".join(lines))}</p>{warning}'
        f"{_primary(run)}{_verdict(run)}</header>"
    )


def _test_size(run: RunFiles) -> list[str]:
    first = next((s for s in run.scores if s.subgroup is None), None)
    return [f"Test set: {first.n} studies of {first.num_patients} patients."] if first else []


def _primary(run: RunFiles) -> str:
    """The primary endpoint in words, each comparison, passed or failed."""
    found = [c for c in run.comparisons if c.primary and c.average == "micro" and c.uncertain == "positive"]
    items, absent = [], []
    for c in found:
        if c.difference is None or c.ci95 is None:
            absent.append(f"{text(c.arm)} − {text(c.baseline)}: not run: {text(c.reason)}")
            continue
        above = c.ci95[0] > 0
        mark = (
            '<strong class="yes">interval above 0</strong>'
            if above
            else '<strong class="no">interval not above 0</strong>'
        )
        relative = "" if c.relative is None else f" ({c.relative:+.1%} relative)"
        items.append(
            f"<li>{mark} {text(c.arm)} − {text(c.baseline)}: {c.difference:+.3f}{relative} "
            f'<span class="ci">[{c.ci95[0]:+.3f}, {c.ci95[1]:+.3f}]</span></li>'
        )
    if absent:  # one line: a demonstration trains few of the arms that the endpoint asks for
        items.append(f"<li><strong>–</strong> {'; '.join(absent)}</li>")
    if not items:
        return ""
    return f'<h2>Primary endpoint: report F1, 14 observations, micro, U+</h2><ul class="primary">{"".join(items)}</ul>'


def _verdict(run: RunFiles) -> str:
    if not run.audit:
        return ""
    failed = sum(row.passed is False for row in run.audit)
    passed = sum(row.passed is True for row in run.audit)
    state = "no" if failed else "yes"
    return (
        f'<p>Audit: <strong class="{state}">{failed} tests failed</strong>, {passed} passed; '
        '<a href="#audit">which</a>.</p>'
    )


def data_section(run: RunFiles) -> str:
    """Studies by data set and split, confounds, and every count of every stage."""
    if not (run.run_dir / "studies" / store.STUDIES).is_file():
        return missing("the studies stage has not been made")
    studies = store.load_studies(run.run_dir / "studies")
    counts = Counter((s.source or "unnamed", s.split) for s in studies)
    texts = Counter((s.source or "unnamed", s.split) for s in studies if s.report)
    rows = []
    for source in sorted({source for source, _ in counts}):
        patients = len({s.patient_id for s in studies if (s.source or "unnamed") == source})
        cells = [
            f"{counts[source, split]} ({texts[source, split]} with a report)" for split in ("train", "validate", "test")
        ]
        rows.append((text(source), *cells, str(patients)))
    parts = [table(("Data set", "Train", "Validate", "Test", "Patients"), rows)]
    confounds = _recipe(run).get("studies", {}).get("confounds", [])
    if confounds:
        parts.append("<h3>Confounds of these data sets</h3>" + bullet_list(confounds))
    if len(rows) > 1:
        parts.append(
            '<p class="hint">Data sets differ in more than disease. Over all of them together an AUC also rewards '
            "telling them apart; the scores within each source are in scores.json.</p>"
        )
    return "".join(parts) + "<h3>Everything that was kept or dropped, by reason</h3>" + count_section(run)
