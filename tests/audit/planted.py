"""Counterfactual pairs and students whose behaviour is planted: every figure of the audit is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdistill.audit.material import Cases, PairSaid, Said, TextReader, said_of
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.records import CounterfactualPair, PairKind, Side, Study, StudyImage, Truth
from kdistill.teacher.statements import statement

THRESHOLDS = (0.5,) * len(OBSERVATIONS)
TIED = "Pleural Effusion"
READER = TextReader()

#: What an image shows: finding -> side; the mark of the shortcut is the key "mark".
Shown = Mapping[str, Side | None]
Student = Callable[[Shown], Shown]


def faithful(shown: Shown) -> Shown:
    """Says what is there."""
    return {name: side for name, side in shown.items() if name != "mark"}


def blind(shown: Shown) -> Shown:
    """Says the same about every image."""
    return {TIED: "left", "Edema": None}


def cheat(shown: Shown) -> Shown:
    """Says the tied finding whenever the mark is shown, and the rest as it is."""
    honest = {name: side for name, side in faithful(shown).items() if name != TIED}
    return {**honest, **({TIED: "left"} if "mark" in shown else {})}


def write_row(said: Shown, *, head: bool = True) -> dict[str, Any]:
    """A row of pair_predictions.parquet or predictions.parquet, without its keys."""
    text = " ".join(f"{statement(name, 'present', side)}." for name, side in said.items()) or "No acute abnormality."
    probabilities = [0.9 if name in said else 0.1 for name in OBSERVATIONS]
    sides = [said.get(name) or "left" for name in OBSERVATIONS]
    return {
        "probabilities": probabilities if head else None,
        "sides": sides if head else None,
        "findings": text,
        "impression": "",
        "rationale": text,
    }


def truth_of(shown: Shown) -> dict[str, int]:
    found = {name for name in shown if name != "mark"}
    return {name: int(name in found) for name in OBSERVATIONS} | {"No Finding": int(not found)}


def make_images() -> list[tuple[PairKind, Shown, Shown]]:
    """Six pairs of each kind; the shortcut pairs half with and half without the tied finding."""
    images: list[tuple[PairKind, Shown, Shown]] = []
    for number in range(6):
        other: Shown = {"Edema": None} if number % 2 else {"Cardiomegaly": None}
        images.append(("removed", {**other, TIED: "left"}, other))
        images.append(("added", other, {**other, TIED: "left"}))
        images.append(("moved", {**other, TIED: "left"}, {**other, TIED: "right"}))
        tied: Shown = {TIED: "left"} if number < 3 else {}
        images.append(("shortcut", {**other, **tied}, {**other, **tied, "mark": None}))
    return images


def make_cases(images: list[tuple[PairKind, Shown, Shown]] | None = None, *, num_studies: int = 8) -> Cases:
    pairs = []
    for number, (kind, before, after) in enumerate(make_images() if images is None else images):
        pairs.append(
            CounterfactualPair(
                pair_id=f"pair-{number}",
                kind=kind,
                study_id=f"s{number}",
                patient_id=f"p{number}",
                observation=TIED,
                before_row=2 * number,
                after_row=2 * number + 1,
                before_side=before.get(TIED),
                after_side=after.get(TIED),
                before_truth=truth_of(before),
                after_truth=truth_of(after),
                shortcut_before="mark" in before if kind == "shortcut" else None,
            )
        )
    studies = tuple(make_study(number) for number in range(num_studies))
    truth = {s.study_id: Truth(study_id=s.study_id, truth=truth_of(study_shows(n))) for n, s in enumerate(studies)}
    return Cases(studies, truth, tuple(pairs))


def study_shows(number: int) -> Shown:
    """Test studies take turns in twos: effusion, edema, both, nothing."""
    shown: dict[str, Side | None] = {}
    if number // 2 % 4 in (0, 2):
        shown[TIED] = "left"
    if number // 2 % 4 in (1, 2):
        shown["Edema"] = None
    return shown


def make_study(number: int) -> Study:
    text = write_row(faithful(study_shows(number)))["findings"]
    image = StudyImage(image_path=f"{number}.png", row=number)
    return Study(study_id=f"t{number}", patient_id=f"q{number}", split="test", images=(image,), findings=text)


def pair_said(student: Student, *, head: bool = True) -> PairSaid:
    images = make_images()
    thresholds = THRESHOLDS if head else None
    before, after = (
        said_of([write_row(student(pair[side]), head=head) for pair in images], thresholds, READER) for side in (1, 2)
    )
    return PairSaid(before, after)


def test_said(student: Student, num_studies: int = 8, *, head: bool = True) -> Said:
    rows = [write_row(student(study_shows(number)), head=head) for number in range(num_studies)]
    return said_of(rows, THRESHOLDS if head else None, READER)


def truth_matrix(num_studies: int = 8) -> np.ndarray:
    matrix = np.zeros((num_studies, len(OBSERVATIONS)), dtype=bool)
    for number in range(num_studies):
        for name in study_shows(number):
            matrix[number, INDEX[name]] = True
    return matrix
