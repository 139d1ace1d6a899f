"""The tables of MIMIC-CXR and MIMIC-CXR-JPG: images, views, dates, splits and labels, checked against each other.

Source: the data set pages at PhysioNet, mimic-cxr 2.0.0 and 2.1.0 (doi:10.13026/4jqj-jw95) and mimic-cxr-jpg 2.0.0 and
2.1.0 (doi:10.13026/jsn5-t979); Johnson et al. 2019, arXiv:1901.07042. The tables keep "2.0.0" in their names in 2.1.0.
Messages name lines and never a patient, study or image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.observations import OBSERVATIONS, Labels
from kdistill.records import Split
from kdistill.studies.config import MimicDicomStudies, MimicJpgStudies
from kdistill.studies.table import Problems, parse_state, read_columns, table_header

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata", "mimic-cxr-2.0.0-split"
LABELS: Final = {"chexpert": "mimic-cxr-2.0.0-chexpert", "negbio": "mimic-cxr-2.0.0-negbio"}
RECORDS, STUDY_LIST = "cxr-record-list", "cxr-study-list"

#: The official labeler tables say "Lung Opacity"; version 1.0.0 and the radiologist's table of 2.1.0 say this.
_ALIASES: Final = {"Lung Opacity": "Airspace Opacity"}
_NUMBER: Final = re.compile(r"[1-9]\d{7}")
_DICOM_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_METADATA_COLUMNS: Final = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
_MEND: Final = "Download the table again, or mend these lines."

#: (StudyDate, StudyTime): numbers, because the table writes 80556.875 for 08:05:56.875 and strings would sort it last.
When = tuple[int, float]
MimicConfig = MimicJpgStudies | MimicDicomStudies


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image as a table lists it."""

    dicom_id: str
    subject_id: str
    study_id: str
    view: str | None = None
    when: When | None = None

    @property
    def study_dir(self) -> str:
        """The study's folder below the data set: files/p10/p10000032/s50414267."""
        return f"files/p{self.subject_id[:2]}/p{self.subject_id}/s{self.study_id}"


@dataclass
class Gathered:
    """Beside the rows: what was left out and why, what was only counted, and the patient of each study."""

    left_out: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    subjects: dict[str, str] = field(default_factory=dict)


def find_table(folder: Path, name: str, remedy: str) -> Path:
    """The table `name`.csv, else `name`.csv.gz.

    Raises:
        InputError: Neither is there.
    """
    for path in _forms(folder, name):
        return path
    raise InputError("is missing (also as .csv.gz)", where=f"{folder.name}/{name}.csv", remedy=remedy)


