"""The page of a sweep: what each setting's runs found, side by side, from their published files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kdistill.evaluation.compare import holm
from kdistill.evaluation.comparisons import Comparison
from kdistill.evaluation.scores import Score
from kdistill.explain.html import asset, document, table, text
from kdistill.pipeline.report_files import RunFiles, load_run
from kdistill.pipeline.report_plots import Interval, Line, Reliability, forest_plot, line_plot, reliability_plot
from kdistill.pipeline.report_tables import figure, missing
from kdistill.pipeline.sweep_settings import Setting, Sweep

PAGE, TABLE, FIGURES = "sweep.html", "table.md", "sweep.json"
#: Arm whose reliability is drawn.
_MAIN_ARM: Final = "full"


class Found(NamedTuple):
    """A setting and what its run published."""

    setting: Setting
    run: RunFiles


class Difference(NamedTuple):
    """A primary comparison of one setting; p is adjusted by Holm over all settings and baselines of the sweep."""

    setting: str
    comparison: Comparison
    p_holm: float | None


def write_sweep(sweep: Sweep, out_dir: Path) -> Path:
    """Write sweep.json, table.md and sweep.html from the runs below `out_dir`.

    Returns:
        The page.

    Raises:
        InputError: A published file of a run is damaged.
    """
    found = [Found(setting, load_run(out_dir / setting.name)) for setting in sweep.settings]
    differences = primary_differences(found)
    lines = [_record(d) for d in differences]
    (out_dir / FIGURES).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    (out_dir / TABLE).write_text(_markdown(found, differences), encoding="utf-8")
    page = out_dir / PAGE
    page.write_text(_page(sweep, found, differences), encoding="utf-8")
    return page


def primary_differences(found: Sequence[Found]) -> list[Difference]:
    """The primary endpoint of every setting. Asked in many settings at once, so p is adjusted over all of them."""
    rows = [(f.setting.name, c) for f in found for c in f.run.comparisons if c.primary and c.difference is not None]
    adjusted = holm([c.p for _, c in rows])
    return [Difference(name, c, p) for (name, c), p in zip(rows, adjusted, strict=True)]


def _record(d: Difference) -> dict[str, Any]:
    return {"setting": d.setting, **d.comparison.model_dump(mode="json"), "p_holm_sweep": d.p_holm}


def headline(run: RunFiles, name: str, arm: str) -> Score | None:
    """Score of an arm against the run's leading reference: 14 observations, micro, U+ (AUC: uncertain negative)."""
    uncertain = "negative" if name == "auc" else "positive"
    for score in run.scores:
        if (
            (score.name, score.arm, score.average, score.observations) == (name, arm, "micro", 14)
            and score.uncertain == uncertain
            and score.subgroup is None
            and score.reference == _lead(run)
        ):
            return score
    return None


def _lead(run: RunFiles) -> str:
    primary = next((c.reference for c in run.comparisons if c.primary), None)
    return primary or (run.scores[0].reference if run.scores else "")


def _markdown(found: Sequence[Found], differences: Sequence[Difference]) -> str:
    lines = ["| setting | arm | report_f1 micro U+ | micro-AUC | n | seeds |", "|---|---|---|---|---|---|"]
    for setting, run in found:
        for arm in run.arms:
            f1, auc = headline(run, "report_f1", arm), headline(run, "auc", arm)
            n, seeds = ("-", "-") if f1 is None else (str(f1.n), ", ".join(map(str, f1.seeds)))
            lines.append(f"| {setting.name} | {arm} | {_plain(f1)} | {_plain(auc)} | {n} | {seeds} |")
    lines += [
        "",
        "| setting | difference | value | relative | p | p (Holm over the sweep) |",
        "|---|---|---|---|---|---|",
    ]
    for d in differences:
        c = d.comparison
        relative = "-" if c.relative is None else f"{c.relative:+.1%}"
        value = f"{c.difference:+.3f}" + (f" [{c.ci95[0]:+.3f}, {c.ci95[1]:+.3f}]" if c.ci95 else "")
        p, adjusted = ("-" if x is None else f"{x:.4f}" for x in (c.p, d.p_holm))
        lines.append(f"| {d.setting} | {c.arm} - {c.baseline} | {value} | {relative} | {p} | {adjusted} |")
    return "\n".join(lines) + "\n"


def _plain(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.3f}" + (f" [{score.ci95[0]:.3f}, {score.ci95[1]:.3f}]" if score.ci95 else "")


