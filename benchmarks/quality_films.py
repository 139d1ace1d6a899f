"""The films that the quality gate is trained and measured on: each set's, with patients in one part only.

Sets and licences: docs/quality.md. The COVID-19 Image Data Collection is never trained on (most of its images are
CC BY-NC-SA, which the weights of an Apache-2.0 package cannot follow), so the whole of it is a test from elsewhere.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from PIL import Image

from kdistill.errors import InputError
from kdistill.studies.images import read_grey
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.phantom.world import sample_plans

Part = Literal["train", "validate", "test"]

FRONTAL_SETS: Final = ("nih", "nih_extra", "nih_64px", "hannover", "vqa_rad_chest", "phantom")
EXTERNAL_SET: Final = "covid_notes"
NOT_CHEST_SETS: Final = ("vqa_rad_head", "vqa_rad_abdomen")
#: A lateral decubitus film among the chest films of VQA-RAD: no upright frontal film, and no negative worth a figure.
_LEFT_OUT: Final = frozenset({"synpic44865.jpg"})
_TRAIN, _VALIDATE = 0.55, 0.70
_ORGANS: Final = {"CHEST": "vqa_rad_chest", "HEAD": "vqa_rad_head", "ABD": "vqa_rad_abdomen"}


class Film(NamedTuple):
    """One image with its set, its patient (or case), and the part that the patient belongs to."""

    set: str
    patient: str
    part: Part
    name: str
    pixels: np.ndarray

    @property
    def grey(self) -> np.ndarray:
        """Float32 [H, W] in [0, 1]."""
        return self.pixels.astype(np.float32) / 255


def part_of(patient: str) -> Part:
    """55% of patients train, 15% choose thresholds, 30% test; by hash, so that a new film moves nobody."""
    share = int(hashlib.sha256(f"quality {patient}".encode()).hexdigest()[:8], 16) / 2**32
    return "train" if share < _TRAIN else "validate" if share < _VALIDATE else "test"


def read_films(data: Path, max_px: int, parts: Collection[Part]) -> list[Film]:
    """Every film and every image of another body part of these parts, shrunk to `max_px` where larger."""
    found: list[Film] = []
    for name, patient, path in _files(data):
        part: Part = "test" if name == EXTERNAL_SET else part_of(patient)
        if part not in parts:
            continue
        try:
            grey = read_grey(path)
        except InputError as error:
            print(f"not read: {name}: {error.what}")
            continue
        found.append(Film(name, patient, part, path.name, shrink(grey, max_px)))
    small = data / "nih_cxr14_64px"
    rows = _rows(small / "labels.csv")
    images = np.load(small / "images.npz", allow_pickle=False)["images"]
    known = {film.name.split(".")[0] for film in found}
    for row in rows:
        stem, patient = row["Image Index"].split(".")[0], f"nih-{row['Patient ID']}"
        if part_of(patient) in parts and stem not in known:
            found.append(Film("nih_64px", patient, part_of(patient), stem, images[int(row["row"])]))
    return found + list(_phantoms(min(max_px, 256), parts))


def shrink(grey: np.ndarray, max_px: int) -> np.ndarray:
    """Float [H, W] in [0, 1] -> uint8 with at most `max_px` along its longer side."""
    scale = min(1.0, max_px / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    resized = Image.fromarray(grey.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.rint(np.clip(np.asarray(resized), 0, 1) * 255).astype(np.uint8)


def _files(data: Path) -> Iterator[tuple[str, str, Path]]:
    """(set, patient, path) of each image file."""
    for name, folder in (("nih", "nih_cxr14_subset"), ("nih_extra", "nih_cxr14_extra")):
        for row in _rows(data / folder / "labels.csv"):
            yield name, f"nih-{row['Patient ID']}", data / folder / row["image"]
    for row in _rows(data / "hannover_cxr" / "data.csv"):
        yield "hannover", f"hannover-{row['patient_id']}", data / "hannover_cxr" / row["image"]
    for row in _rows(data / "covid_cxr_notes" / "metadata.csv"):
        yield EXTERNAL_SET, f"covid-{row['patientid']}", data / "covid_cxr_notes" / row["image"]
    questions = json.loads((data / "vqa_rad" / "qa.json").read_text(encoding="utf-8"))
    organs = {item["image_name"]: item["image_organ"] for item in questions}
    for image, organ in sorted(organs.items()):
        if image not in _LEFT_OUT:
            yield _ORGANS[organ], f"vqa-{image}", data / "vqa_rad" / "images" / image


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _phantoms(size_px: int, parts: Collection[Part]) -> Iterator[Film]:
    config = PhantomConfig(size_px=size_px, num_train=120, num_validate=60, num_test=100, seed=18)
    plans = sample_plans(config)
    for part in (part for part in plans if part in parts):
        for plan in plans[part]:
            yield Film("phantom", f"phantom-{plan.patient_id}", part, plan.study_id, render_uint8(plan, size_px)[0])
