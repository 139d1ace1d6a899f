"""`data check`, `data deidentify` and `phantom render`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import TerminalWatcher, clean, emit_json

if TYPE_CHECKING:
    from kdistill.pipeline.data_check import Checked

#: Written down, so that help loads no configuration; a test compares it with what a recipe may say.
KINDS = (
    "folder, nih_cxr14, covid_notes, chexpert, chexpert_plus, brax, openi, padchest, vindr_cxr, mimic_cxr_jpg, "
    "mimic_cxr; or images (image files without a table)"
)
app = typer.Typer(help="Look at a data set before it is trained on.", no_args_is_help=True)
phantom_app = typer.Typer(help="The synthetic chest X-ray world with known causes.", no_args_is_help=True)


@app.command(epilog="Exit code 3 on leakage: a patient in two splits, or the same film in two splits.")
def check(
    source: str = typer.Argument(
        help="A recipe (or a YAML file with only its studies section), a folder with studies.csv, or an archive of one."
    ),
    as_json: bool = JsonOption,
    html: Path | None = typer.Option(None, "--html", help="Also write a page with tables and a sample of the images."),
    kind: str = typer.Option("folder", "--kind", help=f"Layout of a folder or archive (docs/data.md): one of {KINDS}."),
    images: bool = typer.Option(True, "--images/--no-images", help="Read every image, or only the tables (seconds)."),
) -> None:
    """Check studies, images, labels, reports and splits; every problem at once."""
    from kdistill.errors import InputError, PolicyError
    from kdistill.pipeline.data_check_page import write_page

    if html and not html.parent.is_dir():  # told before minutes of reading, not after
        raise InputError("its folder does not exist", where=str(html), remedy="Make it, or give another --html.")
    with TerminalWatcher(quiet=as_json) as watcher:

        def moved(done: int, total: int) -> None:
            if done == 1:
                watcher.started("images")
            watcher.moved("images", done, total)

        checked = _checked(source, kind, images, moved)
    found = checked.found
    if html:
        write_page(html, checked)
    if as_json:
        emit_json(found.model_dump(mode="json"))
    else:
        for line in found.lines():
            typer.echo(clean(line))
    if found.leaks:
        more = f"; and {len(found.leaks) - 3} more" if len(found.leaks) > 3 else ""
        raise PolicyError(
            f"leakage: {'; '.join(found.leaks[:3])}{more}",
            where=source,
            remedy="Split by patient and remove duplicates.",
        )


def _checked(source: str, kind: str, images: bool, on_progress: Callable[[int, int], None]) -> Checked:
    """Check a recipe or a folder; an archive is unpacked into a private folder that is removed again."""
    import tempfile

    from kdistill.pipeline.data_check import check_data
    from kdistill.studies.archives import extract, is_archive, only_folder

    if not is_archive(Path(source)):
        return check_data(source, kind=kind, images=images, on_progress=on_progress)
    with tempfile.TemporaryDirectory(prefix="kdistill-check-") as temporary:
        extract(Path(source), Path(temporary))
        folder = only_folder(Path(temporary))
        return check_data(str(folder), kind=kind, images=images, shown_as=source, on_progress=on_progress)


@app.command(epilog="Example: kdistill data deidentify export/ my_data --key-file ~/secret.key")
def deidentify(
    source: Path = typer.Argument(help="A folder, .zip or .tar.gz of DICOM (also PNG or JPEG) files."),
    out: Path = typer.Argument(help="The folder to write; must not exist, or be empty."),
    key_file: Path | None = typer.Option(
        None, "--key-file", help="Secret of the pseudonyms, so that later exports match; without it they match nothing."
    ),
    burned_in: str = typer.Option(
        "refuse",
        "--burned-in",
        help="Images whose BurnedInAnnotation is YES: refuse (leave out) or warn (keep, count).",
    ),
    as_json: bool = JsonOption,
) -> None:
    """Make a plain data folder of DICOM files: PNG images and studies.csv, without anything that names a patient."""
    from kdistill.errors import InputError
    from kdistill.studies import deidentify as deidentifying

    if burned_in not in ("refuse", "warn"):
        raise InputError("is neither refuse nor warn", where="--burned-in")
    key = deidentifying.load_key(key_file) if key_file else None
    counts = deidentifying.deidentify(source, out, key=key, burned_in=burned_in).counts  # type: ignore[arg-type]
    if as_json:
        emit_json({"counts": counts})
        return
    for name, count in counts.items():
        if count:
            typer.echo(f"{count:>7}  {name}")
    typer.echo(f"studies: {out / deidentifying.STUDIES}; next: kdistill data check {out}")


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
