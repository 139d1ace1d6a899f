"""`teacher train|probe` and `rationales write|show`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from kdistill.cli.run import JsonOption, OutOption, OverridesArgument, RecipeArgument
from kdistill.cli.terminal import clean, emit_json

app = typer.Typer(help="The language model that learns from the literature.", no_args_is_help=True)
rationales_app = typer.Typer(help="The teacher's verified reasoning about training studies.", no_args_is_help=True)
RunArgument = typer.Argument(help="Folder of a run.")


@app.command()
def train(recipe: str = RecipeArgument, overrides: list[str] = OverridesArgument, out: Path | None = OutOption) -> None:
    """Train the teacher of a recipe (and make what it is made from)."""
    from kdistill.cli.stages import make_until

    typer.echo(f"teacher: {make_until(recipe, overrides, out, 'teacher')}")


@app.command()
def probe(
    run_dir: Path = RunArgument,
    as_json: bool = JsonOption,
    items: Path | None = typer.Option(
        None, help="Your own signs instead: JSON Lines of phrase, observation, declarative_only."
    ),
) -> None:
    """Ask which observation each radiographic sign belongs to (13-way choice by likelihood)."""
    stored = _published(run_dir, "teacher", "probe.json")
    found = _probe_anew(stored.parent / "model", items) if items else json.loads(stored.read_text(encoding="utf-8"))
    if as_json:
        emit_json(found)
        return
    for name, value in found.items():
        if isinstance(value, (int, float, str)):
            typer.echo(f"{name}: {value}")
        elif isinstance(value, dict):
            typer.echo(f"{name}: " + ", ".join(f"{key} {item}" for key, item in value.items()))


def _probe_anew(model_dir: Path, items: Path) -> dict[str, object]:
    from kdistill.records import ProbeItem, read_jsonl
    from kdistill.teacher.language_model import load
    from kdistill.teacher.probe import probe
    from kdistill.teacher.scoring import Scorer

    teacher = load(str(model_dir))
    teacher.model.eval()
    return {"trained": probe(Scorer(teacher), list(read_jsonl(items, ProbeItem))).model_dump(), "chance": 1 / 13}


@rationales_app.command()
def write(recipe: str = RecipeArgument, overrides: list[str] = OverridesArgument, out: Path | None = OutOption) -> None:
    """Write the rationales of a recipe's training studies (and make what they are made from)."""
    from kdistill.cli.stages import make_until

    typer.echo(f"rationales: {make_until(recipe, overrides, out, 'rationales')}")


@rationales_app.command()
def show(
    run_dir: Path = RunArgument,
    study_id: str = typer.Argument(help="A training study of the run."),
    as_json: bool = JsonOption,
) -> None:
    """Show one study's rationale, accepted or rejected (with the reason), and its citations."""
    from kdistill.errors import InputError
    from kdistill.records import Rationale, read_jsonl

    for name in ("rationales.jsonl", "rejected.jsonl"):
        for rationale in read_jsonl(_published(run_dir, "rationales", name), Rationale):
            if rationale.study_id == study_id:
                _show(rationale, as_json)
                return
    raise InputError(
        f"no rationale for study {study_id!r}",
        where=str(run_dir),
        remedy="Rationales exist for training studies only; ids stand in studies/studies.jsonl.",
    )


def _show(rationale: object, as_json: bool) -> None:
    from kdistill.records import Rationale

    assert isinstance(rationale, Rationale)
    if as_json:
        emit_json(rationale.model_dump(mode="json"))
        return
    typer.echo(f"{rationale.study_id}: {'accepted' if rationale.reason is None else 'rejected: ' + rationale.reason}")
    for entry in rationale.entries:
        typer.echo(f"- {clean(entry.text)}")
        for citation in entry.citations:
            typer.echo(f'    "{clean(citation.quote)}" [{citation.pmid or citation.article_id}]')


def _published(run_dir: Path, stage: str, name: str) -> Path:
    from kdistill.artifact import read_manifest

    read_manifest(run_dir / stage)
    return run_dir / stage / name
