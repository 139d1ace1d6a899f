"""A literature, studies and a teacher small enough for tests: four observations, a few dozen sentences of our own."""

from __future__ import annotations

import json
from pathlib import Path

from kdistill.artifact import StageWriter
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.stage import build_labels
from kdistill.literature.config import LiteratureConfig
from kdistill.literature.stage import build_literature
from kdistill.records import Article, ProbeItem, Study, StudyImage, write_jsonl
from kdistill.teacher.config import FromScratchTeacher, TeacherTraining

SIGNS = {
    "pleural effusion": ("the costophrenic sulcus is filled", "a meniscus climbs the chest wall"),
    "pneumothorax": ("a fine visceral line is seen", "vessels are missing beyond a white edge"),
    "cardiomegaly": ("the cardiothoracic ratio is above one half", "the ventricular apex nears the chest wall"),
    "rib fracture": ("the cortex of a rib shows a step", "a rib margin is broken"),
}
REASONS = {
    "pleural effusion": "fluid sinks to the lowest part of the pleural space",
    "pneumothorax": "air enters the pleural space and the lung recoils",
    "cardiomegaly": "volume load has dilated the ventricles",
    "rib fracture": "a blow bends the rib until it gives way",
}
PLACES = ("", " on the left", " on the right")
NORMALS = ("the heart is normal in size", "the lungs are clear", "the ribs are intact", "the sulci are sharp")
PROBE = [
    ProbeItem(phrase="the sulcus is filled", observation="Pleural Effusion", declarative_only=False),
    ProbeItem(phrase="a white visceral edge is seen", observation="Pneumothorax", declarative_only=True),
]


def articles(copies: int = 15) -> list[Article]:
    """Reviews and case series; each copy numbers its cases, so that none is a duplicate."""
    found = []
    for copy in range(copies):
        for number, (name, signs) in enumerate(SIGNS.items()):
            place = PLACES[copy % 3] if name != "cardiomegaly" else ""
            sign, other = f"{signs[copy % 2]}{place}", signs[1 - copy % 2]
            body = [
                f"{sign.capitalize()}: this is a sign of {name}.",
                f"When {sign}, the reader should think of {name}.",
                f"In {name}, {other}.",
                f"{name.capitalize()} arises because {REASONS[name]}.",
                f"Findings: {sign.capitalize()}. Interpretation: {name}, because {REASONS[name]}.",
                f"Findings: {NORMALS[(copy + number) % 4].capitalize()}. Interpretation: no abnormality.",
                f"{NORMALS[(copy + number + 1) % 4].capitalize()}: this is a normal finding.",
                f"The series of ward {copy} held {copy * 7 + number} patients with {name}.",
            ]
            order = body[copy % 7 :] + body[: copy % 7]
            found.append(Article(id=f"T-{copy}-{number}", pmid=str(100 * copy + number), text=" ".join(order)))
    return found


def literature_at(folder: Path, extra: list[Article] | None = None) -> Path:
    """Publish the little literature in a folder."""
    folder.mkdir(parents=True)
    config = LiteratureConfig(sources=(), heldout_share=0.1, near_duplicate=1.0)
    build_literature(StageWriter(folder), config, extra_articles=[*articles(), *(extra or [])])
    return folder


def study(study_id: str, findings: str, split: str = "train", **fields: object) -> Study:
    """A study with a report and no image to speak of."""
    return Study.model_validate(
        {
            "study_id": study_id,
            "patient_id": f"patient-{study_id}",
            "split": split,
            "images": [StudyImage(image_path="x.png", row=0)],
            "findings": findings,
            **fields,
        }
    )


def studies_at(folder: Path, studies: list[Study]) -> tuple[Path, Path]:
    """Publish studies and their explicit labels; returns both folders."""
    studies_dir, labels_dir = folder / "studies", folder / "labels"
    studies_dir.mkdir(parents=True)
    labels_dir.mkdir(parents=True)
    write_jsonl(studies_dir / "studies.jsonl", studies)
    build_labels(StageWriter(labels_dir), RulesLabelerConfig(), studies_dir)
    return studies_dir, labels_dir


def tiny_config(steps: int = 30, **fields: object) -> FromScratchTeacher:
    """hidden 48, two layers."""
    training = TeacherTraining(
        steps=steps, batch_size=4, sequence_length=48, learning_rate=6e-3, warmup_steps=20, save_steps=10
    )
    size = {"vocab_size": 420, "hidden_size": 48, "num_layers": 2, "num_heads": 2, "intermediate_size": 96}
    return FromScratchTeacher.model_validate({**size, "training": training, **fields})


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
