"""Run a sweep: each setting is a run of its own, and one page lays them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdistill.config import dump_yaml
from kdistill.errors import PolicyError
from kdistill.pipeline.recipe import Recipe
from kdistill.pipeline.run import Watcher, run_recipe
from kdistill.pipeline.sweep_page import write_sweep
from kdistill.pipeline.sweep_settings import Sweep

SWEEP = "sweep.yaml"


class _Named:
    """Puts the setting's name before the stages'."""

    def __init__(self, watcher: Watcher, setting: str) -> None:
        self._watcher, self._setting = watcher, setting

    def started(self, stage: str) -> None:
        """See `run.Watcher`."""
        self._watcher.started(f"{self._setting}/{stage}")

    def moved(self, stage: str, done: int, total: int) -> None:
        """See `run.Watcher`."""
        self._watcher.moved(f"{self._setting}/{stage}", done, total)

    def finished(self, stage: str, *, skipped: bool) -> None:
        """See `run.Watcher`."""
        self._watcher.finished(f"{self._setting}/{stage}", skipped=skipped)


def run_sweep(
    sweep: Sweep,
    recipes: Mapping[str, Recipe],
    out_dir: Path,
    watcher: Watcher,
    *,
    resume: bool = False,
    fresh: bool = False,
) -> Path:
    """Run every setting below `out_dir` and write sweep.json, table.md and sweep.html there.

    Args:
        sweep: The sweep.
        recipes: The recipe of each setting.
        out_dir: The sweep's folder; each setting's run stands in a folder of its own inside.
        watcher: Told of progress, stages named "<setting>/<stage>".
        resume: Go on: finished settings are kept, an unfinished one goes on from its last stage or checkpoint.
        fresh: Delete the runs of these settings first.

    Returns:
        The page.

    Raises:
        PolicyError: A sweep stands there and neither was asked for, or a setting's run was made from another recipe.
        Interrupted: A signal asked to stop.
    """
    saved = out_dir / SWEEP
    if saved.is_file() and not (resume or fresh):
        raise PolicyError(
            "a sweep stands there already",
            where=str(out_dir),
            remedy="Go on with it: --resume. Delete its runs and start again: --fresh. Keep it: another --out.",
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    saved.write_text(dump_yaml(sweep), encoding="utf-8")
    made: list[Path] = []
    for setting in sweep.settings:
        named, folder = _Named(watcher, setting.name), out_dir / setting.name
        run_recipe(recipes[setting.name], folder, named, resume=resume, fresh=fresh, siblings=made)
        made.append(folder)
    return write_sweep(sweep, out_dir)
