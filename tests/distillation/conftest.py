"""One toy world for all tests of the package, and what is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.distillation.config import (
    ConsistencyConfig,
    CounterfactualConfig,
    DistillationConfig,
    OnPolicyConfig,
    TermWeights,
)
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig

from .toy import SIZE, ToyDirs, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> ToyDirs:
    """Read-only folders of the earlier stages."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def tiny() -> StudentConfig:
    """A student of some ten thousand weights."""
    return StudentConfig(
        vision=CnnVisionConfig(stem_channels=8, middle_channels=8, channels=16, num_blocks=1, norm="channel"),
        language=LlamaLanguageConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        hidden_size=16,
        image_size_px=SIZE,
        pooled_patch_grid=2,
    )


@pytest.fixture(scope="session")
def short() -> DistillationConfig:
    """Twenty steps of eight studies in float32."""
    return DistillationConfig(
        num_image_visits=160,
        batch_size=8,
        micro_batch=8,
        texts_per_chunk=4,
        learning_rate=1e-2,
        bf16=False,
        logging_steps=1,
        checkpoint_steps=3,
        validation_steps=3,
        max_new_tokens=12,
        weights=TermWeights(semantic=0.5, token=0.5),  # both off by default, and tested all the same
    )


@pytest.fixture(scope="session")
def dense(short: DistillationConfig) -> DistillationConfig:
    """`short`, and whatever is drawn is drawn in every step and for every study."""
    drawn = {
        "on_policy": OnPolicyConfig(share=1.0, max_new_tokens=16),
        "consistency": ConsistencyConfig(share=1.0),
        "counterfactual": CounterfactualConfig(share=1.0),
    }
    return short.model_copy(update=drawn)


@pytest.fixture
def count() -> Count:
    """Collects counts as a stage would."""
    return Count()


class Count(dict[str, int]):
    """Callable like StageWriter.count."""

    def __call__(self, name: str, number: int = 1) -> None:
        self[name] = self.get(name, 0) + number


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A stage's folder."""
    folder = tmp_path / "student"
    folder.mkdir()
    return folder
