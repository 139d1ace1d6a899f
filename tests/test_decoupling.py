"""benchmarks/decoupling.py on folders of its own: what is probed, with which labels, and that frozen means equal."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from kdistill.artifact import StageWriter
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.stage import build_student
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig

from .distillation.toy import SIZE, make_world

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def decoupling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decoupling", ROOT / "benchmarks" / "decoupling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    rows = json.loads(out.read_text())
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


def test_one_label_source_makes_arms_comparable(decoupling: ModuleType, run_dir: Path) -> None:
    (student,) = decoupling.students(run_dir, ["report_only"])
    (row,) = decoupling.probe_student(student, "teacher", 20)
    assert row.labels == "teacher" and row.result.n == 18
