"""The results of README and docs/results.md, from a run's own files.

    python benchmarks/results_table.py extract runs/ablation/main > benchmarks/main.json
    python benchmarks/results_table.py headline benchmarks/main.json
    python benchmarks/results_table.py table benchmarks/main.json
    python benchmarks/results_table.py said benchmarks/main_cpu.json
    python benchmarks/results_table.py short benchmarks/gpu.json

`extract` keeps the figures that the protocol names (docs/protocol.md, eighth protocol) out of scores.json,
comparisons.json, audit.json and the teacher's probe; `headline` prints the arms that README shows, `table` all of them
and the protocol's lines for docs/results.md, `said` only those lines that a run of some arms can say something about.
Whether a line of the protocol holds is computed here from the figures, by the thresholds that the protocol set before
the run; nobody writes "holds" by hand. A test compares both documents with the output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

Row = Mapping[str, Any]
ARMS: Final = (
    "full",
    "full_consistency",
    "full_no_where",
    "full_mirrored_where",
    "full_displaced_where",
    "full_no_impression",
    "full_no_rationale",
    "full_no_semantic",
    "full_no_token",
    "teacher_label",
    "untrained_teacher",
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
PRIMARY: Final = (
    "report_only",
    "report_only_long",
    "label",
    "label_patches",
    "teacher_label",
    "template",
    "template_no_where",
    "shuffled_teacher",
    "untrained_teacher",
    "blank_image",
    "nearest_report",
    "classifier_template",
)
#: The arms of README's table, and what each of them is.
HEADLINE: Final = {
    "full": "the method",
    "full_no_token": "the method without the token term (off by default now)",
    "full_mirrored_where": "told to look on the wrong side",
    "full_no_where": "not told where to look",
    "full_displaced_where": "told to look at a wrong place",
    "teacher_label": "the teacher's labels, no rationale",
    "template": "rationales from a template, no teacher",
    "untrained_teacher": "reports read, sentences chosen by the teacher's initial random weights",
    "shuffled_teacher": "rationales of other patients, the reports' labels",
    "classifier_template": "a classifier on the reports' labels, its findings in fixed sentences",
    "label": "the reports' labels and reports",
    "report_only_long": "end to end, 1.5 times the visits",
    "report_only": "end to end",
    "blank_image": "the method on empty films",
}
#: What an arm of the ablation leaves out of `full`.
PARTS: Final = ("where", "rationale", "token", "impression")
#: name -> the value of `uncertain` in its row. Ground truth has no uncertain case, so an AUC has one value.
SCORES: Final = {"report_f1": "positive", "rationale_f1": "positive", "auc": "negative"}
MIN_RELATIVE_GAIN: Final = 0.10
MIN_RELATIVE_BOUND: Final = 0.05
MAX_P: Final = 0.01
MIN_AUC_GAIN: Final = 0.01
MIN_NECESSITY: Final = 0.90
MAX_CONTRADICTIONS: Final = 0.05
MIN_LEARNED_GAIN: Final = 0.03
#: The decoder says what the head knows, where its report_f1 lies no further below that of the head's findings.
MAX_UNSAID: Final = 0.02
#: Fewer cases prove nothing either way.
MIN_CASES: Final = 20


#: Rows of the audit that are kept for every arm, not for `full` alone.
_OF_EVERY_ARM: Final = frozenset({"shortcut_effect_report", "contradiction_report"})


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
    of_every_arm = row["test"].startswith("pointing_game") or row["test"] in _OF_EVERY_ARM
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
    yield "| arm | report_f1 | by seed | rationale_f1 | micro-AUC | macro-AUC | contradictory reports | tag's effect |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm in ARMS:
        f1 = figures.score("report_f1", arm)
        if f1 is None:
            continue
        cells = [
            with_interval(f1),
            ", ".join(number(value) for value in f1["per_seed"] or []),
            with_interval(figures.score("rationale_f1", arm)),
            with_interval(figures.score("auc", arm)),
            with_interval(figures.score("auc", arm, "macro")),
            number(_value(figures.audited("contradiction_report", arm))),
            number(_value(figures.audited("shortcut_effect_report", arm))),
        ]
        yield f"| {arm} | " + " | ".join(cells) + " |"
    floor = figures.score("auc", "prevalence_only")
    yield f"| prevalence only (floor) | - | - | - | {with_interval(floor)} | {number(0.5)} | - | - |"


def _value(row: Row | None) -> float | None:
    return None if row is None else row["value"]


def protocol_lines(figures: Figures) -> Iterator[Line]:
    """Every line of the protocol with its figures."""
    yield _end_to_end_line(figures)
    yield from (_control_line(figures, baseline) for baseline in PRIMARY[1:])
    auc = figures.comparison("auc", "full", "label")
    asked = "1. micro-AUC: `full` above `label` by at least .01"
    yield _difference_line(auc, asked, lambda row: row["difference"] >= MIN_AUC_GAIN and row["ci95"][0] > 0)
    yield _contradiction_line(figures)
    yield from (_part_line(figures, part) for part in PARTS)
    yield from _place_lines(figures)
    consistent = figures.comparison("auc", "full_consistency", "full")
    asked = "5. consistency term: micro-AUC of `full_consistency` above `full`"
    yield _difference_line(consistent, asked, lambda row: row["ci95"][0] > 0)
    learned = figures.comparison("report_f1", "full_no_token", "untrained_teacher")
    asked = "6. what the teacher learned: report_f1, `full_no_token` over `untrained_teacher` by at least .03, p < .01"
    yield _difference_line(learned, asked, lambda row: row["difference"] >= MIN_LEARNED_GAIN and _p(row) < MAX_P)
    yield _audit_line(
        figures.audited("shortcut_effect_report_vs_full_no_where", "full"),
        "7. shortcut toggled: edema reported, `full` moves at most half as much as `full_no_where`",
    )
    yield _necessity_line(figures.audited("counterfactual_necessity_report", "full"))
    yield _said_line(figures)
    for name, test in (("Grad-CAM", "gradcam"), ("HiResCAM", "hirescam")):
        row = figures.audited(f"pointing_game_vs_{test}", "full")
        yield _audit_line(row, f"10. pointing game: `full` above {name} on `label`")


def _p(row: Row) -> float:
    """Holm-adjusted where the row belongs to a family."""
    value: float = row["p"] if row["p_holm"] is None else row["p_holm"]
    return value


def _contradiction_line(figures: Figures) -> Line:
    asked = "2. at most .05 of `full`'s reports contradict themselves, and no more than `template`'s"
    ours, others = (figures.audited("contradiction_report", arm) for arm in ("full", "template"))
    if ours is None or others is None:
        return Line(asked, "-", None)
    found = f"{with_interval(ours)} against {with_interval(others)}, n = {ours['n']}"
    return Line(asked, found, ours["value"] <= min(MAX_CONTRADICTIONS, others["value"]))


def _place_lines(figures: Figures) -> Iterator[Line]:
    """Sites at a wrong place must cost something, or the knowledge of the place is not what helps."""
    row = figures.comparison("report_f1", "full", "full_displaced_where")
    asked = "4. the place: report_f1, `full` above `full_displaced_where`"
    yield _difference_line(row, asked, lambda row: row["ci95"][0] > 0)
    for name, test, below in (
        ("points better than", "pointing_game", False),
        ("leans less on the shortcut than", "shortcut_effect_report", True),
    ):
        audited = figures.audited(f"{test}_vs_full_displaced_where", "full")
        line = _audit_line(audited, f"4. the place: `full` {name} `full_displaced_where`")
        if audited is not None and audited["ci95"] is not None:
            line = line._replace(holds=audited["ci95"][1] < 0 if below else audited["ci95"][0] > 0)
        yield line
    audited = figures.audited("mask_mass_vs_full_mirrored_where", "full")
    yield _audit_line(audited, "4. the place: more of `full`'s maps on the finding than of `full_mirrored_where`'s")


def _necessity_line(row: Row | None) -> Line:
    asked = "8. finding removed: its mention goes in at least 90%"
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
    return _difference_line(row, asked, lambda row: row["difference"] > 0 and _p(row) < MAX_P)


def _part_line(figures: Figures, part: str) -> Line:
    """Whether a part of `full` is worth anything: in report_f1 or in micro-AUC its interval lies above 0."""
    asked = f"3. {part}: `full` above `full_no_{part}` in report_f1 or micro-AUC"
    rows = [figures.comparison(name, "full", f"full_no_{part}") for name in ("report_f1", "auc")]
    if any(row is None or row["difference"] is None or not row["ci95"] for row in rows):
        return Line(asked, "-", None)
    found = [f"{signed(row['difference'])}{_interval(row['ci95'])}" for row in rows if row is not None]
    return Line(asked, f"{found[0]}; {found[1]}", any(row["ci95"][0] > 0 for row in rows if row is not None))


def _said_line(figures: Figures) -> Line:
    asked = "9. the decoder says what the head knows: `full` within .02 of `classifier_template_full`"
    row = figures.comparison("report_f1", "full", "classifier_template_full")
    return _difference_line(row, asked, lambda row: row["difference"] >= -MAX_UNSAID)


def _difference_line(row: Row | None, asked: str, holds: Callable[[Row], bool]) -> Line:
    if row is None or row["difference"] is None or row["ci95"] is None:
        return Line(asked, "-", None)
    p = _p(row)
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
    return "\n".join([*arms_table(figures), "", *_lines_table(protocol_lines(figures))])


def _lines_table(lines: Iterable[Line]) -> Iterator[str]:
    yield "| line of the protocol | measured | holds |"
    yield "|---|---|---|"
    words = {True: "yes", False: "**no**", None: "cannot be said"}
    yield from (f"| {line.asked} | {line.found} | {words[line.holds]} |" for line in lines)


def said(extracted: Mapping[str, Any]) -> str:
    """Of a run of some arms: their table, and those lines of the protocol that they can say something about."""
    figures = Figures(extracted)
    lines = (line for line in protocol_lines(figures) if line.holds is not None)
    return "\n".join([*arms_table(figures), "", *_lines_table(lines)])


def headline(extracted: Mapping[str, Any]) -> str:
    """The arms that carry the claim, each beside what `full` has more, as Markdown."""
    figures = Figures(extracted)
    lines = [
        "| arm | what it is | report_f1 | `full` minus it | micro-AUC | contradictory reports | tag's effect |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, meaning in HEADLINE.items():
        row = figures.comparison("report_f1", "full", arm)
        lead = "" if row is None else f"{signed(row['difference'])}{_interval(row['ci95'])}"
        cells = [
            meaning,
            with_interval(figures.score("report_f1", arm)),
            lead,
            with_interval(figures.score("auc", arm)),
            number(_value(figures.audited("contradiction_report", arm))),
            number(_value(figures.audited("shortcut_effect_report", arm))),
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def short(extracted: Mapping[str, Any]) -> str:
    """The arms of a small run, best first, as Markdown."""
    figures = Figures(extracted)
    lines = [
        "| arm | report_f1 | rationale_f1 | micro-AUC | contradictory reports | tag's effect |",
        "|---|---|---|---|---|---|",
    ]
    rows = [row for arm in ARMS if (row := figures.score("report_f1", arm)) is not None]
    for row in sorted(rows, key=lambda row: -row["value"]):
        arm = row["arm"]
        cells = [with_interval(figures.score(name, arm)) for name in ("report_f1", "rationale_f1", "auc")]
        cells += [
            number(_value(figures.audited(test, arm))) for test in ("contradiction_report", "shortcut_effect_report")
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "| `full` minus | report_f1 | relative |", "|---|---|---|"]
    for row in figures.comparisons:
        if row["name"] == "report_f1" and row["arm"] == "full" and row["difference"] is not None:
            bounds = "".join(f" [{low:.0%}, {high:.0%}]" for low, high in [row["relative_ci95"]])
            found = f"{signed(row['difference'])}{_interval(row['ci95'])}, p = {_p(row):.1g}"
            lines.append(f"| {row['baseline']} | {found} | {row['relative']:+.0%}{bounds} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["extract", "headline", "table", "said", "short"])
    parser.add_argument("path", type=Path, help="run folder, or the extract")
    arguments = parser.parse_args()
    if arguments.what == "extract":
        json.dump(extract(arguments.path), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show = {"headline": headline, "table": table, "said": said, "short": short}[arguments.what]
        print(show(json.loads(arguments.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
