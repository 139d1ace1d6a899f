"""query_init: literature reads the rationales folder, says so where it cannot, and spares the controls."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdistill.distillation.assembly import query_embeddings
from kdistill.distillation.config import ARMS
from kdistill.errors import InputError
from kdistill.student.config import StudentConfig

from .toy import ToyDirs


@pytest.fixture(scope="module")
def rationales_dir(world: ToyDirs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with") / "rationales"
    shutil.copytree(world.rationales, folder)
    rows = np.random.default_rng(0).normal(size=(14, 12)).astype(np.float32)
    save_file({"observations": rows}, folder / "aspects.safetensors")
    return folder


def test_only_arms_of_the_teachers_text_begin_at_the_literature(tiny: StudentConfig, rationales_dir: Path) -> None:
    literature = tiny.model_copy(update={"query_init": "literature"})
    begun = {
        name
        for name, arm in ARMS.items()
        if arm.kind == "trained" and query_embeddings(arm, literature, rationales_dir) is not None
    }
    without = {"report_only", "report_only_long", "label", "label_patches", "teacher_label", "template"}
    assert begun == {name for name, arm in ARMS.items() if arm.kind == "trained"} - without - {"template_no_where"}
    found = query_embeddings(ARMS["full"], literature, rationales_dir)
    assert found is not None and found.shape == (14, 12)


def test_random_queries_need_no_aspects(tiny: StudentConfig, world: ToyDirs) -> None:
    assert query_embeddings(ARMS["full"], tiny, world.rationales) is None


def test_rationales_made_before_aspects_are_named_with_a_remedy(tiny: StudentConfig, world: ToyDirs) -> None:
    literature = tiny.model_copy(update={"query_init": "literature"})
    with pytest.raises(InputError, match=r"aspects\.safetensors(?s:.*)query_init=random"):
        query_embeddings(ARMS["full"], literature, world.rationales)