def _page(sweep: Sweep, found: Sequence[Found], differences: Sequence[Difference]) -> str:
    sections = (
        ("Differences", _forest(differences)),
        ("Scores", _score_table(found)),
        (f"Over {sweep.curve_over}", _curves(sweep, found)),
        ("Reliability", _reliability(found)),
    )
    body = "".join(f"<section><h2>{text(title)}</h2>{part}</section>" for title, part in sections)
    head = (
        f"<header class='head'><h1 class='run'>{text(sweep.name)}</h1><p>{text(sweep.description)}</p>"
        f"<p>{len(found)} settings of {text(sweep.base)}; each is a run with a report of its own.</p></header>"
    )
    style = asset("kdistill.explain", "page.css") + asset("kdistill.pipeline", "report.css")
    page = f"{head}<main class='report-main'>{body}</main>"
    return document(title=f"kdistill: {sweep.name}", style=style, script="", body=page, author="program")


def _forest(differences: Sequence[Difference]) -> str:
    if not differences:
        return missing("no setting has the arms of the primary endpoint")
    rows = [_interval(d) for d in differences]
    note = text(differences[0].comparison.test)
    return (
        forest_plot(rows, title="Primary endpoint in every setting")
        + f"<p class='hint'>{note}. Stars: p &lt; 0.05 after Holm over the {len(rows)} differences of the sweep.</p>"
    )


def _interval(d: Difference) -> Interval:
    c = d.comparison
    assert c.difference is not None
    low, high = c.ci95 or (None, None)
    mark = "good" if low is not None and low > 0 else "bad" if high is not None and high < 0 else "open"
    star = "★ " if d.p_holm is not None and d.p_holm < 0.05 else ""
    return Interval(f"{star}{d.setting}: {c.arm} − {c.baseline}", c.difference, low, high, mark)


def _score_table(found: Sequence[Found]) -> str:
    rows = []
    for setting, run in found:
        for arm in run.arms:
            f1, auc = headline(run, "report_f1", arm), headline(run, "auc", arm)
            cells = [figure(s.value, s.ci95, s.reason) if s is not None else missing("not scored") for s in (f1, auc)]
            rows.append((text(setting.name), f'<span class="mono">{text(arm)}</span>', *cells, str(f1.n if f1 else 0)))
    return table(("Setting", "Arm", "report_f1 micro U+", "micro-AUC", "n"), rows)


def _curves(sweep: Sweep, found: Sequence[Found]) -> str:
    """report_f1 of each arm over one factor, a plot for each combination of the other factors."""
    axis = sweep.curve_over
    groups: dict[tuple[tuple[str, float], ...], list[Found]] = {}
    for item in found:
        factors = item.setting.factors
        if axis is not None and axis in factors:
            others = tuple(sorted((key, value) for key, value in factors.items() if key != axis))
            groups.setdefault(others, []).append(item)
    plots = [
        line_plot(_lines(items, str(axis)), title=_label(others), y_label=_label(others), x_label=str(axis))
        for others, items in groups.items()
        if len(items) > 1
    ]
    return f'<div class="plots">{"".join(plots)}</div>' if plots else missing("no factor takes two values")


def _label(others: Sequence[tuple[str, float]]) -> str:
    return ", ".join(["report_f1", *(f"{key} {value:g}" for key, value in others)])


def _lines(items: Sequence[Found], axis: str) -> list[Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for setting, run in items:
        for arm in run.arms:
            score = headline(run, "report_f1", arm)
            if score is not None and score.value is not None:
                points.setdefault(arm, []).append((setting.factors[axis], score.value))
    shared = {arm: sorted(found) for arm, found in points.items() if len(found) > 1}
    return [Line(arm, [x for x, _ in found], [y for _, y in found]) for arm, found in shared.items()]


def _reliability(found: Sequence[Found]) -> str:
    """Observed rate against mean probability of the main arm's first seed, a diagram a setting."""
    plots = []
    for setting, run in found:
        path = run.run_dir / "evaluation" / "calibration.json"
        if not path.is_file():
            continue
        rows: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        row = next((r for r in rows if r["arm"] == _MAIN_ARM and r["reference"] == _lead(run)), None)
        if row is not None:
            bins = [b for b in row["bins"] if b["n"]]
            points = [Reliability(b["mean_probability"], b["observed_rate"], b["n"]) for b in bins]
            plots.append(reliability_plot(points, title=f"{setting.name}: {_MAIN_ARM}, seed {row['seed']}"))
    return f'<div class="plots">{"".join(plots)}</div>' if plots else missing("no arm has probabilities")
