"""The pictures of docs/results.md, drawn from the JSON files of this folder alone.

    python benchmarks/result_figures.py [--out docs/figures]

`results_forest.png`       `full` minus each other arm in report_f1 (main.json)
`results_curves.png`       report_f1 over the number of training studies (ablation_*.json)
`results_reliability.png`  observed rate over probability, `full` and `label` (calibration.json)

Every interval is 95%, by bootstrap over patients. Look at each picture after drawing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import settings_table
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_table import PRIMARY, Figures, Row, signed

from kdistill.pipeline.report_plots import Interval

HERE: Final = Path(__file__).parent
#: Inches; at 800 px of page width a letter of 11 points is 15 px high.
WIDTH: Final = 8.0
DPI: Final = 160
STYLE: Final = {
    "font.size": 11,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6b7075",
    "axes.labelcolor": "#24292e",
    "xtick.color": "#24292e",
    "ytick.color": "#24292e",
    "text.color": "#24292e",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
#: Okabe and Ito's palette, its darker half: told apart on white with every common colour vision deficiency.
COLOURS: Final = {"full": "#0072b2", "template": "#d55e00", "report_only": "#5f6368", "label": "#d55e00"}
MARKERS: Final = {"full": "o", "template": "s", "report_only": "^", "label": "s"}
MARKS: Final = {"good": "#0072b2", "bad": "#d55e00", "open": "#5f6368"}
GRID: Final = {"color": "#e3e6e8", "linewidth": 0.8}
#: The arms that are `full` with something left out, changed or read off its head.
PARTS: Final = (
    "full_displaced_where",
    "full_no_impression",
    "full_no_where",
    "classifier_template_full",
    "full_no_rationale",
    "full_mirrored_where",
    "full_no_token",
)
CURVES: Final = ("full", "template", "report_only")
INTERVALS: Final = "95% intervals by patient bootstrap"


class Point(NamedTuple):
    """A score with its interval at one number of training studies."""

    x: float
    value: float
    low: float
    high: float


def differences(extracted: Mapping[str, Any], arms: Sequence[str]) -> list[Interval]:
    """`full` minus these arms in report_f1, largest first; an arm that was not compared is left out."""
    figures = Figures(extracted)
    rows = [row for arm in arms if (row := figures.comparison("report_f1", "full", arm)) and row["ci95"]]
    return [_interval(row) for row in sorted(rows, key=lambda row: -row["difference"])]


def _interval(row: Row) -> Interval:
    low, high = row["ci95"]
    mark = "good" if low > 0 else "bad" if high < 0 else "open"
    return Interval(row["baseline"], row["difference"], low, high, mark)


def forest(extracted: Mapping[str, Any]) -> Figure:
    """Two groups, one scale: the controls of the primary endpoint, and `full` with one thing changed."""
    groups = {
        "minus a control (primary endpoint)": differences(extracted, PRIMARY),
        "minus itself with one thing changed": differences(extracted, PARTS),
    }
    figure = Figure(figsize=(WIDTH, 7.0), layout="constrained")
    heights = [len(rows) for rows in groups.values()]
    panels = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for axes, (title, rows) in zip(panels, groups.items(), strict=True):
        _forest_panel(axes, rows)
        axes.set_title(f"full {title}", loc="left", fontsize=11, weight="bold")
    n, seeds = _cases(extracted)
    panels[-1].set_xlabel(
        f"difference in report_f1 (micro, 14 observations; {INTERVALS})\n"
        f"n = {n} test studies, {seeds} seeds; blue: interval above 0, orange: below, grey: includes 0"
    )
    return figure


def _cases(extracted: Mapping[str, Any]) -> tuple[int, int]:
    row = Figures(extracted).score("report_f1", "full")
    assert row is not None
    return row["n"], len(row["seeds"])


def _forest_panel(axes: Axes, rows: Sequence[Interval]) -> None:
    axes.axvline(0, color="#24292e", linewidth=1.0, zorder=1)
    axes.grid(axis="x", **GRID)
    for place, row in enumerate(rows):
        assert row.low is not None and row.high is not None
        errors = [[row.value - row.low], [row.high - row.value]]
        colour = MARKS[row.mark]
        axes.errorbar(
            row.value,
            place,
            xerr=errors,
            fmt="o",
            markersize=6,
            color=colour,
            capsize=3,
            linewidth=1.8,
            label=row.label,
        )
        axes.annotate(
            signed(row.value), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=10, color=colour
        )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def curves(settings: Mapping[str, Figures]) -> Figure:
    """A panel for each strength of the shortcut, strongest first."""
    factors = settings_table.factors()
    strengths = sorted({factors[name]["p_tag_with_finding"] for name in settings}, reverse=True)
    sizes = sorted({factors[name]["num_train"] for name in settings})
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(1, len(strengths), sharey=True, squeeze=False)[0]
    for axes, strength in zip(panels, strengths, strict=True):
        here = {f["num_train"]: settings[n] for n, f in factors.items() if n in settings and _is(f, strength)}
        for arm in CURVES:
            _curve(axes, arm, list(points(here, arm)))
        axes.set_title(f"P(tag | edema) = {strength:g}", fontsize=11, weight="bold")
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.grid(axis="y", **GRID)
    panels[0].set_ylabel("report_f1 (micro, 14 observations)")
    panels[0].set_ylim(bottom=0)
    figure.supxlabel(f"training studies (log scale); bars: {INTERVALS}", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.get_layout_engine().set(w_pad=0.08)
    figure.legend(handles, labels, loc="outside upper center", ncols=len(CURVES), frameon=False)
    return figure


def _is(factor: Mapping[str, float], strength: float) -> bool:
    return math.isclose(factor["p_tag_with_finding"], strength)


def points(settings: Mapping[float, Figures], arm: str) -> Iterator[Point]:
    """An arm's report_f1 by number of training studies, ascending."""
    for size in sorted(settings):
        row = settings[size].score("report_f1", arm)
        if row is not None and row["ci95"] is not None:
            yield Point(size, row["value"], *row["ci95"])


