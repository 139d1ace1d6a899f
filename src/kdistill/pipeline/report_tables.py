"""Tables and plots of the report: scores, comparisons, learning curves, audit, counts, provenance, definitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from kdistill.audit.rows import AuditRow
from kdistill.evaluation.comparisons import Comparison
from kdistill.evaluation.scores import Score
from kdistill.evaluation.table import f1_note
from kdistill.explain.html import table, text
from kdistill.pipeline.report_files import RunFiles, read_history
from kdistill.pipeline.report_plots import Interval, Line, forest_plot, line_plot

#: Column -> (name, average, uncertain policy); each is one family of scores.json.
COLUMNS: Final = (
    ("Report F1, micro, U+", "report_f1", "micro", "positive"),
    ("Report F1, micro, U−", "report_f1", "micro", "negative"),
    ("Report F1, macro, U+", "report_f1", "macro", "positive"),
    ("Rationale F1, micro, U+", "rationale_f1", "micro", "positive"),
    ("AUC, micro", "auc", "micro", "negative"),
    ("AUC, macro", "auc", "macro", "negative"),
)
REFERENCES: Final = (
    ("truth", "Against ground truth"),
    ("labels", "Against the data set's own labels"),
    ("report", "Against labels read from the test reports"),
)
#: How uncertain is read in the figure that a score is known by: F1 counts it as positive, AUC as negative.
_MAIN_POLICY: Final[Mapping[str, str]] = MappingProxyType(
    {"report_f1": "positive", "rationale_f1": "positive", "auc": "negative"}
)
_CURVES: Final = (
    ("report_loss", "report loss, training"),
    ("rationale_loss", "rationale loss, training"),
    ("label_loss", "label loss, training"),
    ("where_loss", "where loss, training"),
    ("validation_report_loss", "report loss, validation"),
    ("validation_micro_auc", "micro-AUC, validation"),
)


def missing(why: str) -> str:
    """What stands in the place of a section whose input is not there."""
    return f'<p class="missing">not run: {text(why)}</p>'


def figure(value: float | None, ci95: tuple[float, float] | None = None, reason: str | None = None) -> str:
    """A figure with its interval; a dash with the reason as its tooltip where there is none."""
    if value is None:
        return f'<abbr title="{text(reason or "no value")}">–</abbr>'
    interval = f'<span class="ci">[{ci95[0]:.3f}, {ci95[1]:.3f}]</span>' if ci95 else ""
    return f"{value:.3f}{interval}"


def score_tables(scores: Sequence[Score]) -> str:
    """One table for each reference; every null with its reason below it."""
    if not scores:
        return missing("the evaluation stage has not been made")
    parts = []
    for reference, title in REFERENCES:
        here = [s for s in scores if s.reference == reference and s.subgroup is None and s.uncertain is not None]
        here = [s for s in here if s.observation is None and s.observations == 14]
        if here:
            parts.append(f"<h3>{text(title)}</h3>{_score_table(here)}")
    if not parts:
        return missing("no score over all 14 observations")
    return "".join(parts) + f"<p>{text(f1_note(scores))}</p>"


def _score_table(scores: Sequence[Score]) -> str:
    rows, reasons = [], dict[str, None]()
    for arm in dict.fromkeys(s.arm for s in scores):
        mine = [s for s in scores if s.arm == arm]
        cells = []
        for _, *key in COLUMNS:
            found = next((s for s in mine if [s.name, s.average, s.uncertain] == key), None)
            cells.append(figure(found.value, found.ci95, found.reason) if found else "–")
            if found and found.reason:
                reasons[f"{found.name}, {arm}: {found.reason}"] = None
        seeds = ", ".join(str(seed) for seed in mine[0].seeds) or "–"
        rows.append((f'<span class="mono">{text(arm)}</span>', *cells, f"{mine[0].n} ({mine[0].num_patients})", seeds))
    notes = "".join(f"<li>{text(reason)}</li>" for reason in reasons)
    header = ["Arm", *(heading for heading, *_ in COLUMNS), "n (patients)", "Seeds"]
    return table(header, rows) + (
        f'<details class="notes"><summary>Remarks</summary><ul>{notes}</ul></details>' if notes else ""
    )


def comparison_section(comparisons: Sequence[Comparison]) -> str:
    """Forest plot and table of the comparisons over all 14 observations (micro); the primary endpoint first."""
    if not comparisons:
        return missing("the evaluation stage has not been made")
    averaged = [c for c in comparisons if c.average is not None]
    shown = [c for c in averaged if c.primary or _is_main(c)]
    shown.sort(key=lambda c: (not c.primary, not _is_main(c)))
    drawn = [c for c in shown if c.difference is not None and _is_main(c)]
    parts = [forest_plot([_interval(c) for c in drawn], title="Differences between arms")] if drawn else []
    header = ("Score", "Arm − baseline", "Difference", "Relative", "p", "p (Holm)")
    parts.append(table(header, [_comparison_row(c) for c in shown if c.difference is not None]))
    if absent := [_comparison_row(c) for c in shown if c.difference is None]:
        parts.append(f"<details><summary>{len(absent)} not run</summary>{table(header, absent)}</details>")
    if drawn:
        parts.append(f'<p class="hint">{text(drawn[0].test)}. n = {drawn[0].n} studies.</p>')
    return "".join(parts)


def _is_main(c: Comparison) -> bool:
    return c.average == "micro" and c.uncertain == _MAIN_POLICY.get(c.name, c.uncertain)


def _interval(comparison: Comparison) -> Interval:
    low, high = comparison.ci95 or (None, None)
    mark = "good" if low is not None and low > 0 else "bad" if high is not None and high < 0 else "open"
    assert comparison.difference is not None
    star = "★ " if comparison.primary else ""
    label = f"{star}{comparison.name}: {comparison.arm} − {comparison.baseline}"
    return Interval(label, comparison.difference, low, high, mark)


def _comparison_row(c: Comparison) -> tuple[str, ...]:
    policy = {"positive": " U+", "negative": " U−", "masked": " masked", None: ""}[c.uncertain]
    name = f"{'★ ' if c.primary else ''}{c.name} {c.average}{policy}"
    arms = f'<span class="mono">{text(c.arm)} − {text(c.baseline)}</span>'
    if c.difference is None:
        return text(name), arms, f'<span class="missing">not run: {text(c.reason)}</span>', "", "", ""
    interval = f'<span class="ci">[{c.ci95[0]:+.3f}, {c.ci95[1]:+.3f}]</span>' if c.ci95 else ""
    relative = "–" if c.relative is None else f"{c.relative:+.1%}"
    p, holm = ("–" if value is None else f"{value:.4f}" for value in (c.p, c.p_holm))
    return text(name), arms, f"{c.difference:+.3f}{interval}", relative, p, holm


def curve_section(run: RunFiles) -> str:
    """Learning curves of every arm's first seed."""
    histories = {arm: read_history(path) for (arm, seed), path in run.students.items() if seed == run.seeds[0]}
    plots = []
    for key, title in _CURVES:
        lines = []
        for arm, history in histories.items():
            points = [(line["step"], line[key]) for line in history if key in line and line[key] is not None]
            if points:
                lines.append(Line(arm, [float(x) for x, _ in points], [float(y) for _, y in points]))
        if lines:
            plots.append(line_plot(lines, title=f"Learning curves: {title}", y_label=title))
    return f'<div class="plots">{"".join(plots)}</div>' if plots else missing("no student has a history")


