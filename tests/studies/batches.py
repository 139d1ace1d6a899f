"""From a data set's folder to a batch, by the stages themselves: studies, labels, targets, collator."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdistill.artifact import open_stage
from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.distillation.targets import build_targets
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.stage import build_labels
from kdistill.records import Study
from kdistill.student.configuration import KDistillConfig
from kdistill.studies.config import FileSource
from kdistill.studies.stage import build_studies
from kdistill.studies.store import load_images, load_studies
from kdistill.teacher.tokenizer import train_tokenizer

SIZE = 32


def draw(path: Path, seed: int, *, size: tuple[int, int] = (40, 48)) -> None:
    """Write an image of noise, PNG or JPEG by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)


def write_csv(path: Path, header: list[str], rows: list[dict], *, bom: bool = False, end: str = "\n") -> None:
    """Write a table; missing cells are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator=end, restval="")
        writer.writeheader()
        writer.writerows(rows)


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
    labeler = RulesLabelerConfig()
    with open_stage(out / "labels", stage="labels", config=labeler) as stage:
        build_labels(stage, labeler, built.dir)
    studies = load_studies(built.dir, "train")
    targets = build_targets(
        studies,
        ArmConfig(label_source="explicit", terms=("report", "label")),
        DistillationConfig(),
        train_tokenizer([study.report for study in studies if study.report] or ["No acute abnormality."], 300),
        labels_dir=out / "labels",
        rationales_dir=out / "rationales",  # such an arm reads none
        seed=0,
        count=lambda name, number: None,
    )
    collator = Collator(load_images(built.dir), targets, KDistillConfig(image_size_px=SIZE), texts_per_chunk=8)
    return collator([Visit(number) for number in range(len(studies))])


def publish(config: FileSource, out: Path) -> tuple[Path, dict[str, int]]:
    """Run the studies stage; its folder and counts."""
    built = build(config, out)
    return built.dir, built.counts


def first_batch(config: FileSource, out: Path) -> dict[str, Any]:
    """From a data set's directory to one batch of all its training studies."""
    return batch_of(build(config, out), out)
