"""Radiologists' boxes of NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): for evaluation, never for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kdistill.sites import Box
from kdistill.studies.table import Problems, read_rows, table_header

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


#: The official header is "Image Index,Finding Label,Bbox [x,y,w,h],,,": its brackets stand in the columns' names.
_OFFICIAL_SIDES: Final = ("Bbox [x", "y", "w", "h]")
_SIDES: Final = ("x", "y", "w", "h")


def read_nih_boxes(path: Path) -> list[NihBox]:
    """Read BBox_List_2017.csv, or a table with the columns Image Index, Finding Label, x, y, w, h.

    Labels that are none of the 14 are left out.

    Raises:
        InputError: The table cannot be read, or all its mistakes with their lines.
    """
    sides = _OFFICIAL_SIDES if _OFFICIAL_SIDES[0] in table_header(path) else _SIDES
    found, problems = [], Problems(path.name)
    for line, row in read_rows(path, ("Image Index", "Finding Label", *sides)):
        observation = BOX_TO_OBSERVATION.get(row["Finding Label"])
        try:
            x, y, width, height = (float(row[key]) / BOX_PX for key in sides)
            patient_id = str(int(row["Image Index"].split("_")[0]))
        except ValueError:
            problems.add(line, "is no image of NIH with four numbers")
            continue
        if observation is not None:
            stem = Path(row["Image Index"]).stem
            found.append(NihBox(patient_id, stem, observation, Box(x, y, x + width, y + height)))
    problems.raise_if_any("Mend these lines, or download the table again.")
    return found