def audit_section(rows: Sequence[AuditRow]) -> str:
    """Failed tests first, in sight; then what passed, what is only measured, and what was not run."""
    if not rows:
        return missing("the audit stage has not been made")
    rows = sorted(rows, key=lambda row: row.arm not in ("full", "teacher"))
    groups = (
        ("Failed", [r for r in rows if r.passed is False], True),
        ("Passed", [r for r in rows if r.passed is True], True),
        ("Measured, no threshold", [r for r in rows if r.passed is None and r.value is not None], False),
        ("Not run", [r for r in rows if r.value is None], False),
    )
    parts = []
    for title, found, is_open in groups:
        body = table(("Test", "Arm", "Value", "Baseline", "n", ""), [_audit_row(r) for r in found]) if found else ""
        state = " open" if is_open and found else ""
        parts.append(f"<details{state}><summary>{title}: {len(found)}</summary>{body}</details>")
    return "".join(parts)


def _audit_row(row: AuditRow) -> tuple[str, ...]:
    baseline = "–" if row.baseline is None else f"{row.baseline:.3f}"
    number = "–" if row.value is None else figure(row.value, row.ci95)
    note = f'<span class="note">{text(row.reason or "")}</span>'
    return (
        text(row.test.replace("_", " ")),
        f'<span class="mono">{text(row.arm)}</span>',
        number,
        baseline,
        str(row.n),
        note,
    )