def _forms(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz") if path.is_file()]


def tables_dir(config: MimicConfig) -> Path:
    """Where the tables of MIMIC-CXR-JPG are."""
    match config:
        case MimicJpgStudies():
            return Path(config.path)
        case MimicDicomStudies():
            return Path(config.tables_path or config.path)


def needed_tables(config: MimicConfig) -> list[Path]:
    """Every table that is read.

    Raises:
        InputError: One is missing; the error says which setting does without it.
    """
    folder = tables_dir(config)
    found = []
    match config:
        case MimicJpgStudies():
            found.append(find_table(folder, METADATA, "`path` is the folder that holds the tables and files/."))
        case MimicDicomStudies():
            found.append(find_table(Path(config.path), RECORDS, "`path` is the folder that holds it and files/."))
            if config.views_from == "metadata":
                found.append(
                    find_table(
                        folder,
                        METADATA,
                        "It comes with MIMIC-CXR-JPG: name its folder in tables_path, or set views_from: dicom.",
                    )
                )
    if config.split == "official":
        found.append(find_table(folder, SPLIT, "It comes with MIMIC-CXR-JPG; or set split: hash."))
    if config.labels != "none":
        found.append(find_table(folder, LABELS[config.labels], "It comes with MIMIC-CXR-JPG; or set labels: none."))
    return found


def _selected(subject_id: str, config: MimicConfig) -> bool:
    return config.groups is None or f"p{subject_id[:2]}" in config.groups


def read_metadata(path: Path, config: MimicConfig, gathered: Gathered) -> dict[str, ImageRow]:
    """Every image of the metadata table, by dicom_id, in the table's order.

    Raises:
        InputError: Wrong identifiers or dates, an image twice, a study of two patients; all lines named.
    """
    problems, images = Problems(path.name), dict[str, ImageRow]()
    for line, (dicom_id, subject_id, study_id, view, date, time) in read_columns(path, _METADATA_COLUMNS):
        if not _are_ids(dicom_id, subject_id, study_id, line, problems):
            continue
        if not _selected(subject_id, config):
            gathered.counts["images_outside_groups"] += 1
            continue
        try:
            when = parse_when(date, time)
        except ValueError as error:
            problems.add(line, str(error))
            continue
        _add(images, ImageRow(dicom_id, subject_id, study_id, view or None, when), line, problems, gathered)
    problems.raise_if_any(_MEND)
    return images


def read_records(path: Path, config: MimicConfig, gathered: Gathered) -> dict[str, ImageRow]:
    """Every image of the record list of the DICOM set, by dicom_id; views and dates are not in it.

    Raises:
        InputError: As `read_metadata`, or a path that is not files/p10/p.../s.../<dicom_id>.dcm.
    """
    problems, images = Problems(path.name), dict[str, ImageRow]()
    for line, (dicom_id, subject_id, study_id, place) in read_columns(
        path, ("dicom_id", "subject_id", "study_id", "path")
    ):
        if not _are_ids(dicom_id, subject_id, study_id, line, problems):
            continue
        row = ImageRow(dicom_id, subject_id, study_id)
        if place != f"{row.study_dir}/{dicom_id}.dcm":
            problems.add(line, "path is not files/p1?/p<subject_id>/s<study_id>/<dicom_id>.dcm")
        elif not _selected(subject_id, config):
            gathered.counts["images_outside_groups"] += 1
        else:
            _add(images, row, line, problems, gathered)
    problems.raise_if_any(_MEND)
    return images


def read_study_list(config: MimicDicomStudies, gathered: Gathered) -> None:
    """Name the studies of the study list, where there is one, that have no image in the record list.

    Raises:
        InputError: A study under another patient, or a path that is not files/p10/p.../s....txt.
    """
    path = next(iter(_forms(Path(config.path), STUDY_LIST)), None)
    if path is None:
        return
    problems = Problems(path.name)
    for line, (subject_id, study_id, place) in read_columns(path, ("subject_id", "study_id", "path")):
        if place != f"files/p{subject_id[:2]}/p{subject_id}/s{study_id}.txt":
            problems.add(line, "path is not files/p1?/p<subject_id>/s<study_id>.txt")
        elif study_id not in gathered.subjects:
            _unknown(f"s{study_id}", subject_id, "study_without_image_row", config, gathered)
        elif gathered.subjects[study_id] != subject_id:
            problems.add(line, "subject_id differs from that of the same study_id in the record list")
    problems.raise_if_any(_MEND)


def _are_ids(dicom_id: str, subject_id: str, study_id: str, line: int, problems: Problems) -> bool:
    """Official identifiers and nothing else: file names are made from them, and "10000032.0" would miss every file."""
    if not (_NUMBER.fullmatch(subject_id) and _NUMBER.fullmatch(study_id)):
        problems.add(line, "subject_id and study_id must be numbers of 8 digits")
    elif not _DICOM_ID.fullmatch(dicom_id):
        problems.add(line, "dicom_id is not five groups of 8 hexadecimal digits")
    else:
        return True
    return False


def _add(images: dict[str, ImageRow], row: ImageRow, line: int, problems: Problems, gathered: Gathered) -> None:
    if row.dicom_id in images:
        problems.add(line, "the same dicom_id stands above")
    elif gathered.subjects.setdefault(row.study_id, row.subject_id) != row.subject_id:
        problems.add(line, "the same study_id stands above with another subject_id")
    else:
        images[row.dicom_id] = row


def parse_when(date: str, time: str) -> When | None:
    """StudyDate (21800506) and StudyTime (213014.531; leading zeros are often lost), or None where a part is empty.

    Raises:
        ValueError: One of them is no such number.
    """
    if not date or not time:
        return None
    if not re.fullmatch(r"[12]\d{7}", date):
        raise ValueError("StudyDate is no date like 21800506")
    if not re.fullmatch(r"\d{1,6}(?:\.\d*)?", time):
        raise ValueError("StudyTime is no time like 213014.531")
    return int(date), float(time)


def join_metadata(path: Path, images: dict[str, ImageRow], config: MimicConfig, gathered: Gathered) -> None:
    """Give the images of the record list their views and dates, in place; one without a row stays without.

    Raises:
        InputError: Wrong dates, an image twice, or other identifiers than the record list has.
    """
    problems, joined = Problems(path.name), set[str]()
    for line, (dicom_id, subject_id, study_id, view, date, time) in read_columns(path, _METADATA_COLUMNS):
        row = images.get(dicom_id)
        if row is None:
            _unknown(dicom_id, subject_id, "metadata_row_of_unknown_image", config, gathered)
            continue
        _check_ids(row, (subject_id, study_id), line, problems)
        if dicom_id in joined:
            problems.add(line, "the same dicom_id stands above")
        try:
            images[dicom_id] = replace(row, view=view or None, when=parse_when(date, time))
        except ValueError as error:
            problems.add(line, str(error))
        joined.add(dicom_id)
    problems.raise_if_any(_MEND)
    gathered.counts["images_without_metadata"] += len(images) - len(joined)


def read_splits(
    path: Path, images: Mapping[str, ImageRow], config: MimicConfig, gathered: Gathered
) -> dict[str, Split]:
    """dicom_id -> split of the images that are read; a row of an image that no table lists is left out by name.

    Raises:
        InputError: An unknown split, an image twice, or other identifiers than the table of images has.
    """
    problems, splits = Problems(path.name), dict[str, Split]()
    for line, (dicom_id, subject_id, study_id, split) in read_columns(
        path, ("dicom_id", "subject_id", "study_id", "split")
    ):
        row = images.get(dicom_id)
        if row is None:
            _unknown(dicom_id, subject_id, "split_row_of_unknown_image", config, gathered)
            continue
        _check_ids(row, (subject_id, study_id), line, problems)
        if dicom_id in splits:
            problems.add(line, "the same dicom_id stands above")
        match split:
            case "train" | "validate" | "test":
                splits[dicom_id] = split
            case _:
                problems.add(line, "split is not train, validate or test")
    problems.raise_if_any(_MEND)
    return splits


def read_labels(path: Path, config: MimicConfig, gathered: Gathered) -> dict[str, Labels]:
    """study_id -> all 14 labels in the project's order (the tables sort them by name).

    Raises:
        InputError: A column is missing, a label is none of 1, 0, -1 and empty, a study stands twice or under another
            patient.
    """
    header = table_header(path)
    names = [name if name in header else _ALIASES.get(name, name) for name in OBSERVATIONS]
    problems, labels = Problems(path.name), dict[str, Labels]()
    for line, (subject_id, study_id, *cells) in read_columns(path, ("subject_id", "study_id", *names)):
        subject = gathered.subjects.get(study_id)
        if subject is None:
            _unknown(f"s{study_id}", subject_id, "label_row_of_unknown_study", config, gathered)
        elif subject != subject_id:
            problems.add(line, "subject_id differs from that of the same study_id in the table of images")
        elif study_id in labels:
            problems.add(line, "the same study_id stands above")
        else:
            labels[study_id] = _states(cells, line, problems)
    problems.raise_if_any(_MEND)
    return labels


def _states(cells: Sequence[str], line: int, problems: Problems) -> Labels:
    states: Labels = {}
    for name, text in zip(OBSERVATIONS, cells, strict=True):
        try:
            states[name] = parse_state(text)
        except ValueError as error:
            problems.add(line, f"{name}: {error}")
    return states


def _check_ids(row: ImageRow, ids: tuple[str, str], line: int, problems: Problems) -> None:
    if (row.subject_id, row.study_id) != ids:
        problems.add(line, "subject_id or study_id differ from those of the same dicom_id in the table of images")


def _unknown(item: str, subject_id: str, reason: str, config: MimicConfig, gathered: Gathered) -> None:
    """A row of something that no table of images lists: named, unless it belongs to a group that is not read."""
    if _selected(subject_id, config):
        gathered.left_out.append((item, reason))
