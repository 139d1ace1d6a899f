"""With and without the where term: where the students of the second protocol look (benchmarks/ablation_main.json).

    python benchmarks/where_table.py benchmarks/ablation_main.json

Both measures hold an observation's evidence map against the mask of that finding (docs/faithfulness.md). That extract
has the mask mass of the other arms as the far side of a comparison with `full`, without an interval of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from results_table import Figures, Row, number, signed, with_interval

MAIN: Final = "full"
BASELINES: Final = ("full_no_where", "full_mirrored_where", "label")
MEASURES: Final = {"pointing_game": "pointing game", "mask_mass": "mask mass"}


def table(extracted: Mapping[str, Any]) -> str:
    """Markdown: `full`, then each arm beside what `full` has more, then chance."""
    figures = Figures(extracted)
    titles = list(MEASURES.values())
    lines = [
        f"| evidence maps of | n | {' | '.join(titles)} | {' | '.join(f'`{MAIN}` minus it, {t}' for t in titles)} |",
        "|---" * 6 + "|",
        *(f"| {' | '.join(_row(figures, arm))} |" for arm in (MAIN, *BASELINES)),
    ]
    chance = [number(_audited(figures, test)["baseline"]) for test in MEASURES]
    return "\n".join([*lines, f"| chance | {_audited(figures, 'mask_mass')['n']} | {' | '.join(chance)} | | |"])


def _row(figures: Figures, arm: str) -> Iterator[str]:
    compared = {} if arm == MAIN else {test: _audited(figures, f"{test}_vs_{arm}") for test in MEASURES}
    yield arm
    yield str(_audited(figures, "pointing_game")["n"])
    for test in MEASURES:
        row = figures.audited(test, arm)
        yield with_interval(row) if row is not None else number(compared[test]["baseline"])
    for test in MEASURES:
        yield _difference(compared[test]) if compared else ""


def _audited(figures: Figures, test: str) -> Row:
    row = figures.audited(test, MAIN)
    if row is None:
        raise SystemExit(f"the extract has no {test} of {MAIN}")
    return row


def _difference(row: Row) -> str:
    low, high = row["ci95"]
    return f"{signed(row['value'] - row['baseline'])} [{number(low)}, {number(high)}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="an extract of results_table.py")
    print(table(json.loads(parser.parse_args().path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
