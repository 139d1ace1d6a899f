"""From a data set's folder to a batch, by the stages themselves: studies, labels, targets, collator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from kdistill.artifact import open_stage
from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.labelers.config import LabelerConfig
from kdistill.labelers.stage import build_labels
from kdistill.records import Study
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig
from kdistill.studies.config import FileSource
from kdistill.studies.stage import build_studies
from kdistill.studies.store import load_studies
from kdistill.teacher.tokenizer import train_tokenizer

from ..distillation.parts import make_parts
from ..distillation.toy import ToyDirs

SIZE = 32


def draw(path: Path, seed: int, *, size: tuple[int, int] = (40, 48)) -> None:
    """Write an image of noise, PNG or JPEG by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)


class Built(NamedTuple):
    """A published studies folder."""

    dir: Path
    counts: dict[str, int]

    @property
    def studies(self) -> dict[str, Study]:
        """By study_id."""
        return {study.study_id: study for study in load_studies(self.dir)}


def build(config: FileSource, out: Path) -> Built:
    """Run the studies stage."""
    with open_stage(out / "studies", stage="studies", config=config) as stage:
        build_studies(stage, config)
    return Built(out / "studies", dict(stage.counts))


def batch_of(built: Built, out: Path) -> dict[str, Any]:
    """All training studies of a studies folder in one batch that teaches reports and labels (no teacher)."""
    arm = ArmConfig(label_source="explicit", terms=("report", "label"))
    dirs = ToyDirs(built.dir, out / "labels", out / "rationales", out / "teacher")
    labeler = LabelerConfig()
    with open_stage(dirs.labels, stage="labels", config=labeler) as stage:
        build_labels(stage, labeler, built.dir)
    _write_teacher(dirs, load_studies(built.dir))
    student = StudentConfig(
        vision=CnnVisionConfig(stem_channels=8, middle_channels=8, channels=16, num_blocks=1, norm="channel"),
        language=LlamaLanguageConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        hidden_size=16,
        image_size_px=SIZE,
        pooled_patch_grid=2,
    )
    config = DistillationConfig(num_image_visits=8, batch_size=8, micro_batch=8, bf16=False, max_new_tokens=12)
    parts = make_parts(dirs, student, config, arm)
    return parts.batch(range(len(parts.targets.studies)))


def _write_teacher(dirs: ToyDirs, studies: list[Study]) -> None:
    """A tokenizer and a language model of a few weights: the student takes its vocabulary from them."""
    texts = [study.report for study in studies if study.report] or ["No acute abnormality."]
    tokenizer = train_tokenizer(texts * 20, 300)
    tokenizer.save_pretrained(dirs.teacher / "model")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)).save_pretrained(
        dirs.teacher / "model"
    )
