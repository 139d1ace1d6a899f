"""`serve`: a run's student behind a page and an HTTP API."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("serve", epilog="Example: kdistill serve runs/demo, then open http://127.0.0.1:8080")(serve)


def serve(
    run_dir: Path = typer.Argument(help="Folder of a run."),
    arm: str = typer.Option("full", "--arm", help="Which student."),
    seed: int | None = typer.Option(None, "--seed", help="Which seed.  [default: the run's first]"),
    against: str | None = typer.Option(
        None, "--against", help="A second student, ARM or ARM:SEED, to compare with on the same film.  [default: none]"
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on; any but loopback needs --token."),
    port: int = typer.Option(8080, "--port", help="Port; 0 for any free one."),
    token: str | None = typer.Option(
        None, "--token", envvar="KDISTILL_TOKEN", help="Token that requests must carry (16 characters or more)."
    ),
    feedback: Path | None = typer.Option(
        None, "--feedback", help="Ask readers what they think and keep it in this SQLite file.  [default: off]"
    ),
    feedback_text: bool = typer.Option(True, "--feedback-text/--no-feedback-text", help="Take free text with it."),
) -> None:
    """Explain images in the browser and over HTTP. Research use only; results stay in memory for an hour."""
    from kdistill.serve.run import serve_run

    settings = {"host": host, "port": port, "token": token, "feedback": feedback, "feedback_text": feedback_text}
    serve_run(run_dir, settings, arm=arm, seed=seed, against=against, announce=typer.echo)
