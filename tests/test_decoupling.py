"""benchmarks/decoupling.py on folders of its own: what is probed, with which labels, and that frozen means equal."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from kdistill.artifact import StageWriter
from kdistill.audit.linear_probe import ProbeResult
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.stage import build_student
from kdistill.evaluation.bootstrap import Estimate
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig

from .distillation.toy import SIZE, make_world

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def decoupling() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("decoupling")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students trained in two stages, as far as their arms allow it."""
    root = tmp_path_factory.mktemp("runs") / "toy"
    world = make_world(root, num_train=36, num_other=18)
    student = StudentConfig(
        vision=CnnVisionConfig(stem_channels=8, middle_channels=8, channels=16, num_blocks=1),
        language=LlamaLanguageConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        hidden_size=16,
        image_size_px=SIZE,
        pooled_patch_grid=2,
    )
    config = DistillationConfig(
        arms=("report_only", "full"),
        stages="visual_then_reasoning",
        num_image_visits=80,
        batch_size=8,
        micro_batch=8,
        max_new_tokens=8,
    )
    for arm in config.arms:
        folder = root / "student" / arm / "seed-0"
        folder.mkdir(parents=True)
        folders = {f"{name}_dir": getattr(world, name) for name in ("studies", "labels", "rationales", "teacher")}
        build_student(StageWriter(folder), config, student, arm, 0, **folders)
    recipe = {
        "name": "toy",
        "studies": {"kind": "phantom", "size_px": SIZE},
        "literature": {"sources": []},
        "teacher": {"kind": "from_scratch"},
        "student": student.model_dump(mode="json"),
        "distillation": config.model_dump(mode="json"),
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return root


def test_frozen_students_see_after_reasoning_what_they_saw_before(
    decoupling: ModuleType,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "decoupling.json"
    monkeypatch.setattr(sys, "argv", ["decoupling.py", str(run_dir), "--bootstrap", "50", "--json", str(out)])
    decoupling.main()
    found = json.loads(out.read_text())
    rows = found["students"]
    probed = [(row["arm"], row["after"], row["features"], row["labels"]) for row in rows]
    kinds = ("encoder", "embeddings", "label head")
    assert probed == [
        *(("full", "visual stage", kind, "teacher") for kind in kinds),
        *(("full", "reasoning stage", kind, "teacher") for kind in kinds),
        ("report_only", "joint training", "encoder", "explicit"),
    ]
    for before, after in zip(rows[:3], rows[3:6], strict=True):
        assert {**before, "after": ""} == {**after, "after": ""}
    assert rows[0]["n"] == 18 and rows[0]["num_observations"] == 2, "effusion and heart; the others have one class"
    assert 0 <= rows[0]["macro_auc"]["value"] <= 1 and rows[0]["auc"]["Edema"] is None
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(rows) and "+0.000 [+0.000, +0.000]" in printed[3]
    ends = [(row["arm"], row["features"], row["num_seeds"], row["macro_auc"]["minus_first"]) for row in found["runs"]]
    assert ends == [*(("full", kind, 1, None) for kind in kinds), ("report_only", "encoder", 1, None)]


def test_a_run_is_compared_with_the_first_by_its_mean_over_seeds(decoupling: ModuleType) -> None:
    def row(run: str, seed: int, macro: float, after: str = "joint training") -> Any:
        drawn = macro + np.array([-0.02, 0.0, 0.02]) * (1 + seed)
        result = ProbeResult("encoder", Estimate(0.9, drawn + 0.1), Estimate(macro, drawn), 0.5, (), 40, 2)
        return decoupling.Row(run, "full", seed, after, "teacher", result)

    rows = [row("a", 0, 0.8), row("a", 1, 0.7), row("b", 0, 0.1, "visual stage"), row("b", 0, 0.6), row("b", 1, 0.6)]
    first, second = decoupling.contrasts(rows)
    assert (first["run"], first["num_seeds"], first["macro_auc"]["minus_first"]) == ("a", 2, None)
    assert first["macro_auc"]["value"] == pytest.approx(0.75)
    assert first["macro_auc"]["ci95"] == pytest.approx((0.7215, 0.7785))
    assert second["macro_auc"]["value"] == pytest.approx(0.6), "the moment before the reasoning stage is left out"
    found = second["macro_auc"]["minus_first"]
    assert found["value"] == pytest.approx(-0.15) and found["ci95"] == pytest.approx((-0.15, -0.15)), "paired"


def test_the_document_shows_the_probes_as_they_were_measured(decoupling: ModuleType) -> None:
    found = json.loads((ROOT / "benchmarks" / "probes.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "decoupling.md").read_text(encoding="utf-8")
    assert decoupling.summary(found) in text
    by_seed = [row for row in found["students"] if row["features"] in ("encoder", "embeddings")]
    assert all(decoupling.with_interval(row["macro_auc"]) in text for row in by_seed) and len(by_seed) == 12
    moments = [
        [{**row, "after": ""} for row in by_seed if row["after"] == m] for m in ("visual stage", "reasoning stage")
    ]
    assert moments[0] == moments[1], "the document says that they are the same, digit by digit"


def test_one_label_source_makes_arms_comparable(decoupling: ModuleType, run_dir: Path) -> None:
    (student,) = decoupling.students(run_dir, ["report_only"])
    (row,) = decoupling.probe_student(student, "teacher", 20)
    assert row.labels == "teacher" and row.result.n == 18
