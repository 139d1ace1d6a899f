"""A small published run written by hand: studies, truth, labels and predictions of a few arms, with known quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from kdistill.observations import NO_FINDING, OBSERVATIONS, Labels, empty_labels
from kdistill.records import Study, StudyImage, Truth, write_jsonl


class PlainLabeler:
    """Reads "Observation: state" lines, so that these tests do not hang on the real labeler's rules."""

    name = "plain"
    revision = "1"

    def label(self, text: str) -> Labels:
        labels = empty_labels()
        for line in filter(None, text.split("\n")):
            name, _, state = line.partition(": ")
            labels[name] = {"present": 1, "absent": 0, "uncertain": -1}[state]  # type: ignore[assignment]
        return labels

    def label_all(self, reports: Sequence[str], /) -> list[Labels]:
        return [self.label(report) for report in reports]


def write_text(stated: np.ndarray, uncertain: np.ndarray | None = None) -> str:
    """The text that PlainLabeler reads back as these labels [L]."""
    lines = []
    for index, name in enumerate(OBSERVATIONS):
        if uncertain is not None and uncertain[index]:
            lines.append(f"{name}: uncertain")
        elif stated[index]:
            lines.append(f"{name}: present")
    return "\n".join(lines)


@dataclass
class RunFolders:
    """Where the folders lie, and the truth behind them."""

    studies_dir: Path
    labels_dir: Path
    students: dict[tuple[str, int], Path]
    truth: np.ndarray


def draw_truth(num: int, seed: int = 0) -> np.ndarray:
    """bool [N, 14]; "No Finding" where nothing else is present."""
    random = np.random.default_rng(seed)
    truth = random.random((num, 14)) < np.linspace(0.08, 0.4, 14)
    truth[:, OBSERVATIONS.index(NO_FINDING)] = ~truth[:, 1:].any(axis=1)
    return truth


def write_studies(root: Path, truth: np.ndarray, *, with_truth: bool, sources: tuple[str, ...] = ("phantom",)) -> Path:
    """Two studies for each patient, spread over the sources, reports that tell the truth."""
    folder = root / "studies"
    folder.mkdir(parents=True)
    studies = [
        Study(
            study_id=f"s{row}",
            patient_id=f"p{row // 2}",
            split="test",
            images=(StudyImage(image_path=f"{row}.png", row=row),),
            source=sources[(row // 2) % len(sources)],
            sex="FM"[(row // 2) % 2],
            age=30.0 + row % 50,
            findings=write_text(stated),
            labels=None if with_truth else {n: int(v) for n, v in zip(OBSERVATIONS, stated, strict=True)},  # type: ignore[misc]
        )
        for row, stated in enumerate(truth)
    ]
    write_jsonl(folder / "studies.jsonl", studies)
    if with_truth:
        rows = [
            Truth(study_id=f"s{row}", truth={n: int(v) for n, v in zip(OBSERVATIONS, stated, strict=True)})
            for row, stated in enumerate(truth)
        ]
        write_jsonl(folder / "truth.jsonl", rows)
    return folder


def write_labels(root: Path, truth: np.ndarray) -> Path:
    """The labels stage's file for the test split: what PlainLabeler reads in the reports."""
    folder = root / "labels"
    folder.mkdir(parents=True)
    rows = [
        {"study_id": f"s{row}", "split": "test", "labels": PlainLabeler().label(write_text(stated))}
        for row, stated in enumerate(truth)
    ]
    write_jsonl(folder / "test_labels.jsonl", rows)
    return folder


def write_student(
    root: Path, arm: str, seed: int, truth: np.ndarray, *, error_rate: float, head: bool = True, rationale: bool = True
) -> Path:
    """Predictions that flip each label with some probability, drawn from (arm, seed)."""
    random = np.random.default_rng([seed, *arm.encode()])
    stated = truth ^ (random.random(truth.shape) < error_rate)
    chances = np.clip(np.where(stated, 0.75, 0.25) + random.normal(0, 0.1, truth.shape), 0, 1)
    folder = root / "student" / arm / f"seed-{seed}"
    folder.mkdir(parents=True)
    rows = [
        {
            "study_id": f"s{row}",
            "patient_id": f"p{row // 2}",
            "split": "test",
            "arm": arm,
            "seed": seed,
            "probabilities": chances[row].tolist() if head else None,
            "sides": None,
            "findings": write_text(stated[row]),
            "impression": "",
            "rationale": write_text(stated[row]) if rationale else "",
        }
        for row in range(len(truth))
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "predictions.parquet")
    return folder


def write_run(
    root: Path, num: int = 60, *, with_truth: bool = True, sources: tuple[str, ...] = ("phantom",), seeds: int = 2
) -> RunFolders:
    """A run with four arms: full is better than template, report_only has no label head and no rationale."""
    truth = draw_truth(num)
    arms = {"full": (0.05, True), "label": (0.1, True), "template": (0.12, True), "report_only": (0.2, False)}
    students = {
        (arm, seed): write_student(root, arm, seed, truth, error_rate=rate, head=rich, rationale=rich)
        for arm, (rate, rich) in arms.items()
        for seed in range(seeds)
    }
    studies_dir = write_studies(root, truth, with_truth=with_truth, sources=sources)
    return RunFolders(studies_dir, write_labels(root, truth), students, truth)
