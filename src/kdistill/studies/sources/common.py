"""What a source hands on: studies with the files that hold their images. Nothing is decoded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from kdistill.errors import InputError, LeakageError
from kdistill.records import Side, Split, Study, StudyImage
from kdistill.studies.config import ImageSource
from kdistill.studies.table import split_of

#: How data sets write frontal projections (compared in capitals, "_" and "-" as spaces).
_FRONTAL: Final = frozenset(
    [
        *("PA", "AP", "AP SUPINE", "AP ERECT", "AP AXIAL", "AP HORIZONTAL", "PA ERECT"),
        *("FRONTAL", "POSTEROANTERIOR", "ANTEROPOSTERIOR"),
    ]
)


@dataclass(frozen=True)
class SourceImage:
    """One image file of a study, and what the data set says of it."""

    path: Path
    view_position: str | None = None
    dicom_id: str | None = None

    @property
    def is_frontal(self) -> bool | None:
        """Whether the view is a frontal projection; None where the data set does not say."""
        return is_frontal(self.view_position)


def is_frontal(view_position: str | None) -> bool | None:
    """Whether a view is a frontal projection (PA or AP); None for a view that is not stated.

    >>> is_frontal("AP Supine"), is_frontal("LATERAL"), is_frontal("")
    (True, False, None)
    """
    if not view_position:
        return None
    return " ".join(view_position.upper().replace("_", " ").replace("-", " ").split()) in _FRONTAL


class PixelBox(NamedTuple):
    """A rectangle in pixels of a stored image: x to the right, y downwards, left < right, top < bottom."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass
class SourceStudy:
    """A study before its images are read. `truth`, masks and boxes go to evaluation only.

    `boxes` belong to the first image; the stage draws them as masks once that image's size is known.
    """

    study: Study
    images: list[SourceImage]
    truth: dict[str, int] = field(default_factory=dict)
    mask_paths: dict[str, Path] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)
    boxes: dict[str, tuple[PixelBox, ...]] = field(default_factory=dict)


@dataclass
class SourceTable:
    """All studies of one source, what was left out of it and why, and what was noticed of those that were kept."""

    studies: list[SourceStudy]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def choose_images(item: SourceStudy, config: ImageSource) -> SourceStudy | None:
    """Order a study's images as the recipe asks; None for a study without a frontal image where one is required.

    The first image is the one that the student sees; its view is the study's. The order is stable: images of the same
    rank keep the data set's order. A view that is not stated counts as possibly frontal: it comes after the known ones.
    """
    images = item.images
    if config.frontal_only and all(image.is_frontal is False for image in images):
        return None
    if config.first_view == "frontal":
        images = [images[index] for index in frontal_first(images)]
    view = images[0].view_position if images else None
    study = item.study.model_copy(update={"view_position": view or item.study.view_position})
    # Boxes are drawn on the first image: a data set with boxes has one image a study.
    return replace(item, study=study, images=images)


def frontal_first(images: list[SourceImage]) -> list[int]:
    """The order of images by view: frontal, not stated, others; stable."""
    rank = {True: 0, None: 1, False: 2}
    return sorted(range(len(images)), key=lambda index: rank[images[index].is_frontal])


def stated_or_hashed_split(stated: str, patient_id: str, config: ImageSource) -> Split:
    """The split that the data set states, else by a hash of the patient's id."""
    match stated:
        case "train" | "validate" | "test":
            return stated
        case _:
            return split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share)


def refuse_shared_patients(studies: list[Study]) -> None:
    """Refuse a table in which a patient stands in more than one split.

    Raises:
        LeakageError: With the number of such patients; no id is named.
    """
    refuse_patients_in_two(
        ((study.patient_id, study.split) for study in studies),
        "split",
        "Split by patient, or leave the column `split` out and let a hash of patient_id decide.",
    )


def refuse_patients_in_two(parts: Iterable[tuple[str, str]], what: str, remedy: str) -> None:
    """Refuse data in which a patient stands in more than one part.

    Args:
        parts: (patient, part) pairs.
        what: What a part is called: "split", "official table".
        remedy: What to do about it.

    Raises:
        LeakageError: With the number of such patients; no id is named.
    """
    found: dict[str, set[str]] = {}
    for patient_id, part in parts:
        found.setdefault(patient_id, set()).add(part)
    shared = sum(len(several) > 1 for several in found.values())
    if shared:
        raise LeakageError(
            f"{shared} patients stand in more than one {what}: the test would be of patients already seen",
            remedy=remedy,
        )


def published_masks(item: SourceStudy) -> dict[str, Path]:
    """The masks of a study that a run reads: those of test studies."""
    return item.mask_paths if item.study.split == "test" else {}


def refuse_empty(table: SourceTable, path: str) -> None:
    """Refuse a source that gives no study at all.

    Args:
        table: What was read.
        path: The source's folder.

    Raises:
        InputError: With the reasons for which its rows were left out, if it has rows.
    """
    if table.studies:
        return
    reasons = Counter(reason for _, reason in table.left_out)
    if reasons:
        said = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        what, remedy = f"gives no study: all were left out ({said})", "docs/data.md says what is left out and why."
    else:
        what, remedy = "names no studies: its table has no rows", "Write a row for each image below the header."
    raise InputError(what, where=Path(path).name, remedy=remedy)


def refuse_confused(studies: list[Study]) -> None:
    """Refuse studies of several sources that could be taken for one another: everything later goes by their ids.

    Raises:
        InputError: A study_id stands for more than one study.
        LeakageError: A patient_id stands in more than one split.
    """
    twice = len(studies) - len({study.study_id for study in studies})
    if twice:
        raise InputError(
            f"{twice} study_ids stand for more than one study",
            where="studies",
            remedy="Make study_id unique over all sources, for example with the source's name in front.",
        )
    refuse_shared_patients(studies)


def with_images(study: Study, images: list[SourceImage], rows: list[int], folder: Path) -> Study:
    """The study with its images' names (relative to the data set's folder) and rows in images.npy."""
    kept = tuple(
        StudyImage(
            image_path=image.path.relative_to(folder).as_posix(),
            row=row,
            view_position=image.view_position,
            dicom_id=image.dicom_id,
        )
        for image, row in zip(images, rows, strict=True)
    )
    return study.model_copy(update={"images": kept})
