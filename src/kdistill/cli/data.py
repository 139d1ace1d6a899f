"""`data check` and `phantom render`."""

from __future__ import annotations

from pathlib import Path

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import TerminalWatcher, clean, emit_json

app = typer.Typer(help="Look at a data set before it is trained on.", no_args_is_help=True)
phantom_app = typer.Typer(help="The synthetic chest X-ray world with known causes.", no_args_is_help=True)


@app.command(epilog="Exit code 3 on leakage: a patient in two splits, or equal pixels in two splits.")
def check(
    source: str = typer.Argument(help="A recipe, or a folder with studies.csv."), as_json: bool = JsonOption
) -> None:
    """Check studies, images, labels, reports and splits; every problem at once."""
    from kdistill.errors import PolicyError
    from kdistill.pipeline.data_check import check_data

    found = check_data(source)
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        for line in found.lines():
            typer.echo(clean(line))
    if found.leaks:
        raise PolicyError(
            f"leakage: {'; '.join(found.leaks)}", where=source, remedy="Split by patient and remove duplicates."
        )


@phantom_app.command(epilog="Example: kdistill phantom render --out phantoms --num 200 --seed 3 --pairs")
def render(
    out: Path = typer.Option(..., "--out", help="Folder to write; must not exist or be empty."),
    num: int = typer.Option(100, "--num", min=1, help="Number of studies."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the world."),
    size_px: int = typer.Option(128, "--size-px", min=32, max=1024, help="Side of the images, in pixels."),
    pairs: bool = typer.Option(False, "--pairs", help="Also write counterfactual pairs."),
) -> None:
    """Write phantom studies: PNG images, masks, studies.csv (the plain folder layout) and, if asked, pairs."""
    from kdistill.studies.phantom.write import config_for, write_folder

    with TerminalWatcher() as watcher:
        watcher.started("render")
        config = config_for(num, seed=seed, size_px=size_px)
        write_folder(out, config, pairs, lambda done, total: watcher.moved("render", done, total))
        watcher.finished("render", skipped=False)
    typer.echo(f"studies: {out / 'studies.csv'}")
