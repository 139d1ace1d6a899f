"""The wheel holds everything that the code reads beside itself: recipes, page, styles, knowledge, weights."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Read as an installed package does, from the unpacked wheel: each line fails where a file is not inside.
READ_EVERYTHING = """
import sys
from pathlib import Path
import kdistill
assert Path(kdistill.__file__).is_relative_to(sys.argv[1]), kdistill.__file__
from kdistill.explain.html import asset
from kdistill.pipeline.recipe import load_recipe, recipes_dir
from kdistill.studies.phantom.knowledge import load_knowledge
from kdistill.studies.quality.network import load_gate
assert recipes_dir().is_relative_to(sys.argv[1])
load_recipe("demo"), load_knowledge(), load_gate()
for package, name in (
    ("kdistill.explain", "page.css"), ("kdistill.explain", "page.js"), ("kdistill.pipeline", "report.css"),
    ("kdistill.pipeline", "data_check.css"), ("kdistill.serve.page", "index.html"), ("kdistill.serve.page", "app.js"),
    ("kdistill.serve.page", "reading.css"),
):
    assert asset(package, name).strip(), name
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, as `pip wheel . --no-deps` makes it."""
    wheel_builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed (extra: dev)")
    out = tmp_path_factory.mktemp("wheel")
    (path,) = wheel_builder.WheelBuilder(str(ROOT)).build(directory=str(out), versions=["standard"])
    return Path(path)


def test_every_file_of_the_package_and_every_recipe_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in files if ".egg-info" not in str(path)}
    wanted |= {f"kdistill/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    assert inside == wanted
    assert {Path(name).suffix for name in inside} >= {".py", ".css", ".js", ".html", ".yaml", ".json", ".safetensors"}


def test_an_unpacked_wheel_reads_all_that_it_needs(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", READ_EVERYTHING, str(tmp_path / "site")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
