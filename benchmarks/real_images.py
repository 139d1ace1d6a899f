"""Real films with and without distillation, by observation (docs/protocol.md, fifth protocol).

    python benchmarks/real_images.py extract runs/real_images > benchmarks/real_images.json
    python benchmarks/real_images.py table benchmarks/real_images.json

`extract` keeps the AUC of `full`, `label` and `template`, the floors and the paired differences, against the data sets'
own label columns. The run adjusts p over every observation that it can score; the protocol asks about those with at
least 10 positive and 10 negative test films, so p is adjusted anew over these, by the project's own function.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from results_table import Row, number, signed, with_interval

from kdistill.evaluation.compare import holm
from kdistill.observations import OBSERVATIONS

MAIN: Final = "full"
BASELINES: Final = ("label", "template")
FLOORS: Final = {"prevalence_only": "prevalence", "source_prevalence_only": "prevalence in each source"}
#: docs/protocol.md: an observation with fewer films of either kind is shown and not tested.
MIN_CASES: Final = 10
_SCORE_KEYS: Final = ("arm", "average", "observation", "value", "ci95", "n", "num_positive", "num_patients", "seeds")
_DIFFERENCE_KEYS: Final = ("baseline", "average", "observation", "difference", "ci95", "p", "p_holm", "n")


def extract(run: Path) -> dict[str, Any]:
    """The protocol's figures of the finished run."""

    def load(name: str) -> Any:
        return json.loads((run / "evaluation" / name).read_text(encoding="utf-8"))

    scores = [_kept(row, _SCORE_KEYS) for row in load("scores.json") if _is_asked(row)]
    rows = [row for row in load("comparisons.json") if row["arm"] == MAIN and row["baseline"] in BASELINES]
    differences = [
        _kept(row, _DIFFERENCE_KEYS) for row in rows if row["name"] == "auc" and row["difference"] is not None
    ]
    return {
        "commit": load("manifest.json")["git_commit"],
        "scores": scores,
        "differences": [row for base in BASELINES for row in _adjusted(differences, base, scores)],
    }


def _is_asked(row: Row) -> bool:
    known = (row["name"], row["reference"], row["uncertain"], row["subgroup"]) == ("auc", "labels", "negative", None)
    return known and row["observations"] == 14 and row["arm"] in (MAIN, *BASELINES, *FLOORS)


def _kept(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    return {key: row[key] for key in keys}


def _adjusted(rows: Sequence[Row], baseline: str, scores: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """One baseline's differences; p over the observations that the protocol asks about, those of averages as run."""
    enough = {row["observation"] for row in scores if row["arm"] == MAIN and row["observation"] and is_enough(row)}
    ours = [row for row in rows if row["baseline"] == baseline]
    asked = [row for row in ours if row["observation"] in enough]
    adjusted = dict(zip((r["observation"] for r in asked), holm([r["p"] for r in asked]), strict=True))
    for row in ours:
        yield {**row, "p_holm": row["p_holm"] if row["observation"] is None else adjusted.get(row["observation"])}


def is_enough(row: Row) -> bool:
    """Whether the protocol asks about this observation: enough positive and enough negative films."""
    return min(row["num_positive"], row["n"] - row["num_positive"]) >= MIN_CASES


def table(found: Mapping[str, Any]) -> str:
    """Markdown: the averages with their floors, then the observations, most positive films first."""
    differences = " | ".join(f"`{MAIN}` − `{base}`, p (Holm)" for base in BASELINES)
    lines = [f"| AUC | n, positive | `{MAIN}` | `label` | `template` | {differences} |", "|---" * 7 + "|"]
    for average in ("micro", "macro"):
        lines.append(_line(found, f"**{average}-AUC**", average, None))
        for arm, meaning in FLOORS.items():
            row = _first(found["scores"], arm=arm, average=average, observation=None)
            lines.append(f"| ... floor: {meaning} | | {with_interval(row)} | | | | |")
    rows = [row for row in found["scores"] if row["arm"] == MAIN and row["observation"] and row["num_positive"]]
    for row in sorted(rows, key=lambda row: -row["num_positive"]):
        mark = "" if is_enough(row) else " (too few)"
        lines.append(_line(found, row["observation"] + mark, None, row["observation"]))
    silent = [name for name in OBSERVATIONS if name not in {row["observation"] for row in rows}]
    return "\n".join([*lines, "", f"Not in these labels: {', '.join(silent)}."])


def _line(found: Mapping[str, Any], title: str, average: str | None, observation: str | None) -> str:
    wanted = {"average": average, "observation": observation}
    scores = [_first(found["scores"], arm=arm, **wanted) for arm in (MAIN, *BASELINES)]
    compared = [_first(found["differences"], baseline=base, **wanted) for base in BASELINES]
    n, positive = scores[0]["n"], scores[0]["num_positive"]
    cells = [title, f"{n}, {positive}", *map(with_interval, scores), *map(_difference, compared)]
    return f"| {' | '.join(cells)} |"


def _first(rows: Sequence[Row], **wanted: str | None) -> Row:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _difference(row: Row) -> str:
    interval = "" if row["ci95"] is None else f" [{', '.join(map(number, row['ci95']))}]"
    p = "" if row["p_holm"] is None else f", p {row['p_holm']:.2f}"
    return signed(row["difference"]) + interval + p


def main() -> None:
    """Print JSON or Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extract", "table"])
    parser.add_argument("path", type=Path, help="run folder, or the extract")
    chosen = parser.parse_args()
    if chosen.what == "extract":
        json.dump(extract(chosen.path), sys.stdout, indent=1, allow_nan=False)
        sys.stdout.write("\n")
    else:
        print(table(json.loads(chosen.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
