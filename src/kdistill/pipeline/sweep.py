"""A sweep: one recipe in several settings, each a run of its own, and one page that lays them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from kdistill.config import ConfigModel, dump_yaml, load_config, parse_yaml
from kdistill.errors import ConfigError, PolicyError
from kdistill.pipeline.recipe import Recipe, load_recipe, recipes_dir
from kdistill.pipeline.run import Watcher, run_recipe

SWEEP = "sweep.yaml"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"


class Setting(ConfigModel):
    """One run of the sweep."""

    name: str = Field(pattern=_NAME, description="Folder of the run below the sweep's folder.")
    overrides: tuple[str, ...] = Field(default=(), description="Dotted key=value, applied after the sweep's own.")
    factors: Mapping[str, float] = Field(
        default={}, description="What this setting stands for, as numbers: axes of the page's curves."
    )


class Sweep(ConfigModel):
    """One recipe in several settings."""

    name: str = Field(pattern=_NAME, description="Name of the sweep's folder below runs/.")
    description: str = Field(default="", description="What the sweep is for; shown on its page.")
    base: str = Field(description="Name of a shipped recipe, or path of one, from the sweep's file.")
    overrides: tuple[str, ...] = Field(default=(), description="Dotted key=value, applied in every setting.")
    settings: tuple[Setting, ...] = Field(min_length=1, description="The runs, in order.")
    curve_over: str | None = Field(default=None, description="Factor on the x axis of the page's curves.")

    @field_validator("settings")
    @classmethod
    def _names_differ(cls, value: tuple[Setting, ...]) -> tuple[Setting, ...]:
        names = [setting.name for setting in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"settings of the same name: {', '.join(twice)}")
        return value


def find_sweep(source: str) -> Path | None:
    """The file of a sweep, by path or by the name of a shipped one; None for a recipe: only a sweep has settings."""
    path = Path(source) if Path(source).is_file() else recipes_dir() / f"{source}.yaml"
    if not path.is_file():
        return None
    data = parse_yaml(path.read_text(encoding="utf-8"), where=path.name)
    return path if isinstance(data, Mapping) and "settings" in data else None


def load_sweep(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> tuple[Sweep, dict[str, Recipe]]:
    """Read a sweep and the recipe of each of its settings; all are checked before the first is run.

    Args:
        path: The sweep's file.
        overrides: Dotted key=value for the recipe of every setting, after the settings' own.

    Raises:
        ConfigError: The sweep or one of its recipes is not valid; the setting is named.
    """
    sweep = load_config(Sweep, path)
    beside = path.parent / sweep.base
    base = str(beside) if beside.is_file() else sweep.base
    recipes = {}
    for setting in sweep.settings:
        changes = [*sweep.overrides, *setting.overrides, *overrides, f"name={setting.name}"]
        try:
            recipes[setting.name] = load_recipe(base, changes)
        except ConfigError as error:
            raise ConfigError(f"setting {setting.name!r}: {error}", where=path.name) from error
    return sweep, recipes


class _Named:
    """Puts the setting's name before the stages'."""

    def __init__(self, watcher: Watcher, setting: str) -> None:
        self._watcher, self._setting = watcher, setting

    def started(self, stage: str) -> None:
        self._watcher.started(f"{self._setting}/{stage}")

    def moved(self, stage: str, done: int, total: int) -> None:
        self._watcher.moved(f"{self._setting}/{stage}", done, total)

    def finished(self, stage: str, *, skipped: bool) -> None:
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
    from kdistill.pipeline.sweep_page import write_sweep

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
