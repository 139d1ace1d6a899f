"""Plots of the run's report as inline SVG: no image files, readable without a script, sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from kdistill.explain.html import text

#: Okabe & Ito's palette without black: told apart with every common colour vision deficiency, light enough on dark.
PALETTE: Final = ("#56b4e9", "#e69f00", "#2bc48a", "#f0e442", "#cc79a7", "#ff8c5a", "#9db4ff", "#b8c4cc")


class Interval(NamedTuple):
    """One line of a forest plot. `mark`: "good" (interval above 0), "bad" (below), "open"."""

    label: str
    value: float
    low: float | None
    high: float | None
    mark: str


class Line(NamedTuple):
    """One curve."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Reliability(NamedTuple):
    """One bin of a reliability diagram: n cases of a mean probability, and the share of them that are positive."""

    probability: float
    observed: float
    n: int


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that span [low, high].

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = max(high - low, 1e-9)
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def forest_plot(rows: Sequence[Interval], *, title: str) -> str:
    """Differences with their intervals around a line at zero."""
    ends = [x for r in rows for x in (r.value, r.low, r.high) if x is not None]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    pad = 0.06 * max(high - low, 1e-3)
    low, high = low - pad, high + pad
    left, width, step = 330, 480, 26
    height = step * len(rows) + 34

    def at(value: float) -> float:
        return left + width * (value - low) / (high - low)

    parts = [
        f'<line class="axis" x1="{at(t):.1f}" x2="{at(t):.1f}" y1="4" y2="{height - 26}"/>'
        f'<text class="tick" x="{at(t):.1f}" y="{height - 8}" text-anchor="middle">{t:+g}</text>'
        for t in ticks(low, high)
    ]
    parts.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="4" y2="{height - 26}"/>')
    for index, row in enumerate(rows):
        y = step * index + 18
        parts.append(f'<text class="label" x="{left - 14}" y="{y + 4}" text-anchor="end">{text(row.label)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(f'<line class="{row.mark}" x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<circle class="{row.mark}" cx="{at(row.value):.1f}" cy="{y}" r="4.5"/>'
            f'<text class="number" x="{left + width + 12}" y="{y + 4}">{row.value:+.3f}</text>'
        )
    return (
        f'<svg class="forest" viewBox="0 0 900 {height}" role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'
    )


def line_plot(lines: Sequence[Line], *, title: str, y_label: str, x_label: str = "steps") -> str:
    """Curves over optimiser steps or another quantity that starts at zero, with a legend."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if math.isfinite(y)]
    if not xs or not ys:
        return ""
    low, high, last = min(ys), max(ys), max(xs)
    pad = 0.05 * max(high - low, 1e-6)
    low, high = low - pad, high + pad
    left, top, width, height = 52, 26, 350, 170

    def at(x: float, y: float) -> str:
        return f"{left + width * x / max(last, 1e-9):.1f},{top + height * (1 - (y - low) / (high - low)):.1f}"

    parts = [f'<text class="title" x="{left}" y="14">{text(y_label)}</text>']
    for tick in ticks(low, high, 4):
        y = float(at(0, tick).split(",")[1])
        parts.append(
            f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in ticks(0, last, 4):
        x = float(at(tick, low).split(",")[0])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{top + height + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text class="tick" x="{left + width}" y="{top + height + 28}" text-anchor="end">{text(x_label)}</text>'
    )
    for index, line in enumerate(lines):
        colour = PALETTE[index % len(PALETTE)]
        dash = f' stroke-dasharray="{(None, "5 3", "2 2")[index // len(PALETTE) % 3]}"' if index >= len(PALETTE) else ""
        points = " ".join(at(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        y = top + height + 44 + 15 * (index // 2)
        x = left + 190 * (index % 2)
        parts.append(
            f'<line x1="{x}" x2="{x + 16}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2.5"{dash}/>'
            f'<text class="tick" x="{x + 22}" y="{y}">{text(line.label)}</text>'
        )
    total = top + height + 44 + 15 * ((len(lines) + 1) // 2)
    return f'<svg class="curves" viewBox="0 0 420 {total}" role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'


def reliability_plot(points: Sequence[Reliability], *, title: str) -> str:
    """Observed rate over mean probability; the area of a point grows with its cases, the diagonal is perfection."""
    left, top, side = 52, 26, 210
    largest = max((point.n for point in points), default=1)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * (1 - y)

    parts = [f'<text class="title" x="{left}" y="14">{text(title)}</text>']
    for tick in ticks(0.0, 1.0):
        (x, base), (_, y) = at(tick, 0), at(0, tick)
        parts.append(
            f'<line class="axis" x1="{left}" x2="{left + side}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
            f'<text class="tick" x="{x:.1f}" y="{base + 15:.1f}" text-anchor="middle">{tick:g}</text>'
        )
    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts.append(f'<line class="zero" x1="{x0}" x2="{x1}" y1="{y0}" y2="{y1}"/>')
    for point in points:
        x, y = at(point.probability, point.observed)
        radius = 2 + 7 * math.sqrt(point.n / largest)
        hint = f"{point.n} cases, mean probability {point.probability:.3f}, positive {point.observed:.3f}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{PALETTE[0]}" fill-opacity="0.8">'
            f"<title>{text(hint)}</title></circle>"
        )
    parts.append(
        f'<text class="tick" x="{left + side}" y="{top + side + 29}" text-anchor="end">mean probability</text>'
    )
    return (
        f'<svg class="curves" viewBox="0 0 420 {top + side + 36}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg>"
    )
