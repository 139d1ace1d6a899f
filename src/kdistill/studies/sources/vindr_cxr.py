"""VinDr-CXR (Nguyen et al. 2022, doi:10.1038/s41597-022-01498-w): 18,000 PA films with radiologists' labels and boxes.

Two layouts: PhysioNet's (train/, test/, annotations/*.csv; doi:10.13026/3akn-b287) and that of the Kaggle competition
(train/, train.csv; 14 of the 28 labels, no labelled test images). Neither names patients: every image is taken for a
patient of its own, so that two films of one patient may stand in two splits of the training images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from kdistill.errors import InputError
from kdistill.records import Split, Study
from kdistill.studies.config import VinDrCxrStudies
from kdistill.studies.sources.common import PixelBox, SourceImage, SourceStudy, SourceTable
from kdistill.studies.sources.vindr_votes import STATED, Readings, boxes_of, columns_of, truth_of
from kdistill.studies.table import Problems, read_rows, split_of

_CONSENSUS: Final = "consensus"
_CORNERS: Final = ("x_min", "y_min", "x_max", "y_max")
#: The 14 abnormalities of the competition and "No finding" (the label of an image without any).
KAGGLE_LABELS: Final = frozenset(
    [
        *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD"),
        *("Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening"),
        *("Pneumothorax", "Pulmonary fibrosis", "No finding"),
    ]
)
#: Ends of file names. Boxes are in pixels of the DICOM originals: beside a converted copy they are not used.
_ORIGINALS: Final = (".dicom", ".dcm")
_COPIES: Final = (".png", ".jpg", ".jpeg")


class _Part(NamedTuple):
    """Images that belong together: their folder, what was marked on each, and the labels that were to be marked."""

    folder: str
    images: dict[str, Readings]
    labels: frozenset[str]
    split: Split | None


def read_vindr_cxr(config: VinDrCxrStudies) -> SourceTable:
    """Read VinDr-CXR. Labels of the training images are votes of three readers, those of PhysioNet's test images one
    consensus of five. Test images carry them, and the boxes, as truth: for evaluation only.

    Raises:
        InputError: Neither layout is there, or a table is wrong (all problems with line numbers).
    """
    folder = Path(config.path)
    if (folder / "annotations").is_dir():
        parts = [_physionet(folder / "annotations", name) for name in ("train", "test")]
    elif (folder / "train.csv").is_file():
        parts = [_kaggle(folder / "train.csv")]
    else:
        raise InputError(
            "is no copy of VinDr-CXR",
            where=folder.name,
            remedy="It needs annotations/image_labels_train.csv (PhysioNet) or train.csv (Kaggle): see DATA.md.",
        )
    table = SourceTable([], counts=Counter({"boxes_left_out_beside_copies": 0}))
    for part in parts:
        table.studies += [_study(name, readings, part, config, table.counts) for name, readings in part.images.items()]
    return table


def _physionet(folder: Path, name: Split) -> _Part:
    """image_labels_{train,test}.csv: one 0/1 column a label, a row a reader (train) or image (test, no rad_id)."""
    path = folder / f"image_labels_{name}.csv"
    images: dict[str, Readings] = {}
    problems = Problems(path.name)
    rows = read_rows(path, ("image_id", "No finding"))
    labels = frozenset(rows[0][1]) - {"image_id", "rad_id"} if rows else frozenset()
    _require_labels(labels, path)
    for line, row in rows:
        readings, reader = images.setdefault(row["image_id"], Readings()), row.get("rad_id", _CONSENSUS)
        if reader in readings.readers:
            problems.add(line, "the same reader's reading of this image stands above")
        readings.readers.add(reader)
        for label in labels:
            if row[label] not in ("0", "1", "0.0", "1.0"):
                problems.add(line, f"{label} is not 0 or 1")
            elif float(row[label]):
                readings.mark(reader, label)
    problems.raise_if_any("Mend these lines of the table.")
    _add_boxes(folder / f"annotations_{name}.csv", images)
    return _Part(name, images, labels, "test" if name == "test" else None)


def _require_labels(labels: Iterable[str], path: Path) -> None:
    missing = sorted({word for words in STATED.values() for word in words} - set(labels))
    if missing:
        raise InputError(
            f"column {', '.join(missing)} is missing", where=path.name, remedy="Take the table as PhysioNet gives it."
        )


def _kaggle(path: Path) -> _Part:
    """train.csv: a row a box, or a reader's "No finding" without a box."""
    images: dict[str, Readings] = {}
    problems = Problems(path.name)
    for line, row in read_rows(path, ("image_id", "class_name", "rad_id", *_CORNERS)):
        if row["class_name"] not in KAGGLE_LABELS:
            problems.add(line, f"class_name {row['class_name'][:40]!r} is none of the competition's")
            continue
        readings = images.setdefault(row["image_id"], Readings())
        readings.mark(row["rad_id"], row["class_name"])
        _add_box(readings, row, line, problems)
    problems.raise_if_any("Mend these lines of the table.")
    return _Part("train", images, KAGGLE_LABELS, None)


def _add_boxes(path: Path, images: dict[str, Readings]) -> None:
    """annotations_{train,test}.csv: a row a box; its labels are among those of the image's label table."""
    if not path.is_file():
        return
    problems = Problems(path.name)
    for line, row in read_rows(path, ("image_id", "class_name", *_CORNERS)):
        if row["image_id"] in images:
            _add_box(images[row["image_id"]], row, line, problems)
        else:
            problems.add(line, "image_id is not in the table of labels")
    problems.raise_if_any("Mend these lines of the table.")


def _add_box(readings: Readings, row: dict[str, str], line: int, problems: Problems) -> None:
    corners = [row[name] for name in _CORNERS]
    if not any(corners):
        return
    try:
        box = PixelBox(*map(float, corners))
    except ValueError:
        problems.add(line, "x_min, y_min, x_max and y_max are no numbers")
        return
    if not all(map(math.isfinite, box)) or not (0 <= box.left < box.right and 0 <= box.top < box.bottom):
        problems.add(line, "the box is empty or lies outside the image")
        return
    readings.boxes.setdefault(row["class_name"], []).append(box)


def _study(name: str, readings: Readings, part: _Part, config: VinDrCxrStudies, counts: Counter[str]) -> SourceStudy:
    patient_id = f"vindr-{name}"
    test_share = 0.0 if part.folder == "train" and part.labels != KAGGLE_LABELS else config.test_share
    split = part.split or split_of(patient_id, validate_share=config.validate_share, test_share=test_share)
    labels = columns_of(readings, config.vote, part.labels)
    path = _file(Path(config.path) / part.folder, name)
    study = Study(
        study_id=patient_id,
        patient_id=patient_id,
        split=split,
        images=(),
        source=Path(config.path).resolve().name,
        labels=labels if split != "test" else None,
    )
    item = SourceStudy(study, [SourceImage(path, "PA", name)])
    if split == "test":
        item.truth = truth_of(readings, labels)
        boxes = boxes_of(readings, item.truth)
        if path.suffix.lower() in _ORIGINALS:
            item.boxes = boxes
        else:
            counts["boxes_left_out_beside_copies"] += bool(boxes)
    return item


def _file(folder: Path, name: str) -> Path:
    """The film, or where it should be; a table's image_id is a name, so that no path leads out of the folder."""
    stem = Path(name).name
    paths = [folder / f"{stem}{ending}" for ending in (*_ORIGINALS, *_COPIES)]
    return next((path for path in paths if path.is_file()), paths[0])
