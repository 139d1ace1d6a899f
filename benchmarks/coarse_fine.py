"""With and without coarse and fine, two seeds: pairs of settings of recipes/development.yaml.

    python benchmarks/coarse_fine.py extract runs/development > benchmarks/coarse_fine.json
    python benchmarks/coarse_fine.py table benchmarks/coarse_fine.json

The two settings of a pair differ in `student.patches` alone. Audit rows are means over the seeds, seeds averaged inside
each resample of patients (docs/faithfulness.md). No figure is kept by case, so the differences have no interval.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from results_table import Row, signed, with_interval

#: A pair's name in the table -> (setting without, setting with).
PAIRS: Final = {"12,000 visits": ("texts", "texts-fine"), "24,000 visits": ("long", "long-fine")}
ARM: Final = "full"
#: (name, average, value of `uncertain`) -> its title.
SCORES: Final = {
    ("report_f1", "micro", "positive"): "report_f1",
    ("auc", "micro", "negative"): "micro-AUC",
    ("auc", "macro", "negative"): "macro-AUC",
}
AUDIT: Final = {
    "pointing_game": "pointing game, 16 x 16 patches",
    "pointing_game_small": "... small findings",
    "pointing_game_medium": "... medium",
    "pointing_game_large": "... large",
    "mask_mass": "mask mass",
    "mask_mass_small": "... of small findings",
    "mask_mass_medium": "... of medium",
    "mask_mass_large": "... of large",
    "side_flip_report": "moved to the other side and said there: report",
    "side_flip_head": "... head",
    "side_flip_map": "... map",
    "contradiction_report": "contradictory reports",
}


def extract(sweep: Path) -> dict[str, Any]:
    """Scores and audit figures of `full` in every setting of the pairs."""
    return {"settings": {name: _setting(sweep / name) for pair in PAIRS.values() for name in pair}}


def _setting(run: Path) -> dict[str, Any]:
    scores = [row for row in _load(run / "evaluation" / "scores.json") if _is_headline(row)]
    audit = [row for row in _load(run / "audit" / "audit.json") if row["arm"] == ARM and row["test"] in AUDIT]
    return {
        "seeds": scores[0]["seeds"],
        "scores": [{key: row[key] for key in ("name", "average", "value", "ci95", "n", "per_seed")} for row in scores],
        "audit": [{key: row[key] for key in ("test", "value", "ci95", "n", "baseline", "reason")} for row in audit],
    }


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _is_headline(row: Row) -> bool:
    where = (row["arm"], row["reference"], row["split"], row["subgroup"], row["observations"])
    named = (row["name"], row["average"], row["uncertain"]) in SCORES
    return named and where == (ARM, "truth", "test", None, 14)


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row a measure, for each pair both students and their difference."""
    head = [f"{pair}: {kind}" for pair in PAIRS for kind in ("single", "coarse and fine", "difference")]
    lines = [f"| | n | {' | '.join(head)} |", "|---" * (2 + len(head)) + "|"]
    for name, average, uncertain in SCORES:
        wanted = {"name": name, "average": average}
        lines.append(_line(found, SCORES[name, average, uncertain], "scores", wanted))
    lines += [_line(found, title, "audit", {"test": test}) for test, title in AUDIT.items()]
    return "\n".join(lines)


def _line(found: Mapping[str, Any], title: str, kind: str, wanted: Mapping[str, str]) -> str:
    rows = {name: _first(setting[kind], wanted) for name, setting in found["settings"].items()}
    numbers = sorted({row["n"] for row in rows.values()})
    n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"| {title} | {n} | {' | '.join(_cells(rows))} |"


def _first(rows: list[Row], wanted: Mapping[str, str]) -> Row:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _cells(rows: Mapping[str, Row]) -> Iterator[str]:
    for without, with_it in PAIRS.values():
        yield with_interval(rows[without])
        yield with_interval(rows[with_it])
        yield signed(rows[with_it]["value"] - rows[without]["value"])


def main() -> None:
    """Print JSON or Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extract", "table"])
    parser.add_argument("path", type=Path, help="folder of the sweep, or the extract")
    chosen = parser.parse_args()
    if chosen.what == "extract":
        json.dump(extract(chosen.path), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        print(table(_load(chosen.path)))


if __name__ == "__main__":
    main()
