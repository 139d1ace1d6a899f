"""README's results, from a run's own files.

    python benchmarks/results_table.py extract runs/ablation/main > benchmarks/ablation_main.json
    python benchmarks/results_table.py table benchmarks/ablation_main.json

`extract` keeps the figures that the protocol names (docs/protocol.md, second protocol) out of scores.json,
comparisons.json, audit.json and the teacher's probe; `table` prints them as README shows them. Whether a line of the
protocol holds is computed here from the figures, by the thresholds that the protocol set before the run; nobody writes
"holds" by hand. A test compares README with the output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kdistill.evaluation.config import PrimaryEndpoint

Row = Mapping[str, Any]
ARMS: Final = (
    "full",
    "full_no_where",
    "full_mirrored_where",
    "full_no_impression",
    "full_no_rationale",
    "full_no_semantic",
    "full_no_token",
    "teacher_label",
    "template",
    "template_no_where",
    "shuffled_teacher",
    "label",
    "label_patches",
    "report_only",
    "report_only_long",
    "blank_image",
    "nearest_report",
    "classifier_template",
    "classifier_template_full",
)
#: The baselines of the primary endpoint; all but the first are asked for p (Holm) alone.
PRIMARY: Final = PrimaryEndpoint().baselines
#: What an arm of the ablation leaves out of `full`.
PARTS: Final = ("where", "rationale", "token", "semantic", "impression")
#: name -> the value of `uncertain` in its row. Ground truth has no uncertain case, so an AUC has one value.
SCORES: Final = {"report_f1": "positive", "rationale_f1": "positive", "auc": "negative"}
MIN_RELATIVE_GAIN: Final = 0.10
MIN_RELATIVE_BOUND: Final = 0.05
MAX_P: Final = 0.01
MIN_AUC_GAIN: Final = 0.01
MIN_NECESSITY: Final = 0.90
#: The decoder says what the head knows, where its report_f1 lies no further below that of the head's findings.
MAX_UNSAID: Final = 0.02
#: Fewer cases prove nothing either way.
MIN_CASES: Final = 20


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
    of_every_arm = row["test"].startswith("pointing_game") or row["test"] == "shortcut_effect_report"
    return row["value"] is not None and (row["arm"] in ("full", "none") or of_every_arm)


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
    """One row for each arm that was run."""
    yield "| arm | report_f1 | rationale_f1 | micro-AUC | macro-AUC | pointing game |"
    yield "|---|---|---|---|---|---|"
    for arm in ARMS:
        if figures.score("report_f1", arm) is None:
            continue
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
    yield _end_to_end_line(figures)
    yield from (_control_line(figures, baseline) for baseline in PRIMARY[1:])
    auc = figures.comparison("auc", "full", "label")
    asked = "1. micro-AUC: `full` above `label` by at least .01"
    yield _difference_line(auc, asked, lambda row: row["difference"] >= MIN_AUC_GAIN and row["ci95"][0] > 0)
    yield from (_part_line(figures, part) for part in PARTS)
    for baseline in ("report_only", "full_no_where"):
        yield _audit_line(
            figures.audited(f"shortcut_effect_report_vs_{baseline}", "full"),
            f"3. shortcut toggled: edema reported, `full` moves at most half as much as `{baseline}`",
        )
    for name, test in (("Grad-CAM", "gradcam"), ("HiResCAM", "hirescam")):
        row = figures.audited(f"pointing_game_vs_{test}", "full")
        yield _audit_line(row, f"4. pointing game: `full` above {name} on `label`")
    yield _place_line(figures)
    yield _necessity_line(figures.audited("counterfactual_necessity_report", "full"))
    yield _said_line(figures)


def _necessity_line(row: Row | None) -> Line:
    asked = "6. finding removed: its mention goes in at least 90%"
    if row is None or row["value"] is None:
        return Line(asked, "-", None)
    holds = row["value"] >= MIN_NECESSITY if row["n"] >= MIN_CASES else None
    return Line(asked, f"{with_interval(row)}, n = {row['n']}", holds)


def _end_to_end_line(figures: Figures) -> Line:
    """The relative difference has an interval of its own: the baseline's value moves with the patients drawn, too."""
    asked = f"primary: report_f1, `full` over `{PRIMARY[0]}` by at least 10% relative, interval above 5%"
    row = figures.comparison("report_f1", "full", PRIMARY[0])
    if row is None or row["relative"] is None or not row["relative_ci95"]:
        return Line(asked, "-", None)
    bound = row["relative_ci95"][0]
    line = _difference_line(
        row, asked, lambda row: row["relative"] >= MIN_RELATIVE_GAIN and bound >= MIN_RELATIVE_BOUND
    )
    return line._replace(found=f"{row['relative']:+.0%} relative; {line.found}")


def _control_line(figures: Figures, baseline: str) -> Line:
    row = figures.comparison("report_f1", "full", baseline)
    asked = f"primary: report_f1, `full` over `{baseline}`, p < .01"
    return _difference_line(row, asked, lambda row: row["difference"] > 0 and row["p_holm"] < MAX_P)


def _part_line(figures: Figures, part: str) -> Line:
    """Whether a part of `full` is worth anything: in report_f1 or in micro-AUC its interval lies above 0."""
    asked = f"2. {part}: `full` above `full_no_{part}` in report_f1 or micro-AUC"
    rows = [figures.comparison(name, "full", f"full_no_{part}") for name in ("report_f1", "auc")]
    if any(row is None or row["difference"] is None or not row["ci95"] for row in rows):
        return Line(asked, "-", None)
    found = [f"{signed(row['difference'])}{_interval(row['ci95'])}" for row in rows if row is not None]
    return Line(asked, f"{found[0]}; {found[1]}", any(row["ci95"][0] > 0 for row in rows if row is not None))


def _place_line(figures: Figures) -> Line:
    """Both intervals, of pointing and of the shortcut's effect, have to exclude 0 on the right side."""
    asked = "5. the right place helps: `full` points better than `full_mirrored_where`, and leans less on the shortcut"
    rows = [
        figures.audited(f"{test}_vs_full_mirrored_where", "full")
        for test in ("pointing_game", "shortcut_effect_report")
    ]
    if any(row is None or row["value"] is None or row["ci95"] is None for row in rows):
        return Line(asked, "-", None)
    pointing, shortcut = (row for row in rows if row is not None)
    found = "; ".join(
        f"{number(row['value'])} against {number(row['baseline'])}, difference{_interval(row['ci95'])}"
        for row in (pointing, shortcut)
    )
    return Line(asked, found, pointing["ci95"][0] > 0 and shortcut["ci95"][1] < 0)


def _said_line(figures: Figures) -> Line:
    asked = "7. the decoder says what the head knows: `full` within .02 of `classifier_template_full`"
    row = figures.comparison("report_f1", "full", "classifier_template_full")
    return _difference_line(row, asked, lambda row: row["difference"] >= -MAX_UNSAID)


def _difference_line(row: Row | None, asked: str, holds: Callable[[Row], bool]) -> Line:
    if row is None or row["difference"] is None or row["ci95"] is None:
        return Line(asked, "-", None)
    p = row["p"] if row["p_holm"] is None else row["p_holm"]
    found = f"{signed(row['difference'])}{_interval(row['ci95'])}" + ("" if p is None else f", p = {p:.1g}")
    return Line(asked, found, holds(row))


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
