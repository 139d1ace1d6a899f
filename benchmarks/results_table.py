"""README's results, from a run's own files.

    python benchmarks/results_table.py extract runs/evidence > benchmarks/evidence.json
    python benchmarks/results_table.py table benchmarks/evidence.json

`extract` keeps the figures that the protocol names (docs/protocol.md) out of scores.json, comparisons.json, audit.json
and the teacher's probe; `table` prints them as README shows them. Whether a line of the protocol holds is computed here
from the figures, by the thresholds that the protocol set before the run; nobody writes "holds" by hand. A test compares
README with the output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

Row = Mapping[str, Any]
ARMS: Final = (
    "full",
    "full_no_where",
    "teacher_label",
    "template",
    "shuffled_teacher",
    "label",
    "report_only",
    "report_only_long",
    "nearest_report",
    "classifier_template",
)
#: name -> the value of `uncertain` in its row. Ground truth has no uncertain case, so an AUC has one value.
SCORES: Final = {"report_f1": "positive", "rationale_f1": "positive", "auc": "negative"}
MIN_RELATIVE_GAIN: Final = 0.08
MIN_NECESSITY: Final = 0.90
MIN_PROBE: Final = 0.90
#: Fewer cases prove nothing either way.
MIN_CASES: Final = 20
CONTROLS: Final = ("report_only_long", "template", "shuffled_teacher")


class Line(NamedTuple):
    """One line of the protocol: what it asks, what was measured, and whether it holds (None: it cannot be said)."""

    asked: str
    found: str
    holds: bool | None


def extract(run: Path) -> dict[str, Any]:
    """The protocol's figures of a finished run."""

    def load(*parts: str) -> Any:
        return json.loads(run.joinpath(*parts).read_text(encoding="utf-8"))

    scores = [row for row in load("evaluation", "scores.json") if _is_headline(row)]
    comparisons = [
        row
        for row in load("evaluation", "comparisons.json")
        if row["observation"] is None and row["average"] == "micro" and row["uncertain"] == SCORES[row["name"]]
    ]
    probe = load("teacher", "probe.json")
    manifest = load("evaluation", "manifest.json")
    return {
        "commit": manifest["git_commit"],
        "finished": manifest["finished"],
        "probe": {key: probe["trained"][key] for key in ("all", "declarative_only")},
        "scores": scores,
        "comparisons": comparisons,
        "audit": [row for row in load("audit", "audit.json") if _is_named(row)],
    }


def _is_named(row: Row) -> bool:
    return row["value"] is not None and (row["arm"] in ("full", "none") or row["test"].startswith("pointing_game"))


def _is_headline(row: Row) -> bool:
    return (
        row["reference"] == "truth"
        and row["split"] == "test"
        and row["subgroup"] is None
        and row["observation"] is None
        and row["observations"] == 14
        and row["average"] in ("micro", "macro")
        and row["uncertain"] == SCORES.get(row["name"], "")
    )


class Figures:
    """Look-ups in the extract."""

    def __init__(self, extracted: Mapping[str, Any]) -> None:
        self.scores: Sequence[Row] = extracted["scores"]
        self.comparisons: Sequence[Row] = extracted["comparisons"]
        self.audit: Sequence[Row] = extracted["audit"]
        self.probe: Mapping[str, Row] = extracted["probe"]

    def score(self, name: str, arm: str, average: str = "micro") -> Row | None:
        """The row of one score of one arm, or None."""
        return _first(self.scores, name=name, arm=arm, average=average)

    def comparison(self, name: str, arm: str, baseline: str) -> Row | None:
        """The row of one comparison, or None."""
        return _first(self.comparisons, name=name, arm=arm, baseline=baseline)

    def audited(self, test: str, arm: str) -> Row | None:
        """The audit's row, or None."""
        return _first(self.audit, test=test, arm=arm)


def _first(rows: Sequence[Row], **wanted: str) -> Row | None:
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def number(value: float | None) -> str:
    """.123, or -."""
    if value is None:
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def signed(value: float) -> str:
    """+.123 or -.123."""
    return ("+" if value >= 0 else "") + number(value)


def with_interval(row: Row | None) -> str:
    """.123 [.100, .150], or - where there is no figure."""
    if row is None or row["value"] is None:
        return "-"
    return number(row["value"]) + _interval(row["ci95"])


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f" [{number(bounds[0])}, {number(bounds[1])}]"


