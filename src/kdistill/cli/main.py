"""The command `kdistill`: parse, call, print. Nothing here computes; costly imports are inside the commands."""

from __future__ import annotations

import logging
import os
import sys

import typer

from kdistill import __version__
from kdistill.cli import data, dicom, explain, feedback, label, literature, run, serve, student, teacher
from kdistill.cli.terminal import fail, quiet_libraries
from kdistill.errors import KDistillError

EXIT_CODES = (
    "Exit codes: 0 done, 2 bad input or configuration, 3 refused by policy, 4 environment (disk, missing extra), "
    "130/143 stopped by a signal."
)

app = typer.Typer(
    name="kdistill",
    help="Clinical reasoning from the literature, distilled into X-ray models that explain themselves.",
    epilog=EXIT_CODES + " Start with: kdistill demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"kdistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks and debug messages."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of every command (they stand before the command's name)."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    if debug:
        os.environ["KDISTILL_DEBUG"] = "1"
    quiet_libraries()


run.register(app)
student.register(app)
explain.register(app)
serve.register(app)
label.register(app)
app.add_typer(literature.app, name="literature")
app.add_typer(teacher.app, name="teacher")
app.add_typer(teacher.rationales_app, name="rationales")
app.add_typer(student.app, name="student")
app.add_typer(data.app, name="data")
app.add_typer(feedback.app, name="feedback")
app.add_typer(data.phantom_app, name="phantom")
app.add_typer(dicom.app, name="dicom")


def main() -> None:
    """Entry point: one sentence on stderr for every error that a user can mend, a traceback only with --debug."""
    try:
        app()
    except KDistillError as error:
        if os.environ.get("KDISTILL_DEBUG"):
            raise
        sys.exit(fail(error))
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
