"""What a sweep is: one recipe in several settings. Imports no stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from kdistill.config import ConfigModel, load_config, parse_yaml
from kdistill.errors import ConfigError
from kdistill.pipeline.recipe import Recipe, load_recipe, recipes_dir

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
