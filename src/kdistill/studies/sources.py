"""Data sets on disk -> studies with the files that hold their images. Nothing is decoded here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kdistill.errors import PolicyError
from kdistill.observations import INDEX, OBSERVATIONS, LabelState
from kdistill.records import Side, Split, Study, StudyImage
from kdistill.studies.config import CovidNotesStudies, FolderStudies, ImageSource, NihStudies
from kdistill.studies.table import Problems, cell, parse_state, read_rows, split_of


@dataclass
class SourceStudy:
    """A study before its images are read. `truth` and `masks` go to evaluation only."""

    study: Study
    image_paths: list[Path]
    truth: dict[str, int] = field(default_factory=dict)
    mask_paths: dict[str, Path] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)


@dataclass
class SourceTable:
    """All studies of one source, and what was left out of it and why."""

    studies: list[SourceStudy]
    left_out: list[tuple[str, str]] = field(default_factory=list)


#: NIH label -> CheXpert observation, where the mapping is sound. Emphysema, Fibrosis and Hernia have none.
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
#: CT findings are not findings of the radiograph beside them.
_ABOUT_CT: Final = re.compile(r"\bH?R?CTs?\b|\bCT[- ]?scan|tomograph", re.IGNORECASE)
_FRONTAL: Final = frozenset({"PA", "AP", "AP Supine", "AP ERECT", ""})


def read_folder(config: FolderStudies) -> SourceTable:
    """Read studies.csv of the plain folder layout (INTERFACE: columns in docs/data.md).

    Raises:
        InputError: All problems of the table, with line numbers.
        PolicyError: A patient stands in two splits.
    """
    folder = Path(config.path)
    table = folder / "studies.csv"
    rows = read_rows(table, ("study_id", "patient_id", "image_path"))
    problems = Problems(table.name)
    found: dict[str, SourceStudy] = {}
    first_row: dict[str, dict[str, str]] = {}
    for line, row in rows:
        study_id = row["study_id"]
        if not study_id or not row["patient_id"] or not row["image_path"]:
            problems.add(line, "study_id, patient_id and image_path must not be empty")
        elif os.path.normpath(row["image_path"]).startswith(("..", "/")):  # links that the user made may lead out
            problems.add(line, "image_path leads out of the folder")
        elif study_id in found:
            _add_image(found[study_id], first_row[study_id], row, folder, line, problems)
        else:
            item = _folder_study(row, folder, config, line, problems)
            if item is not None:
                found[study_id], first_row[study_id] = item, row
    problems.raise_if_any("Mend these lines of the table.")
    _refuse_shared_patients([item.study for item in found.values()])
    return SourceTable(list(found.values()))


def _add_image(
    item: SourceStudy,
    first: dict[str, str],
    row: dict[str, str],
    folder: Path,
    line: int,
    problems: Problems,
) -> None:
    """A further row of a study adds an image; a row that repeats the image or contradicts the study is a mistake."""
    differing = [k for k in row if k not in ("image_path", "view_position") and row[k] and row[k] != first[k]]
    if folder / row["image_path"] in item.image_paths:
        problems.add(line, "duplicate study: the same study_id and image_path stand above")
    elif differing:
        problems.add(line, f"the study stands above with another {', '.join(differing)}")
    else:
        item.image_paths.append(folder / row["image_path"])


def _folder_study(
    row: dict[str, str], folder: Path, config: FolderStudies, line: int, problems: Problems
) -> SourceStudy | None:
    count = len(problems.found)
    split = row.get("split", "")
    if split not in ("", "train", "validate", "test"):
        problems.add(line, f"split {split!r} is not train, validate or test")
    labels = _states(row, "", line, problems)
    truth = {name: state for name, state in _states(row, "truth:", line, problems).items() if state in (0, 1)}
    if len(problems.found) > count:
        return None
    study = Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        split=_split(split, row["patient_id"], config),
        images=(),
        source=folder.resolve().name,
        view_position=row.get("view_position") or None,
        sex=row.get("sex") or None,
        age=cell(row, "age", float),
        indication=row.get("indication", ""),
        findings=row.get("findings", "") or row.get("report", ""),
        impression=row.get("impression", ""),
        labels=labels or None,
    )
    masks = {name: folder / row[key] for name in OBSERVATIONS if row.get(key := f"mask:{name}")}
    return SourceStudy(study, [folder / row["image_path"]], {k: int(v or 0) for k, v in truth.items()}, masks)


def _split(stated: str, patient_id: str, config: ImageSource) -> Split:
    match stated:
        case "train" | "validate" | "test":
            return stated
        case _:
            return split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share)


def _states(row: dict[str, str], prefix: str, line: int, problems: Problems) -> dict[str, LabelState]:
    """The label columns that the table has (an empty cell is None: not mentioned)."""
    states: dict[str, LabelState] = {}
    for name in OBSERVATIONS:
        if prefix + name in row:
            try:
                states[name] = parse_state(row[prefix + name])
            except ValueError as error:
                problems.add(line, f"{prefix}{name}: {error}")
    return states


def _refuse_shared_patients(studies: list[Study]) -> None:
    splits: dict[str, set[str]] = {}
    for study in studies:
        splits.setdefault(study.patient_id, set()).add(study.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        raise PolicyError(
            f"{shared} patients stand in more than one split: the test would be of patients already seen",
            remedy="Split by patient, or leave the column `split` out and let a hash of patient_id decide.",
        )


def read_nih(config: NihStudies) -> SourceTable:
    """Read NIH ChestX-ray14 rows: images and text-mined labels, no reports. Labels of the 11 mapped observations are
    1 or 0; the three that NIH does not label stay unknown. "No Finding" is 1 or unknown, as CheXpert has it.

    Raises:
        InputError: The table cannot be read.
    """
    folder = Path(config.path)
    table = SourceTable([])
    for _, row in read_rows(folder / "labels.csv", ("image", "Image Index", "Finding Labels", "Patient ID")):
        names = row["Finding Labels"].split("|")
        mapped = {NIH_TO_OBSERVATION[name] for name in names if name in NIH_TO_OBSERVATION}
        labels: dict[str, LabelState] = {name: int(name in mapped) for name in set(NIH_TO_OBSERVATION.values())}  # type: ignore[misc]
        labels["No Finding"] = 1 if "No Finding" in mapped else None
        patient_id = f"nih-{row['Patient ID']}"
        study = Study(
            study_id=f"nih-{Path(row['Image Index']).stem}",
            patient_id=patient_id,
            split=split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share),
            images=(),
            source=folder.name,
            view_position=row.get("View Position") or None,
            sex=row.get("Patient Gender") or None,
            age=cell(row, "Patient Age", float),
            labels=dict(sorted(labels.items(), key=lambda item: INDEX[item[0]])),
        )
        table.studies.append(SourceStudy(study, [folder / row["image"]]))
    return table


def read_covid_notes(config: CovidNotesStudies) -> SourceTable:
    """Read the COVID-19 Image Data Collection: images with free clinical notes, taken as findings.

    Left out by reason: a note about a CT, an empty note, a view that is not frontal.

    Raises:
        InputError: The table cannot be read.
    """
    folder = Path(config.path)
    table = SourceTable([])
    for line, row in read_rows(folder / "metadata.csv", ("image", "patientid", "clinical_notes")):
        note = row["clinical_notes"]
        reason = _reason_to_leave(note, row.get("view", ""))
        if reason:
            table.left_out.append((f"metadata.csv line {line}", reason))
            continue
        patient_id = f"covid-{row['patientid']}"
        study = Study(
            study_id=f"covid-{Path(row['image']).stem}",
            patient_id=patient_id,
            split=split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share),
            images=(),
            source=folder.name,
            view_position=row.get("view") or None,
            sex=row.get("sex") or None,
            age=cell(row, "age", float),
            findings=note,
        )
        table.studies.append(SourceStudy(study, [folder / row["image"]]))
    return table


def _reason_to_leave(note: str, view: str) -> str | None:
    if not note:
        return "no_clinical_note"
    if _ABOUT_CT.search(note):
        return "note_describes_ct"
    return None if view in _FRONTAL else "view_not_frontal"


def with_images(study: Study, paths: list[Path], rows: list[int], folder: Path) -> Study:
    """The study with its images' names (relative to the data set's folder) and rows in images.npy."""
    images = tuple(
        StudyImage(image_path=path.relative_to(folder).as_posix(), row=row, view_position=study.view_position)
        for path, row in zip(paths, rows, strict=True)
    )
    return study.model_copy(update={"images": images})
