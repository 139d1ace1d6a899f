"""From a data set's directory to a collated training batch: the stages in between are the real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kdistill.artifact import open_stage
from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.distillation.targets import build_targets
from kdistill.labelers.config import LabelerConfig
from kdistill.labelers.stage import build_labels
from kdistill.student.configuration import KDistillConfig
from kdistill.studies.config import FileSource
from kdistill.studies.stage import build_studies
from kdistill.studies.store import load_images, load_studies
from kdistill.teacher.tokenizer import train_tokenizer

SIZE = 32


def publish(config: FileSource, out: Path) -> tuple[Path, dict[str, int]]:
    """Run the studies stage; its folder and counts."""
    with open_stage(out / "studies", stage="studies", config=config) as stage:
        build_studies(stage, config)
    return out / "studies", dict(stage.counts)


def first_batch(config: FileSource, out: Path, extra_text: str = "The lungs are clear.") -> dict[str, Any]:
    """Run studies and labels, gather the targets of an arm that learns reports and labels, and collate them all."""
    studies_dir, _ = publish(config, out)
    with open_stage(out / "labels", stage="labels", config=LabelerConfig()) as stage:
        build_labels(stage, LabelerConfig(), studies_dir)
    studies = load_studies(studies_dir, "train")
    tokenizer = train_tokenizer([extra_text, *(study.report for study in studies if study.report)] * 3, 340)
    targets = build_targets(
        studies,
        ArmConfig(label_source="explicit", terms=("report", "label")),
        DistillationConfig(),
        tokenizer,
        labels_dir=out / "labels",
        rationales_dir=out / "rationales",  # such an arm reads none
        seed=0,
        count=lambda name, n: Counter[str]().update({name: n}),
    )
    collator = Collator(load_images(studies_dir), targets, KDistillConfig(image_size_px=SIZE), texts_per_chunk=8)
    return collator([Visit(number) for number in range(len(studies))])
