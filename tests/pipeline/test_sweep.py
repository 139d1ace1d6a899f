"""A sweep: several settings of one recipe, each a run; the page, tables and figures are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kdistill.artifact import read_manifest
from kdistill.errors import ConfigError
from kdistill.evaluation.compare import holm
from kdistill.pipeline.recipe import load_recipe, recipes_dir
from kdistill.pipeline.report_plots import Reliability, reliability_plot
from kdistill.pipeline.run import run_recipe
from kdistill.pipeline.sweep_settings import find_sweep, load_sweep

from .test_swap import smallest
from .tiny import TINY, kdistill, write_recipe

SETTINGS = [
    {"name": "small", "factors": {"num_train": 16}},
    {"name": "large", "factors": {"num_train": 24}, "overrides": ["studies.num_train=24"]},
]


def write_sweep(folder: Path, **changes: object) -> Path:
    training = {**TINY["distillation"], "arms": ["report_only", "full"], "num_image_visits": 32, "max_new_tokens": 8}  # type: ignore[dict-item]
    write_recipe(folder / "tiny.yaml", **{**smallest(), "distillation": training})
    sweep = {"name": "sizes", "base": "tiny.yaml", "curve_over": "num_train", "settings": SETTINGS, **changes}
    path = folder / "sizes.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    path = write_sweep(folder)
    out = folder / "out"
    done = kdistill("run", str(path), "--out", str(out))
    assert done.stdout.strip().splitlines()[-1] == f"page: {out / 'sweep.html'}"
    return path, out


def test_a_setting_takes_over_what_another_made_from_the_same(swept: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = swept
    _, recipes = load_sweep(path, ["evaluation.num_bootstrap=150"])
    seen: dict[str, bool] = {}

    class Watch:
        def started(self, stage: str) -> None: ...
        def moved(self, stage: str, done: int, total: int) -> None: ...
        def finished(self, stage: str, *, skipped: bool) -> None:
            seen[stage] = skipped

    run_recipe(recipes["small"], tmp_path / "run", Watch(), siblings=[out / "large", out / "small"])
    made = {name for name, skipped in seen.items() if not skipped}
    assert made == {"evaluation", "audit", "report"}
    for name in ("teacher", "student/full/seed-0"):
        assert read_manifest(tmp_path / "run" / name) == read_manifest(out / "small" / name)


def test_every_shipped_recipe_and_sweep_parses() -> None:
    paths = sorted(recipes_dir().glob("*.yaml"))
    assert {"demo.yaml", "evidence.yaml", "real_small.yaml", "openi.yaml", "ablation.yaml"} <= {p.name for p in paths}
    for path in paths:
        if find_sweep(str(path)):
            load_sweep(path)
        else:
            load_recipe(str(path))


def test_a_shipped_sweep_is_found_by_name_and_a_recipe_is_none() -> None:
    assert find_sweep("ablation") == recipes_dir() / "ablation.yaml"
    assert find_sweep("demo") is None and find_sweep("nowhere") is None


def test_the_ablation_is_what_it_says() -> None:
    sweep, recipes = load_sweep(recipes_dir() / "ablation.yaml")
    assert len(recipes) == 9 and len({tuple(sorted(s.factors.items())) for s in sweep.settings}) == 9
    assert recipes["main"].distillation.seeds == (0, 1, 2, 3, 4)
    for setting in sweep.settings:
        studies = recipes[setting.name].studies
        assert studies.kind == "phantom"
        assert studies.num_train == setting.factors["num_train"]
        assert studies.shortcut_if_present == setting.factors["p_tag_with_finding"]


def test_figures_are_those_of_the_runs(swept: tuple[Path, Path]) -> None:
    _, out = swept
    rows = json.loads((out / "sweep.json").read_text())
    for setting in ("small", "large"):
        primary = [
            c for c in json.loads((out / setting / "evaluation" / "comparisons.json").read_text()) if c["primary"]
        ]
        expected = {(c["baseline"], c["difference"]) for c in primary if c["difference"] is not None}
        assert expected == {(r["baseline"], r["difference"]) for r in rows if r["setting"] == setting}
    assert [r["p_holm_sweep"] for r in rows] == holm([r["p"] for r in rows])
    scores = json.loads((out / "large" / "evaluation" / "scores.json").read_text())
    wanted = {"arm": "full", "average": "micro", "observations": 14, "reference": "truth", "subgroup": None}
    line = next(x for x in (out / "table.md").read_text().splitlines() if x.startswith("| large | full |"))
    # So small a student reports nothing (F1 0); its AUC is what tells one row from another.
    for name, uncertain in (("report_f1", "positive"), ("auc", "negative")):
        keys = {**wanted, "name": name, "uncertain": uncertain}
        value = next(s["value"] for s in scores if all(s[key] == x for key, x in keys.items()))
        assert f"| {value:.3f} [" in line


def test_the_page_shows_every_setting_and_the_curve(swept: tuple[Path, Path]) -> None:
    page = (swept[1] / "sweep.html").read_text(encoding="utf-8")
    assert "No model wrote this page" in page and "A model wrote" not in page
    assert "small: full − report_only" in page and "large: full − report_only" in page
    assert page.count("<polyline") == 2, "one curve an arm"
    assert page.count("seed 0</text>") == 2, "one reliability diagram a setting"


def test_a_second_start_needs_a_word_and_resume_makes_nothing_again(swept: tuple[Path, Path]) -> None:
    path, out = swept
    assert "--resume" in kdistill("run", str(path), "--out", str(out), check=3).stderr
    before = (out / "small" / "teacher" / "manifest.json").stat().st_mtime_ns
    kdistill("run", str(path), "--out", str(out), "--resume")
    assert (out / "small" / "teacher" / "manifest.json").stat().st_mtime_ns == before


def test_a_wrong_setting_is_named_before_anything_runs(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, settings=[{"name": "ok"}, {"name": "bad", "overrides": ["studies.num_trian=3"]}])
    with pytest.raises(ConfigError, match=r"setting 'bad'.*num_trian"):
        load_sweep(path)
    twice = write_sweep(tmp_path, settings=[{"name": "a"}, {"name": "a"}])
    with pytest.raises(ConfigError, match="settings of the same name: a"):
        load_sweep(twice)


def test_reliability_points_stand_where_they_should() -> None:
    """Probability 0.5, observed 1: half way along the axis, at the top of the square."""
    drawn = reliability_plot([Reliability(0.5, 1.0, 10)], title="t")
    assert 'cx="157.0" cy="26.0"' in drawn
