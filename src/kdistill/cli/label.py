"""`label`, `score`, `convert-chexbert`: anybody's reports and predictions; weights only for CheXbert."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import emit_json

if TYPE_CHECKING:
    from kdistill.labelers.labeler import Labeler
    from kdistill.observations import Labels

#: Reports labelled between two writes: sorted by length inside, so that CheXbert's batches hold little padding.
_AT_ONCE: Final = 1024


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("label", epilog="Example: kdistill label reports.csv --column impression --json")(label)
    app.command("score", epilog="Example: kdistill score --reference truth.csv --predictions mine.csv")(score)
    app.command("convert-chexbert", epilog="Example: kdistill convert-chexbert chexbert.pth weights/chexbert")(convert)


LabelerOption = typer.Option("rules", "--labeler", help="rules (no weights), or chexbert with --checkpoint.")
CheckpointOption = typer.Option(None, "--checkpoint", help="Folder that convert-chexbert wrote.")
TokenizerOption = typer.Option(None, "--tokenizer", help="BERT's vocab.txt, if the checkpoint folder holds none.")


def _open(labeler: str, checkpoint: Path | None, tokenizer: Path | None) -> Labeler:
    from kdistill.errors import ConfigError
    from kdistill.labelers.config import ChexbertLabelerConfig, RulesLabelerConfig
    from kdistill.labelers.labeler import open_labeler

    match labeler:
        case "rules" if checkpoint is None and tokenizer is None:
            return open_labeler(RulesLabelerConfig())
        case "rules":
            raise ConfigError("the rules need no weights", where="--checkpoint", remedy="Add --labeler chexbert.")
        case "chexbert" if checkpoint is not None:
            words = str(tokenizer) if tokenizer else None
            return open_labeler(ChexbertLabelerConfig(checkpoint=str(checkpoint), tokenizer=words))
        case "chexbert":
            raise ConfigError(
                "chexbert needs weights", where="--labeler", remedy="Add --checkpoint FOLDER (docs/labeler.md)."
            )
    raise ConfigError(f"there is no labeler {labeler!r}", where="--labeler", remedy="Use rules or chexbert.")


def label(
    file: str = typer.Argument(help=".csv, .jsonl, .txt (one report a line) or - for stdin."),
    column: str = typer.Option("report", "--column", help="Column or key that holds the report."),
    labeler: str = LabelerOption,
    checkpoint: Path | None = CheckpointOption,
    tokenizer: Path | None = TokenizerOption,
    out: Path | None = typer.Option(None, "--out", help="Write there instead of stdout."),
    as_json: bool = JsonOption,
) -> None:
    """Label reports with the 14 observations: 1 stated, 0 denied, -1 uncertain, empty not mentioned."""
    from kdistill.labelers.reports_io import read_reports
    from kdistill.observations import OBSERVATIONS

    reader = _open(labeler, checkpoint, tokenizer)
    reports = list(read_reports(file, column))  # raises before anything is written
    with out.open("w", encoding="utf-8", newline="\n") if out else nullcontext(sys.stdout) as stream:
        if not as_json:
            stream.write(",".join(["id", *OBSERVATIONS]) + "\n")
        for start in range(0, len(reports), _AT_ONCE):
            some = reports[start : start + _AT_ONCE]
            for (identifier, _), labels in zip(some, reader.label_all([text for _, text in some]), strict=True):
                stream.write(_line(identifier, labels, as_json=as_json) + "\n")


def _line(identifier: str, labels: Labels, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"id": identifier, "labels": labels}, ensure_ascii=False)
    return ",".join([_csv(identifier), *("" if state is None else str(state) for state in labels.values())])


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def score(
    reference: Path = typer.Option(
        ..., "--reference", help="CSV, JSON(L) or parquet: study_id and labels or a report."
    ),
    predictions: Path = typer.Option(
        ..., "--predictions", help="The same for the predictions, or 14 probabilities, or explanations."
    ),
    allow_missing: bool = typer.Option(False, "--allow-missing", help="Score the studies that both files have."),
    key: str = typer.Option("study_id", "--key", help="Column that names a study in both files."),
    labeler: str = LabelerOption,
    checkpoint: Path | None = CheckpointOption,
    tokenizer: Path | None = TokenizerOption,
    as_json: bool = JsonOption,
) -> None:
    """Score anybody's generated reports or probabilities, with intervals and definitions (docs/metrics.md)."""
    from kdistill.evaluation.files import score_files
    from kdistill.evaluation.table import f1_note

    reader = _open(labeler, checkpoint, tokenizer)
    found = score_files(reference, predictions, labeler=reader, allow_missing=allow_missing, key=key)
    rows = [row.model_dump(mode="json") for row in found.scores]
    for note in (*found.notes, f1_note(found.scores)):
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


def convert(
    checkpoint: Path = typer.Argument(help="The official chexbert.pth."),
    out: Path = typer.Argument(help="New folder for model.safetensors and config.json."),
    vocab: Path | None = typer.Option(None, "--vocab", help="BERT's vocab.txt, copied into the folder."),
) -> None:
    """Convert the official CheXbert checkpoint to safetensors, once; only tensors are read, no code is run."""
    from kdistill.labelers.chexbert_conversion import convert_chexbert

    sizes = convert_chexbert(checkpoint, out, vocab)
    typer.echo(f"{out}: {sizes.num_hidden_layers} layers of {sizes.hidden_size}, 14 heads")
