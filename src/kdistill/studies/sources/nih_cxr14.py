"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): images and text-mined labels, no reports.

The official layout is that of nihcc.app.box.com/v/ChestXray-NIHCC: Data_Entry_2017.csv (or its 2020 revision), images
in images_001/images to images_012/images or in one folder `images`, train_val_list.txt and test_list.txt, and readers'
boxes in BBox_List_2017.csv. A folder with labels.csv (the Data_Entry columns and `image`) is a part of it, laid out by
the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from kdistill.errors import InputError
from kdistill.observations import NO_FINDING, LabelState
from kdistill.records import Split, Study
from kdistill.studies.boxes import NihBox, read_nih_boxes
from kdistill.studies.config import NihStudies
from kdistill.studies.sources.common import (
    PixelBox,
    SourceImage,
    SourceStudy,
    SourceTable,
    refuse_shared_patients,
)
from kdistill.studies.sources.label_columns import columns_of_findings
from kdistill.studies.table import Problems, cell, read_rows, split_of

#: NIH label -> CheXpert observation, where the mapping is sound (docs/data.md says why).
NIH_TO_OBSERVATION: Final[Mapping[str, str]] = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural_Thickening": "Pleural Other",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Infiltration": "Lung Opacity",
    "No Finding": "No Finding",
}
#: Labels without a sound mapping -> observations that they neither state nor let deny.
NIH_UNMAPPED: Final[Mapping[str, tuple[str, ...]]] = {
    "Emphysema": (),
    "Fibrosis": ("Lung Opacity", "Pleural Other"),
    "Hernia": (),
}

_PART_TABLE: Final = "labels.csv"
_TABLES: Final = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_COLUMNS: Final = ("Image Index", "Finding Labels", "Patient ID")
_BOXES: Final = "BBox_List_2017.csv"


def read_nih(config: NihStudies) -> SourceTable:
    """Read NIH ChestX-ray14: labels of the 11 mapped observations are 1 or 0; the three that NIH does not label stay
    unknown. "No Finding" is 1 or unknown, as CheXpert has it.

    In the official layout a 0 that the labels beside it make unsound is unknown (see `columns_of_findings`): a film
    labelled Mass only may well show the opacity that a mass is. A folder with labels.csv keeps such zeros: the results
    in docs/protocol.md were made with them.

    Left out by reason: an image in neither official list.

    Raises:
        InputError: A file is missing, or all mistakes of the table with their lines.
        LeakageError: A patient stands in two splits.
    """
    folder = Path(config.path)
    release = _find_release(folder)
    lists = _official_lists(folder) if _by_lists(config, release) else None
    problems = Problems(release.table.name)
    table = SourceTable([])
    seen: set[str] = set()
    for line, row, path in release.rows(problems):
        name = row["Image Index"]
        if name in seen:
            problems.add(line, "the same Image Index stands above")
        seen.add(name)
        labels = _labels(row["Finding Labels"], line, problems, keep_zeros=release.images is None)
        split = _split(name, f"nih-{row['Patient ID']}", lists, config)
        if split is None:
            table.left_out.append((f"{release.table.name} line {line}", "in_neither_official_list"))
        elif labels is not None:
            study = _study(row, labels, split, folder)
            table.studies.append(SourceStudy(study, [SourceImage(path, study.view_position)]))
    problems.raise_if_any("Mend these lines, or download the table again.")
    refuse_shared_patients([item.study for item in table.studies])
    if (folder / _BOXES).is_file():
        _add_boxes(table.studies, read_nih_boxes(folder / _BOXES))
    return table


def _add_boxes(items: list[SourceStudy], boxes: list[NihBox]) -> None:
    """Readers' boxes of test films, in pixels of the film as it is stored: a copy may be smaller than the original."""
    tests = {item.study.study_id: item for item in items if item.study.split == "test"}
    for boxed in boxes:
        item = tests.get(f"nih-{boxed.stem}")
        size = None if item is None else _size_px(item.images[0].path)
        if item is not None and size is not None:
            scales = (size[0], size[1], size[0], size[1])
            box = PixelBox(*(part * scale for part, scale in zip(boxed.box, scales, strict=True)))
            item.boxes[boxed.observation] = (*item.boxes.get(boxed.observation, ()), box)


