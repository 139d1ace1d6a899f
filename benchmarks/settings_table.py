"""Where the gain holds: the finished settings of recipes/ablation.yaml side by side.

    python benchmarks/results_table.py extract runs/ablation/strong-1000 > benchmarks/ablation_strong-1000.json
    python benchmarks/settings_table.py benchmarks/ablation_*.json

p is adjusted by Holm over all comparisons that are shown (docs/protocol.md, fourth protocol). A setting that was not
run is not in the table; the last line says how many there are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from results_table import Figures, Row, number, signed, with_interval

from kdistill.evaluation.compare import holm

SWEEP: Final = Path(__file__).parents[1] / "recipes" / "ablation.yaml"
BASELINES: Final = ("report_only", "template")
HEADER: Final = (
    "studies",
    "P(tag given edema)",
    "report_only",
    "template",
    "full",
    *(f"full − {baseline}" for baseline in BASELINES),
    "micro-AUC template / full",
    "shortcut report_only / full",
)


def load(paths: Sequence[Path]) -> dict[str, Figures]:
    """Setting -> its figures; the setting is the file's name after "ablation_"."""
    return {
        path.stem.removeprefix("ablation_"): Figures(json.loads(path.read_text(encoding="utf-8"))) for path in paths
    }


def factors() -> dict[str, Mapping[str, float]]:
    """Setting -> its factors, in the sweep's order."""
    sweep = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    return {setting["name"]: setting["factors"] for setting in sweep["settings"]}


def differences(settings: Mapping[str, Figures]) -> dict[tuple[str, str], tuple[Row, float]]:
    """(setting, baseline) -> its comparison and p adjusted over all of them."""
    found = {}
    for name, figures in settings.items():
        for baseline in BASELINES:
            row = figures.comparison("report_f1", "full", baseline)
            if row is not None and row["p"] is not None:
                found[name, baseline] = row
    adjusted = holm([row["p"] for row in found.values()])
    return {key: (row, p) for (key, row), p in zip(found.items(), adjusted, strict=True) if p is not None}


def table(settings: Mapping[str, Figures]) -> str:
    """Markdown, one row for each finished setting, in the sweep's order."""
    known = factors()
    compared = differences(settings)
    rows = [_row(known[name], name, settings[name], compared) for name in known if name in settings]
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER), *(f"| {' | '.join(row)} |" for row in rows)]
    lines += ["", f"{len(rows)} of {len(known)} settings; p by Holm over {len(compared)} comparisons."]
    return "\n".join(lines)


def _row(
    factor: Mapping[str, float], name: str, figures: Figures, compared: Mapping[tuple[str, str], tuple[Row, float]]
) -> Iterator[str]:
    yield f"{factor['num_train']:,.0f}"
    yield number(factor["p_tag_with_finding"])
    for arm in (*BASELINES, "full"):
        yield with_interval(figures.score("report_f1", arm))
    for baseline in BASELINES:
        row, p = compared[name, baseline]
        low, high = row["ci95"]
        yield f"{signed(row['difference'])} [{signed(low)}, {signed(high)}], {row['relative']:+.0%}, p {p:.4f}"
    yield " / ".join(number(_value(figures.score("auc", arm))) for arm in ("template", "full"))
    yield " / ".join(number(effect(figures, arm)) for arm in ("report_only", "full"))


def _value(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None else row["value"]


def effect(figures: Figures, arm: str) -> float | None:
    """Mean change in the rate at which an arm reports the tied finding when the mark alone is shown."""
    row = figures.audited("shortcut_effect_report", arm)
    if row is None and (compared := figures.audited(f"shortcut_effect_report_vs_{arm}", "full")):
        return compared["baseline"]  # extracts made before 2026-11-26 hold other arms' effects there
    return _value(row)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extracts", type=Path, nargs="+")
    print(table(load(parser.parse_args().extracts)))


if __name__ == "__main__":
    main()
