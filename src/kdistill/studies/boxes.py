"""Radiologists' boxes of NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): for evaluation, never for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kdistill.sites import Box
from kdistill.studies.table import read_rows

#: BBox_List_2017.csv gives pixels of the 1024 x 1024 original.
BOX_PX: Final = 1024.0
#: Its own names of the labels -> observation.
BOX_TO_OBSERVATION: Final[Mapping[str, str]] = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Effusion": "Pleural Effusion",
    "Infiltrate": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}


class NihBox(NamedTuple):
    """One box.

    Attributes:
        patient_id: As in the NIH tables, without leading zeros.
        stem: The film's file name without its ending.
        observation: One of the 14.
        box: In fractions of the film.
    """

    patient_id: str
    stem: str
    observation: str
    box: Box


def read_nih_boxes(path: Path) -> list[NihBox]:
    """Read bbox.csv (columns Image Index, Finding Label, x, y, w, h); labels that are none of the 14 are left out.

    Raises:
        InputError: The table cannot be read.
    """
    found = []
    for _, row in read_rows(path, ("Image Index", "Finding Label", "x", "y", "w", "h")):
        observation = BOX_TO_OBSERVATION.get(row["Finding Label"])
        if observation is not None:
            x, y, width, height = (float(row[key]) / BOX_PX for key in ("x", "y", "w", "h"))
            stem = Path(row["Image Index"]).stem
            patient_id = str(int(stem.split("_")[0]))
            found.append(NihBox(patient_id, stem, observation, Box(x, y, x + width, y + height)))
    return found