def _size_px(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's header says; None for a file that the stage will refuse anyway."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


@dataclass(frozen=True)
class _Release:
    """A table, and the images that it names; `images` is None where a column names them."""

    table: Path
    images: Mapping[str, Path] | None

    def rows(self, problems: Problems) -> Iterator[tuple[int, dict[str, str], Path]]:
        """Lines of the table with the image of each."""
        folder = self.table.parent
        for line, row in read_rows(self.table, _COLUMNS if self.images is not None else ("image", *_COLUMNS)):
            if not row["Image Index"] or not row["Patient ID"]:
                problems.add(line, "Image Index and Patient ID must not be empty")
            elif self.images is not None:  # an image that is not here is counted by the stage
                yield line, row, self.images.get(row["Image Index"], folder / "images" / Path(row["Image Index"]).name)
            elif os.path.normpath(row["image"]).startswith(("..", "/")):
                problems.add(line, "image leads out of the folder")
            else:
                yield line, row, folder / row["image"]


def _find_release(folder: Path) -> _Release:
    if (folder / _PART_TABLE).is_file():
        return _Release(folder / _PART_TABLE, None)
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise InputError(
            f"holds neither {_PART_TABLE} nor {_TABLES[1]}",
            where=folder.name,
            remedy="Give the folder of the NIH download, or lay the images out with a labels.csv.",
        )
    folders = [path for top in sorted(folder.glob("images*")) for path in (top, top / "images") if path.is_dir()]
    return _Release(table, {path.name: path for images in folders for path in images.iterdir() if path.suffix})


def _by_lists(config: NihStudies, release: _Release) -> bool:
    match config.split:
        case None:
            return release.images is not None
        case chosen:
            return chosen == "official"


def _official_lists(folder: Path) -> dict[str, Split]:
    """Image -> "train" (the list of training and validation) or "test"."""
    found: dict[str, Split] = {}
    problems = Problems("test_list.txt")
    lists: tuple[tuple[str, Split], ...] = (("train_val_list.txt", "train"), ("test_list.txt", "test"))
    for name, split in lists:
        try:
            text = (folder / name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "cannot be read", where=name, remedy="It is part of the NIH download; or write `split: hash`."
            ) from error
        for line, image in enumerate(text.splitlines(), start=1):
            if image.strip() and found.setdefault(image.strip(), split) != split:
                problems.add(line, "the image stands in train_val_list.txt too")
    problems.raise_if_any("Download both lists again.")
    return found


def _split(name: str, patient_id: str, lists: Mapping[str, Split] | None, config: NihStudies) -> Split | None:
    if lists is None:
        return split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share)
    if lists.get(name) == "train":
        return split_of(patient_id, validate_share=config.validate_share, test_share=0.0)
    return lists.get(name)


def _labels(text: str, line: int, problems: Problems, *, keep_zeros: bool) -> dict[str, LabelState] | None:
    names = text.split("|")
    unknown = [name for name in names if name not in NIH_TO_OBSERVATION and name not in NIH_UNMAPPED]
    if unknown or (len(names) > 1 and "No Finding" in names):
        problems.add(line, f"Finding Labels: {', '.join(unknown) or 'No Finding beside another'} is no label of NIH")
        return None
    stated = {NIH_TO_OBSERVATION[name] for name in names if name in NIH_TO_OBSERVATION}
    unsure = {observation for name in names for observation in NIH_UNMAPPED.get(name, ())}
    sound = columns_of_findings(stated, unsure, NIH_TO_OBSERVATION.values())
    if not keep_zeros:
        return sound
    return {name: 0 if state is None and name != NO_FINDING else state for name, state in sound.items()}


def _study(row: dict[str, str], labels: dict[str, LabelState], split: Split, folder: Path) -> Study:
    return Study(
        study_id=f"nih-{Path(row['Image Index']).stem}",
        patient_id=f"nih-{row['Patient ID']}",
        split=split,
        images=(),
        source=folder.name,
        view_position=row.get("View Position") or None,
        sex=row.get("Patient Gender") or row.get("Patient Sex") or None,
        age=cell(row, "Patient Age", float),
        labels=labels,
    )
