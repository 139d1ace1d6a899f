"""`literature build` and `literature search`."""

from __future__ import annotations

from pathlib import Path

import typer

from kdistill.cli.run import JsonOption, OverridesArgument
from kdistill.cli.terminal import TerminalWatcher, clean, emit_json

app = typer.Typer(help="Articles -> clean, chest-relevant passages with a search index.", no_args_is_help=True)


@app.command(epilog="Example: kdistill literature build --source articles/ --source more.jsonl.gz --out lit")
def build(
    recipe: str | None = typer.Argument(None, help="A recipe whose literature section to build."),
    overrides: list[str] = OverridesArgument,
    source: list[str] = typer.Option([], "--source", help="PubMed XML(.gz), JATS, JSONL(.gz), .tar.gz or a folder."),
    out: Path | None = typer.Option(None, "--out", help="Folder to write."),
    as_json: bool = JsonOption,
) -> None:
    """Build the literature folder of a recipe, or of any mix of files."""
    from kdistill.artifact import open_stage, read_manifest
    from kdistill.errors import InputError

    if recipe:
        from kdistill.cli.stages import make_until

        target = make_until(recipe, overrides, out, "literature")
    elif source and out:
        from kdistill.config import validate
        from kdistill.literature.config import LiteratureConfig
        from kdistill.literature.stage import build_literature

        config = validate(LiteratureConfig, {"sources": [{"kind": "files", "path": source}]}, where="--source")
        target = out
        with TerminalWatcher(quiet=as_json) as watcher:
            watcher.started("literature")
            with open_stage(target, stage="literature", config=config) as stage:
                build_literature(stage, config, on_progress=lambda d, t: watcher.moved("literature", d, t))
            watcher.finished("literature", skipped=False)
    else:
        raise InputError("needs a recipe, or --source with --out", where="literature build")
    counts = read_manifest(target).counts
    if as_json:
        emit_json({"folder": str(target), "counts": counts})
    else:
        for name, count in counts.items():
            typer.echo(f"{count:>9}  {name}")
        typer.echo(f"literature: {target}")


@app.command(epilog='Example: kdistill literature search runs/demo/literature "blunted costophrenic angle"')
def search(
    folder: Path = typer.Argument(help="A literature folder, or a run."),
    query: str = typer.Argument(help="Words to look for."),
    top: int = typer.Option(5, "--top", min=1, max=100, help="How many passages."),
    as_json: bool = JsonOption,
) -> None:
    """Search the passages (BM25, higher is better)."""
    from kdistill.literature.search import PassageIndex

    index = PassageIndex.load(folder / "literature" if (folder / "literature").is_dir() else folder)
    hits = index.search(query, top)
    if as_json:
        emit_json([{"score": score, **passage.model_dump(mode="json")} for passage, score in hits])
        return
    for passage, score in hits:
        where = f"PMID {passage.pmid}" if passage.pmid else passage.article_id
        typer.echo(f"{score:6.2f}  {where}  {clean(passage.title)} ({passage.year or 'no year'})")
        typer.echo(f"        {clean(passage.text)}")
    if not hits:
        typer.echo("no passage matches", err=True)
