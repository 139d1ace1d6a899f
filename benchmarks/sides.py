"""Which side do reports and rationales say, and is it the finding's? Stored predictions of a run against truth.

    python benchmarks/sides.py extract runs/ablation/main > benchmarks/sides.json
    python benchmarks/sides.py table benchmarks/sides.json

What the audit's part `laterality` measures (docs/faithfulness.md), from predictions alone: no weights are needed, so it
can be read of runs whose weights are gone. `extract` adds how many of the findings that are there the text names with a
side (a student may be right by naming few), and the paired difference of `full` to each arm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from results_table import ARMS, number, signed, with_interval

from kdistill.audit.laterality import laterality_rows, right_sides
from kdistill.audit.material import PREDICTIONS, SLOTS, Cases, Said, TextReader, load_cases, read_parquet, said_of
from kdistill.audit.resampling import PatientBootstrap, difference
from kdistill.evaluation.bootstrap import interval

MAIN: Final = "full"
NUM_RESAMPLES: Final = 1000


def extract(run: Path) -> dict[str, Any]:
    """Rows of every arm, over the seeds that all of them have."""
    cases, reader = load_cases(run / "studies"), TextReader()
    boot = PatientBootstrap(cases.patient_ids, NUM_RESAMPLES, 0)
    folders = [path.parent for path in sorted((run / "student").glob("*/seed-*/predictions.parquet"))]
    trained = {arm: {f.name for f in folders if f.parent.name == arm} for arm in ARMS}
    seeds = sorted(set.intersection(*(found for found in trained.values() if found)))
    said = {
        arm: [texts_of(run / "student" / arm / seed, cases, reader) for seed in seeds] for arm in ARMS if trained[arm]
    }
    right = {arm: [right_sides(one, "report", cases, reader) for one in each] for arm, each in said.items()}
    rows = []
    for arm, each in said.items():
        found = difference(boot.ratio(right[MAIN]), boot.ratio(right[arm]))
        rows.append(
            {
                "arm": arm,
                "seeds": len(each),
                "rows": [
                    row.model_dump(mode="json")
                    for row in laterality_rows(arm, each, cases, boot, reader)
                    if row.test.endswith(SLOTS)
                ],
                "difference": found.value,
                "difference_ci95": None if found.samples is None else interval(found.samples),
            }
        )
    return {
        "commit": json.loads((folders[0] / "manifest.json").read_text(encoding="utf-8"))["git_commit"],
        "findings": sum(len(truth.sides) for truth in cases.truth.values()),
        "arms": rows,
    }


def texts_of(student_dir: Path, cases: Cases, reader: TextReader) -> Said:
    """What a student wrote of the test studies; nothing of its head, whose thresholds belong to weights."""
    by_id = {row["study_id"]: row for row in read_parquet(student_dir / PREDICTIONS)}
    return said_of([by_id[study.study_id] for study in cases.studies], None, reader)


def table(found: Mapping[str, Any]) -> str:
    """Markdown, an arm a row: share named, right sides and opposite ones in both texts, what `full` has more."""
    return "\n".join(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    titles = [f"{slot}: {title}" for slot in SLOTS for title in ("named with a side", "right side", "opposite side")]
    yield f"| arm | {' | '.join(titles)} | chance | `{MAIN}` minus it, report, right side |"
    yield "|---" * (3 + len(titles)) + "|"
    for entry in found["arms"]:
        rows = {row["test"]: row for row in entry["rows"]}
        cells = [cell for slot in SLOTS for cell in _cells(rows, slot, found["findings"])]
        chance = rows["side_accuracy_report"]["baseline"]
        yield f"| {entry['arm']} | {' | '.join(cells)} | {number(chance)} | {_difference(entry)} |"


def _cells(rows: Mapping[str, Mapping[str, Any]], slot: str, findings: int) -> Sequence[str]:
    right, opposite = rows[f"side_accuracy_{slot}"], rows[f"wrong_side_{slot}"]
    if right["value"] is None:
        return ("-", "-", "-")
    return (number(right["n"] / findings), with_interval(right), with_interval(opposite))


def _difference(entry: Mapping[str, Any]) -> str:
    if entry["arm"] == MAIN or entry["difference"] is None or entry["difference_ci95"] is None:
        return ""
    low, high = entry["difference_ci95"]
    return f"{signed(entry['difference'])} [{number(low)}, {number(high)}]"


def main() -> None:
    """Print JSON or Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("extract", "table"))
    parser.add_argument("path", type=Path, help="folder of the run, or the extracted JSON")
    chosen = parser.parse_args()
    if chosen.command == "extract":
        print(json.dumps(extract(chosen.path), indent=1, allow_nan=False))
    else:
        print(table(json.loads(chosen.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
