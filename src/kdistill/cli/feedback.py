"""`feedback export`: what readers said in the reading room, as JSONL."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import typer

app = typer.Typer(help="What readers said in the reading room (docs/feedback.md).", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """What readers said in the reading room (docs/feedback.md)."""


@app.command(epilog="Example: kdistill feedback export feedback.sqlite --out feedback.jsonl")
def export(
    file: Path = typer.Argument(help="The file that serve --feedback named; servers may go on writing it."),
    out: Path | None = typer.Option(None, "--out", help="Write there instead of stdout."),
) -> None:
    """Write feedback as JSONL, one image a line: a reference for `kdistill score --key image_sha256`."""
    from kdistill.errors import EnvironmentFault
    from kdistill.serve.feedback_export import export_lines

    lines = list(export_lines(file))  # raises before anything is written
    try:
        with out.open("w", encoding="utf-8", newline="\n") if out else nullcontext(sys.stdout) as stream:
            stream.writelines(lines)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentFault(f"cannot be written ({error.strerror})", where=str(out)) from error
    if out:
        typer.echo(f"{out}: {len(lines)} images", err=True)
