"""`label` and `score`: anybody's reports and predictions, no model needed."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import emit_json


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("label", epilog="Example: kdistill label reports.csv --column impression --json")(label)
    app.command("score", epilog="Example: kdistill score --reference truth.csv --predictions mine.csv")(score)


def label(
    file: str = typer.Argument(help=".csv, .jsonl, .txt (one report a line) or - for stdin."),
    column: str = typer.Option("report", "--column", help="Column or key that holds the report."),
    labeler: str = typer.Option("rules", "--labeler", help="rules (the CheXbert checkpoint comes with issue 4)."),
    out: Path | None = typer.Option(None, "--out", help="Write there instead of stdout."),
    as_json: bool = JsonOption,
) -> None:
    """Label reports with the 14 observations: 1 stated, 0 denied, -1 uncertain, empty not mentioned."""
    from kdistill.errors import ConfigError
    from kdistill.labelers.reports_io import read_reports
    from kdistill.labelers.rules import RuleLabeler
    from kdistill.observations import OBSERVATIONS

    if labeler != "rules":
        raise ConfigError(f"there is no labeler {labeler!r}", where="--labeler", remedy="Use rules.")
    rules = RuleLabeler()
    reports = read_reports(file, column)  # raises before anything is written
    with out.open("w", encoding="utf-8", newline="\n") if out else nullcontext(sys.stdout) as stream:
        if not as_json:
            stream.write(",".join(["id", *OBSERVATIONS]) + "\n")
        for identifier, text in reports:
            labels = rules.label(text)
            if as_json:
                stream.write(json.dumps({"id": identifier, "labels": labels}, ensure_ascii=False) + "\n")
            else:
                cells = ["" if labels[name] is None else str(labels[name]) for name in OBSERVATIONS]
                stream.write(",".join([_csv(identifier), *cells]) + "\n")


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def score(
    reference: Path = typer.Option(..., "--reference", help="CSV, JSONL or parquet: study_id and labels or a report."),
    predictions: Path = typer.Option(..., "--predictions", help="The same for the predictions, or 14 probabilities."),
    allow_missing: bool = typer.Option(False, "--allow-missing", help="Score the studies that both files have."),
    as_json: bool = JsonOption,
) -> None:
    """Score anybody's generated reports or probabilities, with intervals and definitions (docs/metrics.md)."""
    from kdistill.evaluation.files import score_files
    from kdistill.labelers.rules import RuleLabeler

    found = score_files(reference, predictions, labeler=RuleLabeler(), allow_missing=allow_missing)
    rows = [row.model_dump(mode="json") for row in found.scores]
    for note in found.notes:
        typer.echo(note, err=True)
    if as_json:
        emit_json(rows)
    else:
        for row in rows:
            typer.echo(score_line(row))


def score_line(row: dict) -> str:  # type: ignore[type-arg]
    """One score in words: name, what it is over, value with interval and n, or why it is null."""
    over = row["observation"] or f"{row['average']} {row['observations']}"
    what = f"{row['name']:<12} {row['arm'] or '':<22} {over:<28} {row['uncertain'] or '':<9} {row['reference']:<7}"
    if row["value"] is None:
        return f"{what} null: {row['reason']}"
    interval = f" [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" if row["ci95"] else ""
    return f"{what} {row['value']:.3f}{interval} n={row['n']}"
