"""Scores and comparisons as Markdown: every figure with its interval, n and seeds, every null with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kdistill.evaluation.comparisons import Comparison
from kdistill.evaluation.measures import Average, Measure, Name
from kdistill.evaluation.scores import SOURCE_PREVALENCE_ONLY, Score
from kdistill.labelers.labeler import is_chexbert
from kdistill.observations import UncertainPolicy

#: heading -> what stands under it.
_COLUMNS: Final[tuple[tuple[str, Name, Average, UncertainPolicy], ...]] = (
    ("report_f1 micro U+", "report_f1", "micro", "positive"),
    ("report_f1 micro U-", "report_f1", "micro", "negative"),
    ("report_f1 macro U+", "report_f1", "macro", "positive"),
    ("rationale_f1 micro U+", "rationale_f1", "micro", "positive"),
    ("micro-AUC", "auc", "micro", "negative"),
    ("macro-AUC", "auc", "macro", "negative"),
)
_REFERENCE_TEXT: Final = {
    "truth": "ground truth",
    "labels": "the data set's own labels",
    "report": "labels read from the test reports",
}


def format_table(scores: Sequence[Score], comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> str:
    """The results page in Markdown: one table for each reference, comparisons, breakdown by source and subgroup.

    Args:
        scores: All scores.
        comparisons: All comparisons.
        notes: Sentences that a reader of any of them must know.
    """
    lines = ["# Scores", ""]
    for reference in dict.fromkeys(score.reference for score in scores if score.uncertain is not None):
        here = [s for s in scores if s.reference == reference and s.observations == 14 and s.observation is None]
        lines += [f"## Against {_REFERENCE_TEXT[reference]}", "", *_main(here), "", *_breakdown(here)]
    lines += ["## Comparisons", "", *_comparisons(comparisons), "", *_notes(), f"- {f1_note(scores)}"]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def f1_note(scores: Sequence[Score]) -> str:
    """Say which labeler read the generated texts, and whether report_f1 may be called CheXbert F1."""
    readers = dict.fromkeys(s.labeler for s in scores if s.name in ("report_f1", "rationale_f1") and s.labeler)
    if not readers:
        return "No F1: no generated text was read."
    both = all(is_chexbert(s.labeler) for s in scores if s.name == "report_f1" and s.labeler)
    name = "this is CheXbert F1" if both else "this is not CheXbert F1"
    return f"F1: generated texts were read by {', '.join(readers)}; {name}."


def _main(scores: Sequence[Score]) -> Iterator[str]:
    whole = [s for s in scores if s.subgroup is None]
    yield "| arm | " + " | ".join(heading for heading, *_ in _COLUMNS) + " | n (patients) | seeds |"
    yield "|---|" + "---|" * (len(_COLUMNS) + 2)
    reasons: dict[str, None] = {}
    for arm in dict.fromkeys(s.arm for s in whole):
        mine = [s for s in whole if s.arm == arm]
        cells = [_find(mine, *column) for _, *column in _COLUMNS]  # type: ignore[arg-type]
        reasons.update({f"{s.name}, {arm}: {s.reason}": None for s in cells if s is not None and s.reason})
        seeds = ", ".join(str(seed) for seed in mine[0].seeds) or "-"
        body = " | ".join(_cell(s) for s in cells)
        yield f"| {arm} | {body} | {mine[0].n} ({mine[0].num_patients}) | {seeds} |"
    if reasons:
        yield ""
        yield from (f"- {reason}" for reason in reasons)


def _find(scores: Sequence[Score], name: Name, average: Average, uncertain: UncertainPolicy) -> Score | None:
    wanted = Measure(name, average)
    found = [s for s in scores if (s.name, s.average, s.uncertain) == (wanted.name, wanted.average, uncertain)]
    return found[0] if found else None


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.3f}{_interval(score.ci95)}"


def _interval(ci95: tuple[float, float] | None, *, sign: str = "") -> str:
    return f" [{ci95[0]:{sign}.3f}, {ci95[1]:{sign}.3f}]" if ci95 else ""


def _breakdown(scores: Sequence[Score]) -> Iterator[str]:
    """One row for each group of studies and arm; nulls keep their reason in scores.json."""
    groups = [s for s in scores if s.subgroup is not None]
    if not groups:
        return
    yield "### Within each group of studies"
    yield ""
    if any((s.subgroup or "").startswith("source=") for s in groups):
        yield (
            "The studies come from more than one data set. Over all of them together an AUC also rewards telling the"
            f" data sets apart (`{SOURCE_PREVALENCE_ONLY}` does nothing else); the rows `source=` are free of that."
        )
        yield ""
    columns = [column for column in _COLUMNS if column[1] != "rationale_f1" and column[0] != "report_f1 macro U+"]
    yield "| group | arm | " + " | ".join(heading for heading, *_ in columns) + " | n (patients) |"
    yield "|---|---|" + "---|" * (len(columns) + 1)
    for group, arm in sorted({(s.subgroup or "", s.arm) for s in groups}):
        mine = [s for s in groups if (s.subgroup, s.arm) == (group, arm)]
        body = " | ".join(_cell(_find(mine, *column)) for _, *column in columns)  # type: ignore[arg-type]
        yield f"| {group} | {arm} | {body} | {mine[0].n} ({mine[0].num_patients}) |"
    yield ""


def _comparisons(comparisons: Sequence[Comparison]) -> Iterator[str]:
    shown = [c for c in comparisons if c.average is not None]
    if not shown:
        yield "None."
        return
    yield "| score | arm - baseline | difference | relative | p | p (Holm) | |"
    yield "|---|---|---|---|---|---|---|"
    for c in shown:
        mark = "primary endpoint" if c.primary else ""
        name = f"{c.name} {c.average} {_short(c.uncertain)}".strip()
        if c.difference is None:
            yield f"| {name} | {c.arm} - {c.baseline} | - ({c.reason}) | - | - | - | {mark} |"
            continue
        change = f"{c.difference:+.3f}{_interval(c.ci95, sign='+')}"
        relative = "-" if c.relative is None else f"{c.relative:+.1%}{_percent(c.relative_ci95)}"
        yield f"| {name} | {c.arm} - {c.baseline} | {change} | {relative} | {_p(c.p)} | {_p(c.p_holm)} | {mark} |"
    yield ""
    yield f"Test: {shown[0].test}. Comparisons of single observations stand in comparisons.json."


def _short(uncertain: UncertainPolicy | None) -> str:
    return {"positive": "U+", "negative": "U-", "masked": "masked", None: ""}[uncertain]


def _percent(ci95: tuple[float, float] | None) -> str:
    return f" [{ci95[0]:+.1%}, {ci95[1]:+.1%}]" if ci95 else ""


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _notes() -> Iterator[str]:
    yield "## How to read this"
    yield ""
    yield "- [low, high]: 95% interval by bootstrap over patients; seeds are averaged in each resample."
    yield "- U+ counts an uncertain label as positive, U- as negative, in the reference and in the generated text."
    yield "- AUC: uncertain and not mentioned count as negative; the other two policies stand in scores.json."
    yield "- `prevalence_only` never looks at an image: it is the floor of the micro-AUC, not 0.5."
