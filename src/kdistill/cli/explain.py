"""`explain`: one study, or a folder of them, with a run's student."""

from __future__ import annotations

from pathlib import Path

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import TerminalWatcher, emit_json


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("explain", epilog="Example: kdistill explain runs/demo film.png --out explained")(explain)


def explain(
    run_dir: Path = typer.Argument(help="Folder of a run."),
    images: list[Path] = typer.Argument(help="PNG, JPEG or DICOM files, or folders of them."),
    arm: str = typer.Option("full", "--arm", help="Which student."),
    seed: int | None = typer.Option(None, "--seed", help="Which seed.  [default: the run's first]"),
    out: Path = typer.Option(Path("explained"), "--out", help="Folder for the results."),
    formats: str = typer.Option(
        "json,html", "--format", help="Any of json, html, pdf, fhir (R4), dicom-sr (TID 1500), dicom-sc (overlay)."
    ),
    quality: str = typer.Option(
        "refuse", "--quality", help="For an image that is no upright frontal chest film: refuse, warn or off."
    ),
    as_json: bool = JsonOption,
) -> None:
    """Explain images: findings, impression, rationale with citations, evidence maps. Research use only."""
    from kdistill.explain.run import explain_images

    with TerminalWatcher(quiet=as_json) as watcher:
        done = explain_images(
            run_dir,
            images,
            arm=arm,
            seed=seed,
            out_dir=out,
            formats=tuple(part.strip() for part in formats.split(",") if part.strip()),
            quality=quality,
            on_progress=lambda d, t: watcher.moved("explain", d, t),
        )
    if as_json:
        emit_json([explanation.model_dump(mode="json") for explanation in done.explanations])
    else:
        for path in done.files:
            typer.echo(path)
    if done.rejected:
        number = len(done.rejected)
        were = "1 image was" if number == 1 else f"{number} images were"
        typer.echo(f"{were} not explained: {out / 'rejected.jsonl'} says why", err=True)