def _curve(axes: Axes, arm: str, found: Sequence[Point]) -> None:
    errors = [[p.value - p.low for p in found], [p.high - p.value for p in found]]
    xs, ys = [p.x for p in found], [p.value for p in found]
    line = "-" if len(found) > 1 else "none"
    axes.errorbar(
        xs,
        ys,
        yerr=errors,
        color=COLOURS[arm],
        marker=MARKERS[arm],
        linestyle=line,
        capsize=3,
        linewidth=1.8,
        markersize=6,
        label=arm,
    )


def reliability(found: Mapping[str, Any]) -> Figure:
    """Observed rate over mean probability for each arm, and below how many items stand behind each bin."""
    figure = Figure(figsize=(WIDTH, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]})
    upper.plot([0, 1], [0, 1], color="#8a9096", linestyle="--", linewidth=1.2, label="as often as said")
    for number, arm in enumerate(found["arms"]):
        _reliability_arm(upper, arm)
        _counts(lower, arm, number, len(found["arms"]))
    first = found["arms"][0]
    upper.set(ylabel="share that is truly positive", ylim=(0, 1.02), xlim=(0, 1))
    upper.grid(**GRID)
    upper.legend(loc="upper left", frameon=True, edgecolor="none", framealpha=0.9)
    lower.set(yscale="log", ylabel="items in bin", ylim=(10, None))
    lower.grid(axis="y", **GRID)
    lower.set_xlabel(
        f"probability that the student states, ten bins ({INTERVALS})\n"
        f"{first['num_studies']} test studies x 14 observations x {len(first['seeds'])} seeds; "
        "ECE: expected calibration error"
    )
    return figure


def _reliability_arm(axes: Axes, arm: Mapping[str, Any]) -> None:
    bins = [b for b in arm["bins"] if b["n"] and b["observed_ci95"] is not None]
    rates = [b["observed_rate"] for b in bins]
    errors = [
        [rate - b["observed_ci95"][0] for rate, b in zip(rates, bins, strict=True)],
        [b["observed_ci95"][1] - rate for rate, b in zip(rates, bins, strict=True)],
    ]
    low, high = arm["ece"]["ci95"]
    name = arm["arm"]
    axes.errorbar(
        [b["mean_probability"] for b in bins],
        rates,
        yerr=errors,
        color=COLOURS[name],
        marker=MARKERS[name],
        capsize=3,
        linewidth=1.6,
        markersize=6,
        label=f"{name}: ECE {arm['ece']['value']:.3f} [{low:.3f}, {high:.3f}]",
    )


def _counts(axes: Axes, arm: Mapping[str, Any], number: int, num_arms: int) -> None:
    width = 0.08 / num_arms
    places = [b["low"] + 0.01 + width * (number + 0.5) for b in arm["bins"]]
    axes.bar(places, [b["n"] for b in arm["bins"]], width=width, color=COLOURS[arm["arm"]], label=arm["arm"], zorder=2)


def draw() -> dict[str, Figure]:
    """File name -> figure."""
    settings = settings_table.load(sorted(HERE.glob("ablation_*.json")))
    with rc_context(STYLE):
        return {
            "results_forest.png": forest(_read("main.json")),
            "results_curves.png": curves(settings),
            "results_reliability.png": reliability(_read("calibration.json")),
        }


def _read(name: str) -> Any:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "figures")
    out = parser.parse_args().out
    for name, figure in draw().items():
        with rc_context(STYLE):
            figure.savefig(out / name, dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main()
