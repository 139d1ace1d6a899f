"""Make one stage of a recipe, and the stages that it is made from."""

from __future__ import annotations

from pathlib import Path

from kdistill.cli.terminal import TerminalWatcher


def make_until(recipe: str, overrides: list[str] | None, out: Path | None, last: str) -> Path:
    """Make the stages of a recipe up to and including `last`; returns that stage's folder.

    Stages that stand there from the same settings are kept, so these commands need no --resume.

    Raises:
        InputError: The recipe has no such stage.
    """
    from kdistill.errors import InputError
    from kdistill.pipeline.recipe import load_recipe
    from kdistill.pipeline.run import make_selected
    from kdistill.pipeline.stages import RunFolder, all_stages, needed_for

    settings = load_recipe(recipe, overrides or [])
    run = RunFolder(out or Path("runs") / settings.name)
    stages = {stage.name: stage for stage in all_stages(settings, run)}
    if last not in stages:
        raise InputError(f"the recipe has no stage {last!r}", remedy=f"It has: {', '.join(stages)}")
    with TerminalWatcher() as watcher:
        make_selected(settings, run, needed_for(last, stages), watcher)
    return stages[last].path