def count_section(run: RunFiles) -> str:
    """Every count of every stage's manifest: what was kept, and what was dropped for which reason."""
    rows = [
        (text(stage), text(name.replace("_", " ")), f"{value:,}")
        for stage, manifest in sorted(run.manifests.items())
        if not stage.startswith("student/")
        for name, value in manifest.counts.items()
    ]
    if not rows:
        return missing("no stage has counted anything")
    return f"<details><summary>{len(rows)} counts</summary>{table(('Stage', 'Count', 'Items'), rows)}</details>"


def provenance_section(run: RunFiles) -> str:
    """Hashes, versions and times of every stage."""
    if not run.manifests:
        return missing("no stage has been published")
    rows = [
        (
            f'<span class="mono">{text(stage)}</span>',
            f'<span class="mono">{text(m.identity[:12])}</span>',
            f'<span class="mono">{text(m.config_hash[:12])}</span>',
            "–" if m.seed is None else str(m.seed),
            text(m.device),
            text(m.started),
            text(m.finished),
        )
        for stage, m in sorted(run.manifests.items())
    ]
    some = next(iter(run.manifests.values()))
    versions = ", ".join(f"{name} {version}" for name, version in some.libraries.items())
    commit = some.git_commit[:12] if some.git_commit else "unknown"
    about = f"kdistill {some.kdistill_version}, commit {commit}; {versions}"
    header = ("Stage", "Identity", "Configuration", "Seed", "Device", "Started", "Finished")
    return f"<p>{text(about)}</p><details><summary>{len(rows)} stages</summary>{table(header, rows)}</details>"


_DEFINITIONS: Final[tuple[tuple[str, str], ...]] = (
    (
        "Report F1",
        "Labels of the generated findings and impression, read by the labeler, against the reference: 2 TP / "
        "(2 TP + FP + FN) over positive labels. Micro pools 14 observations, macro averages them. U+ counts uncertain "
        "as positive, U− as negative. It is CheXbert F1 only if the labeler named below the scores is CheXbert.",
    ),
    ("Rationale F1", "The same for the generated rationale."),
    (
        "AUC",
        "Area under the ROC curve of the label head; micro over all (study, observation) pairs, macro over "
        "observations. prevalence_only never looks at an image: it is the floor, not 0.5.",
    ),
    (
        "[low, high]",
        "95% interval: patients are drawn with replacement, all their studies with them; seeds are averaged in each "
        "resample, so the interval says nothing about other seeds.",
    ),
    ("p, p (Holm)", "Paired approximate randomisation by patient, two-sided; adjusted within a family of comparisons."),
    (
        "Audit",
        "Tests of METHOD section 7: does the explanation depend on the image, and on the right part of it? Value "
        "beside the baseline that an unfaithful explanation would reach.",
    ),
)


def definition_section() -> str:
    """What each number means; docs/metrics.md and docs/faithfulness.md say it at length."""
    items = "".join(f"<dt>{text(term)}</dt><dd>{text(meaning)}</dd>" for term, meaning in _DEFINITIONS)
    more = "At length: <code>docs/metrics.md</code> (scores) and <code>docs/faithfulness.md</code> (audit)."
    return f'<dl class="definitions">{items}</dl><p class="hint">{more}</p>'


def bullet_list(items: Iterable[str]) -> str:
    """Escaped items."""
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"
