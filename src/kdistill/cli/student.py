"""`student train`, `evaluate` and `audit`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from kdistill.cli.run import JsonOption, OutOption, OverridesArgument, RecipeArgument
from kdistill.cli.terminal import TerminalWatcher, emit_json

app = typer.Typer(help="The image model that explains itself.", no_args_is_help=True)
RunArgument = typer.Argument(help="Folder of a run.")


def register(parent: typer.Typer) -> None:
    """Add the top-level commands of this module."""
    parent.command("evaluate")(evaluate)
    parent.command("audit")(audit)


@app.command()
def train(
    recipe: str = RecipeArgument,
    overrides: list[str] = OverridesArgument,
    arm: str = typer.Option("full", "--arm", help="One of the recipe's arms."),
    seed: int | None = typer.Option(None, "--seed", help="One of the recipe's seeds.  [default: its first]"),
    out: Path | None = OutOption,
) -> None:
    """Train one arm of a recipe (and make what it is made from)."""
    from kdistill.cli.stages import make_until
    from kdistill.pipeline.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or []).distillation.seeds[0] if seed is None else seed
    typer.echo(f"student: {make_until(recipe, overrides, out, f'student/{arm}/seed-{chosen}')}")


def evaluate(
    run_dir: Path = RunArgument,
    against: Path | None = typer.Option(None, "--against", help="Another run on the same test studies."),
    as_json: bool = JsonOption,
) -> None:
    """Score a run's students again from their predictions, and compare them (docs/metrics.md)."""
    _remake(run_dir, "evaluation")
    scores = json.loads((run_dir / "evaluation" / "scores.json").read_text(encoding="utf-8"))
    if against is not None:
        from kdistill.pipeline.against import compare_runs

        comparisons = compare_runs(run_dir, against)
    else:
        comparisons = json.loads((run_dir / "evaluation" / "comparisons.json").read_text(encoding="utf-8"))
    if as_json:
        emit_json({"scores": scores, "comparisons": comparisons})
        return
    typer.echo((run_dir / "evaluation" / "table.md").read_text(encoding="utf-8"))
    for row in comparisons:
        typer.echo(comparison_line(row))


def comparison_line(row: dict) -> str:  # type: ignore[type-arg]
    """One comparison in words."""
    if row["difference"] is None:
        return f"{row['name']}: {row['arm']} against {row['baseline']}: null: {row.get('reason')}"
    interval = f" [{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}]" if row["ci95"] else ""
    relative = f" ({row['relative']:+.1%})" if row["relative"] is not None else ""
    return (
        f"{row['name']}: {row['arm']} - {row['baseline']} = {row['difference']:+.3f}{interval}{relative} p={row['p']}"
    )


def audit(run_dir: Path = RunArgument, as_json: bool = JsonOption) -> None:
    """Measure again whether a run's explanations depend on the image (docs/faithfulness.md)."""
    _remake(run_dir, "audit")
    rows = json.loads((run_dir / "audit" / "audit.json").read_text(encoding="utf-8"))
    if as_json:
        emit_json(rows)
        return
    for row in rows:
        verdict = {True: "pass", False: "FAIL", None: "----"}[row["passed"]]
        value = "not run" if row["value"] is None else f"{row['value']:.3f}"
        interval = f" [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" if row["ci95"] else ""
        baseline = "" if row["baseline"] is None else f" baseline {row['baseline']}"
        typer.echo(
            f"{verdict}  {row['test']:<34} {row['arm'] or '':<20} {value}{interval}{baseline} n={row['n']} "
            f"{row['reason'] or ''}"
        )


def _remake(run_dir: Path, name: str) -> None:
    """Make a closing stage of a finished run from the recipe that stands in it; kept if it is up to date."""
    from kdistill.errors import InputError
    from kdistill.pipeline.recipe import load_recipe
    from kdistill.pipeline.run import RECIPE, make_selected
    from kdistill.pipeline.stages import RunFolder, all_stages

    if not (run_dir / RECIPE).is_file():
        raise InputError("is no run (no recipe.yaml)", where=str(run_dir), remedy="Give a run's folder, e.g. runs/demo")
    recipe = load_recipe(str(run_dir / RECIPE))
    run = RunFolder(run_dir)
    stages = [stage for stage in all_stages(recipe, run) if stage.name == name]
    with TerminalWatcher() as watcher:
        make_selected(recipe, run, stages, watcher)
