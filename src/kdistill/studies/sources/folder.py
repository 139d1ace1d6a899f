"""The plain folder layout: studies.csv and the images that it names (columns in docs/data.md)."""

from __future__ import annotations

import os
from pathlib import Path

from kdistill.observations import OBSERVATIONS, LabelState
from kdistill.records import Study
from kdistill.studies.config import FolderStudies
from kdistill.studies.sources.common import (
    SourceImage,
    SourceStudy,
    SourceTable,
    refuse_shared_patients,
    stated_or_hashed_split,
)
from kdistill.studies.table import Problems, cell, parse_state, read_rows


def read_folder(config: FolderStudies) -> SourceTable:
    """Read studies.csv of the plain folder layout (INTERFACE: columns in docs/data.md).

    Raises:
        InputError: All problems of the table, with line numbers.
        LeakageError: A patient stands in two splits.
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
        elif _leads_out(row["image_path"]):  # links that the user made may lead out
            problems.add(line, "image_path leads out of the folder")
        elif any(key.startswith("mask:") and _leads_out(value) for key, value in row.items()):
            problems.add(line, "a mask leads out of the folder")
        elif study_id in found:
            _add_image(found[study_id], first_row[study_id], row, folder, line, problems)
        else:
            item = _folder_study(row, folder, config, line, problems)
            if item is not None:
                found[study_id], first_row[study_id] = item, row
    problems.raise_if_any("Mend these lines of the table.")
    refuse_shared_patients([item.study for item in found.values()])
    return SourceTable(list(found.values()))


def _leads_out(name: str) -> bool:
    return bool(name) and os.path.normpath(name).startswith(("..", "/"))


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
    if any(image.path == folder / row["image_path"] for image in item.images):
        problems.add(line, "duplicate study: the same study_id and image_path stand above")
    elif differing:
        problems.add(line, f"the study stands above with another {', '.join(differing)}")
    else:
        item.images.append(_image(row, folder))


def _folder_study(
    row: dict[str, str], folder: Path, config: FolderStudies, line: int, problems: Problems
) -> SourceStudy | None:
    count = len(problems.found)
    split = row.get("split", "")
    if split not in ("", "train", "validate", "test"):
        problems.add(line, "split is not train, validate or test")
    labels = _states(row, "", line, problems)
    truth = {name: state for name, state in _states(row, "truth:", line, problems).items() if state in (0, 1)}
    if len(problems.found) > count:
        return None
    study = Study(
        study_id=row["study_id"],
        patient_id=row["patient_id"],
        split=stated_or_hashed_split(split, row["patient_id"], config),
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
    return SourceStudy(study, [_image(row, folder)], {k: int(v or 0) for k, v in truth.items()}, masks)


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


def _image(row: dict[str, str], folder: Path) -> SourceImage:
    return SourceImage(folder / row["image_path"], row.get("view_position") or None)