def arms_table(figures: Figures) -> Iterator[str]:
    """One row an arm."""
    yield "| arm | report_f1 | rationale_f1 | micro-AUC | macro-AUC | pointing game |"
    yield "|---|---|---|---|---|---|"
    for arm in ARMS:
        cells = [
            with_interval(figures.score("report_f1", arm)),
            with_interval(figures.score("rationale_f1", arm)),
            with_interval(figures.score("auc", arm)),
            with_interval(figures.score("auc", arm, "macro")),
            with_interval(figures.audited("pointing_game", arm)),
        ]
        yield f"| {arm} | " + " | ".join(cells) + " |"
    floor = figures.score("auc", "prevalence_only")
    yield f"| prevalence only (floor) | - | - | {with_interval(floor)} | {number(0.5)} | - |"


def protocol_lines(figures: Figures) -> Iterator[Line]:
    """Every line of the protocol with its figures."""
    yield from (
        _f1_line(figures, baseline) for baseline in ("report_only", "report_only_long", "teacher_label", "template")
    )
    yield _difference_line(figures.comparison("auc", "full", "label"), "1. micro-AUC: `full` above `label`")
    yield _controls_line(figures)
    for baseline in ("report_only", "full_no_where"):
        yield _audit_line(
            figures.audited(f"shortcut_effect_report_vs_{baseline}", "full"),
            f"3. shortcut toggled: edema reported, `full` moves at most half as much as `{baseline}`",
        )
    yield _audit_line(
        figures.audited("pointing_game_vs_gradcam", "full"), "4. pointing game: `full` above Grad-CAM on `label`"
    )
    yield _necessity_line(figures.audited("counterfactual_necessity_report", "full"))
    probe = figures.probe["all"]
    found = f"{number(probe['value'])}, n = {probe['n']}"
    yield Line("teacher's probe at least .90 over all signs", found, probe["value"] >= MIN_PROBE)


def _necessity_line(row: Row | None) -> Line:
    asked = "5. finding removed: its mention goes in at least 90%"
    if row is None or row["value"] is None:
        return Line(asked, "-", None)
    holds = row["value"] >= MIN_NECESSITY if row["n"] >= MIN_CASES else None
    return Line(asked, f"{with_interval(row)}, n = {row['n']}", holds)


def _f1_line(figures: Figures, baseline: str) -> Line:
    asked = f"primary: report_f1, `full` over `{baseline}`"
    row = figures.comparison("report_f1", "full", baseline)
    if baseline == "report_only":
        asked += " by at least 8% relative"
    line = _difference_line(row, asked)
    if row is None or row["relative"] is None:
        return line
    enough = baseline != "report_only" or row["relative"] >= MIN_RELATIVE_GAIN
    return line._replace(found=f"{row['relative']:+.0%} relative; {line.found}", holds=bool(line.holds and enough))


def _difference_line(row: Row | None, asked: str) -> Line:
    if row is None or row["difference"] is None:
        return Line(asked, "-", None)
    p = row["p"] if row["p_holm"] is None else row["p_holm"]
    found = f"{signed(row['difference'])}{_interval(row['ci95'])}, p = {p:.1g}"
    return Line(asked, found, row["ci95"] is not None and row["ci95"][0] > 0)


def _controls_line(figures: Figures) -> Line:
    gains = {}
    for arm in ("full", *CONTROLS):
        row = figures.comparison("report_f1", arm, "report_only")
        gains[arm] = None if row is None else row["difference"]
    found = ", ".join(f"{arm} {'-' if gain is None else signed(gain)}" for arm, gain in gains.items())
    best = [gains[arm] for arm in CONTROLS]
    full = gains["full"]
    holds = None if full is None or None in best else all(gain < full for gain in best if gain is not None)
    return Line("2. the controls gain less over `report_only` than `full`", found, holds)


def _audit_line(row: Row | None, asked: str) -> Line:
    if row is None or row["value"] is None:
        return Line(asked, "-" if row is None else str(row["reason"]), None)
    found = (
        f"{number(row['value'])} against {number(row['baseline'])}, difference{_interval(row['ci95'])}, n = {row['n']}"
    )
    return Line(asked, found, row["passed"])


def table(extracted: Mapping[str, Any]) -> str:
    """Both tables as Markdown."""
    figures = Figures(extracted)
    lines = [*arms_table(figures), "", "| line of the protocol | measured | holds |", "|---|---|---|"]
    words = {True: "yes", False: "**no**", None: "cannot be said"}
    lines += [f"| {line.asked} | {line.found} | {words[line.holds]} |" for line in protocol_lines(figures)]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extract", "table"])
    parser.add_argument("path", type=Path, help="run folder, or the extract")
    arguments = parser.parse_args()
    if arguments.what == "extract":
        json.dump(extract(arguments.path), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        print(table(json.loads(arguments.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
