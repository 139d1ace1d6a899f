"""`run`, `demo`, `verify`, `doctor`: whole pipelines and what stands on disk."""

from __future__ import annotations

from pathlib import Path

import typer

from kdistill.cli.terminal import TerminalWatcher, emit_json

RecipeArgument = typer.Argument(help="A recipe file, or the name of a shipped one (demo, evidence, real_small).")
RunnableArgument = typer.Argument(help="A recipe or sweep file, or the name of a shipped recipe (demo, evidence, ...).")
OverridesArgument = typer.Argument(None, help="Overrides as dotted key=value, e.g. distillation.learning_rate=3e-4")
OutOption = typer.Option(None, "--out", help="Folder of the run.  [default: runs/<name of the recipe>]")
JsonOption = typer.Option(False, "--json", help="Machine-readable output on stdout; messages stay on stderr.")
ResumeOption = typer.Option(False, "--resume", help="Go on with the existing run of this recipe.")
FreshOption = typer.Option(False, "--fresh", help="Delete the existing run and start again.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run", epilog="Example: kdistill run recipes/demo.yaml distillation.learning_rate=3e-4")(run)
    app.command("demo")(demo)
    app.command("verify")(verify)
    app.command("doctor")(doctor)


def run(
    recipe: str = RunnableArgument,
    overrides: list[str] = OverridesArgument,
    out: Path | None = OutOption,
    resume: bool = ResumeOption,
    fresh: bool = FreshOption,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print counts, sizes, memory and time; write nothing."),
    as_json: bool = JsonOption,
) -> None:
    """Run a recipe: literature, teacher, rationales, students, scores, audit and the report. A sweep: all its runs."""
    from kdistill.pipeline.recipe import load_recipe
    from kdistill.pipeline.sweep_settings import find_sweep

    if (sweep := find_sweep(recipe)) is not None:
        _run_sweep(sweep, overrides or [], out, resume, fresh, dry_run, as_json)
        return

    settings = load_recipe(recipe, overrides or [])
    run_dir = out or Path("runs") / settings.name
    if dry_run:
        from kdistill.pipeline.estimate import estimate, render_estimate

        found = estimate(settings, run_dir)
        if as_json:
            emit_json(found)
        else:
            typer.echo(render_estimate(found))
        return
    from kdistill.pipeline.run import run_recipe

    with TerminalWatcher(quiet=as_json) as watcher:
        folder = run_recipe(settings, run_dir, watcher, resume=resume, fresh=fresh)
    report = folder.report / "report.html"
    if as_json:
        emit_json({"run": str(run_dir), "report": str(report), "stages": _stage_states(run_dir)})
    else:
        typer.echo(f"report: {report}")


def _run_sweep(
    path: Path, overrides: list[str], out: Path | None, resume: bool, fresh: bool, dry_run: bool, as_json: bool
) -> None:
    from kdistill.pipeline.sweep import run_sweep
    from kdistill.pipeline.sweep_settings import load_sweep

    sweep, recipes = load_sweep(path, overrides)
    out_dir = out or Path("runs") / sweep.name
    if dry_run:
        from kdistill.pipeline.estimate import estimate, render_estimate

        found = {name: estimate(settings, out_dir / name) for name, settings in recipes.items()}
        if as_json:
            emit_json(found)
            return
        for name, one in found.items():
            typer.echo(f"{name}\n{render_estimate(one)}\n")
        typer.echo(f"{len(found)} settings, {sum(one['minutes'] for one in found.values()):.0f} minutes in all")
        return
    with TerminalWatcher(quiet=as_json) as watcher:
        page = run_sweep(sweep, recipes, out_dir, watcher, resume=resume, fresh=fresh)
    if as_json:
        emit_json({"sweep": str(out_dir), "page": str(page), "runs": [str(out_dir / name) for name in recipes]})
    else:
        typer.echo(f"page: {page}")


def demo(
    out: Path | None = OutOption, resume: bool = ResumeOption, fresh: bool = FreshOption, as_json: bool = JsonOption
) -> None:
    """Run the demo recipe (no licence, key or network) and say how to look at it."""
    run("demo", [], out, resume, fresh, False, as_json)
    if not as_json:
        where = out or Path("runs") / "demo"
        typer.echo(f"Open it in a browser. Then: kdistill serve {where} (the reading room),")
        typer.echo(f"or kdistill explain {where} IMAGE.png")


def _stage_states(run_dir: Path) -> dict[str, list[str]]:
    from kdistill.artifact import find_stages, verify_stage

    return {path.relative_to(run_dir).as_posix(): verify_stage(path) for path in find_stages(run_dir)}


def verify(run_dir: Path = typer.Argument(help="Folder of a run."), as_json: bool = JsonOption) -> None:
    """Compare every file of a run with the hashes in its manifests (exit 2 if one differs)."""
    from kdistill.errors import InputError

    states = _stage_states(run_dir)
    if not states:
        raise InputError("holds no published stage", where=str(run_dir), remedy="Give a run's folder, e.g. runs/demo")
    if as_json:
        emit_json(states)
    else:
        for name, problems in states.items():
            typer.echo(f"{name}: {'ok' if not problems else '; '.join(problems)}")
    damaged = [name for name, problems in states.items() if problems]
    if damaged:
        raise InputError(
            f"{len(damaged)} of {len(states)} stages are damaged: {', '.join(damaged)}",
            where=str(run_dir),
            remedy="Delete these folders and run the recipe with --resume.",
        )


def doctor(as_json: bool = JsonOption) -> None:
    """Check this machine: versions, cores, memory, disk, optional extras. Exit 4 if something needed is missing."""
    from kdistill.cli.doctor import checks
    from kdistill.errors import EnvironmentFault

    found = checks()
    if as_json:
        emit_json(found)
    else:
        for check in found:
            typer.echo(
                f"{'ok  ' if check['ok'] else 'FAIL' if check['needed'] else 'none'}  {check['name']}: {check['text']}"
            )
    broken = [str(check["name"]) for check in found if check["needed"] and not check["ok"]]
    if broken:
        raise EnvironmentFault(f"missing or too old: {', '.join(broken)}", remedy="Install with: make install")
