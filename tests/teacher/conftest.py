"""One tiny teacher, trained once for all tests of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.artifact import StageWriter
from kdistill.literature.search import PassageIndex
from kdistill.teacher.language_model import LanguageModel, load
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.stage import build_teacher

from .worlds import PROBE, literature_at, tiny_config


@pytest.fixture(scope="session")
def literature_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return literature_at(tmp_path_factory.mktemp("world") / "literature")


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, literature_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    build_teacher(StageWriter(folder), tiny_config(steps=900), literature_dir=literature_dir, probe_items=PROBE)
    return folder


@pytest.fixture(scope="session")
def language_model(teacher_dir: Path) -> LanguageModel:
    return load(str(teacher_dir / "model"))


@pytest.fixture(scope="session")
def scorer(language_model: LanguageModel) -> Scorer:
    return Scorer(language_model, batch_size=16)


@pytest.fixture(scope="session")
def index(literature_dir: Path) -> PassageIndex:
    return PassageIndex.load(literature_dir)
