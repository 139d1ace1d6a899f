"""What the terminal shows: errors, results as JSON, and progress (bars on a terminal, plain lines elsewhere)."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from kdistill.errors import KDistillError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def quiet_libraries() -> None:
    """Keep hubs offline and other people's progress bars and advice off our terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)


def fail(error: KDistillError) -> int:
    """Show an error on stderr; returns its exit code. Control characters from files never reach the terminal raw."""
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(clean(str(error)), err=True)
    return error.exit_code


def clean(text: str) -> str:
    """Replace control, bidi and zero-width characters (they could rewrite the terminal) by their code points."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def emit_json(data: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=1))


class TerminalWatcher:
    """Shows a run's stages: a rich bar for each running stage on a terminal, one plain line an event elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars = sys.stderr.isatty() and not quiet
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def __enter__(self) -> TerminalWatcher:
        if self._bars:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def started(self, stage: str) -> None:
        """A stage begins."""
        self._begun[stage] = time.monotonic()
        if self._progress:
            self._tasks[stage] = self._progress.add_task(stage, total=None)
        else:
            self._line(f"{stage}: started")

    def moved(self, stage: str, done: int, total: int) -> None:
        """A stage has done so much of so much (plain lines: at most one in ten seconds)."""
        if self._progress and stage in self._tasks:
            self._progress.update(self._tasks[stage], completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._shown.get(stage, self._begun.get(stage, now)) >= 10:
            self._shown[stage] = now
            self._line(f"{stage}: {done}/{total}")

    def finished(self, stage: str, *, skipped: bool) -> None:
        """A stage is published, or was up to date."""
        seconds = time.monotonic() - self._begun.get(stage, time.monotonic())
        if self._progress and stage in self._tasks:
            self._progress.remove_task(self._tasks.pop(stage))
        text = f"{stage}: up to date" if skipped else f"{stage}: done in {seconds:.1f} s"
        if self._progress:
            self._progress.console.print(text, highlight=False)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        if not self._quiet:
            typer.echo(text, err=True)
