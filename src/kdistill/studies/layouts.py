"""Folders without studies.csv: what they look like, and what to do with them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.records import Study
from kdistill.studies.sources.common import SourceImage, SourceStudy
from kdistill.studies.sources.openi import IMAGES, KAGGLE_REPORTS, REPORTS

_IMAGE_ENDINGS: Final = frozenset([".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".dic"])
_MAX_LOOKED_AT: Final = 2000
#: Tables by which a known layout is recognised: name -> (columns that it has, kind).
_KNOWN: Final = {
    "labels.csv": (frozenset(["image", "Image Index", "Finding Labels"]), "nih_cxr14"),
    "Data_Entry_2017_v2020.csv": (frozenset(["Image Index", "Finding Labels"]), "nih_cxr14"),
    "Data_Entry_2017.csv": (frozenset(["Image Index", "Finding Labels"]), "nih_cxr14"),
    "metadata.csv": (frozenset(["image", "patientid", "clinical_notes"]), "covid_notes"),
    "train.csv": (frozenset(["Path", "Frontal/Lateral"]), "chexpert"),
}
#: Files that only an official download has: pattern -> kind (docs/data.md).
_OFFICIAL: Final = (
    ("cxr-record-list.csv*", "mimic_cxr"),
    ("mimic-cxr-2.0.0-metadata.csv*", "mimic_cxr_jpg"),
    ("df_chexpert_plus_*.csv", "chexpert_plus"),
    ("master_spreadsheet*.csv", "brax"),
    ("PADCHEST_chest_x_ray_images_labels_160K*", "padchest"),
    ("annotations/image_labels_train.csv", "vindr_cxr"),
)
_STUDY: Final = ("study_id", "studyid", "study", "accession", "image_id", "imageid")
_PATIENT: Final = ("patient_id", "patientid", "subject_id", "patient", "subject")
_IMAGE: Final = ("image_path", "image", "path", "filename", "file", "image_name")


def looks_like(folder: Path, name: str) -> InputError:
    """The error for a folder without studies.csv: it says what the folder seems to be and which command fits.

    Args:
        folder: The folder.
        name: What the user called it.
    """
    if reports := _openi_reports(folder):
        return _openi(folder, reports, name)
    known = _known_kind(folder)
    if known:
        table, kind = known
        return InputError(
            f"has no studies.csv, but its {table} is that of the layout {kind}",
            where=name,
            remedy=f"Run `kdistill data check {name} --kind {kind}`; in a recipe: {{kind: {kind}, path: {name}}}",
        )
    tables = sorted(path for path in folder.glob("*.csv") if path.is_file())
    if tables:
        return InputError(
            f"has no studies.csv; {tables[0].name} is not a layout that we know (its columns: {_shown(tables[0])})",
            where=name,
            remedy=_rename_hint(tables[0]) + _images_hint(name),
        )
    return _without_table(folder, name)


def _known_kind(folder: Path) -> tuple[str, str] | None:
    for table, (columns, kind) in _KNOWN.items():
        if columns <= set(_header(folder / table)):
            return table, kind
    return next(((path.name, kind) for pattern, kind in _OFFICIAL for path in sorted(folder.glob(pattern))), None)


def _openi_reports(folder: Path) -> str:
    """How Open-i's reports lie here, as the archive, its folder, a table, or unpacked into `folder` itself; else ""."""
    place = next((name for name in (*REPORTS, KAGGLE_REPORTS) if (folder / name).exists()), "")
    if not place and any(_is_openi_report(path) for path in sorted(folder.glob("*.xml"))[:1]):
        return "XML files"
    return place


def _is_openi_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<eCitation" in file.read(1000)
    except OSError:
        return False


def _openi(folder: Path, reports: str, name: str) -> InputError:
    if any((folder / images).is_dir() for images in IMAGES):
        return InputError(
            f"has no studies.csv, but holds Open-i's reports ({reports}) and films",
            where=name,
            remedy=f"Run `kdistill data check {name} --kind openi`; in a recipe: {{kind: openi, path: {name}}}",
        )
    return InputError(
        f"holds Open-i's reports ({reports}) and no films",
        where=name,
        remedy="Studies need both: put the reports and NLMCXR_png (or NLMCXR_dcm) of openi.nlm.nih.gov/faq, unpacked, "
        "into one folder (DATA.md), then `kdistill data check FOLDER --kind openi`.",
    )


def _header(table: Path) -> list[str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _shown(table: Path) -> str:
    header = _header(table)
    return ", ".join(name[:40] for name in header[:12]) + (f" and {len(header) - 12} more" if len(header) > 12 else "")


def _rename_hint(table: Path) -> str:
    header = {name.lower(): name for name in reversed(_header(table))}
    pairs = []
    for column, candidates in (("study_id", _STUDY), ("patient_id", _PATIENT), ("image_path", _IMAGE)):
        guess = next((header[c] for c in candidates if c in header), None)
        pairs.append(f"{column} (here perhaps {guess})" if guess else column)
    return f"Write a studies.csv with the columns {', '.join(pairs)}; docs/data.md has all columns."


def _images_hint(name: str) -> str:
    return f" Without a table, `kdistill data check {name} --kind images` looks at the image files alone."


def _without_table(folder: Path, name: str) -> InputError:
    files = [path for path, _ in zip(image_files(folder), range(_MAX_LOOKED_AT), strict=False)]
    num_dicom = sum(path.suffix.lower() not in (".png", ".jpg", ".jpeg") for path in files)
    if not files:
        return InputError(
            "has no studies.csv and no images",
            where=name,
            remedy="Give a folder of the layout in docs/data.md, or a recipe.",
        )
    if num_dicom * 2 > len(files):
        return InputError(
            f"has no studies.csv; it holds DICOM files ({num_dicom} seen)",
            where=name,
            remedy=f"`kdistill data deidentify {name} OUT` makes a folder with studies.csv of them."
            + _images_hint(name),
        )
    return InputError(
        f"has no studies.csv; it holds images ({len(files)} seen)",
        where=name,
        remedy="Write a studies.csv with the columns study_id, patient_id, image_path; docs/data.md has all columns."
        + _images_hint(name),
    )


def image_files(folder: Path) -> Iterator[Path]:
    """Files below a folder that may be images, sorted: by their ending, or by the DICOM mark where they have none.

    Links are not followed.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() in _IMAGE_ENDINGS or _has_dicom_mark(path):
            yield path


def _has_dicom_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def loose_images(folder: Path) -> list[SourceStudy]:
    """Every image below a folder as a study of its own, of an unknown patient.

    Raises:
        InputError: There is none.
    """
    found = [
        SourceStudy(
            Study(study_id=f"file-{number}", patient_id=f"file-{number}", split="train", images=()), [SourceImage(path)]
        )
        for number, path in enumerate(image_files(folder), start=1)
    ]
    if not found:
        raise InputError("holds no images", where=folder.name, remedy="PNG, JPEG and DICOM are read.")
    return found
