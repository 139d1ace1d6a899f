"""A finished tiny run, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tiny import kdistill, write_recipe


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, run folder) of a finished tiny run."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_recipe(folder / "tiny.yaml")
    done = kdistill("run", str(recipe), "--out", str(folder / "run"))
    assert done.stdout.strip().splitlines()[-1] == f"report: {folder / 'run' / 'report' / 'report.html'}"
    return recipe, folder / "run"
