"""CheXpert (Irvin et al. 2019, arXiv:1901.07031): images, labels mined from reports, readers' labels for tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.observations import OBSERVATIONS, OBSERVATIONS_5
from kdistill.records import Study
from kdistill.studies.config import CheXpertStudies
from kdistill.studies.sources.chexpert_format import (
    ImageName,
    Part,
    label_columns,
    parse_image_name,
    sex_code,
    split_of_part,
    stream,
    view_of,
)
from kdistill.studies.sources.common import SourceImage, SourceTable, refuse_patients_in_two
from kdistill.studies.sources.gather import Gathered
from kdistill.studies.table import Problems, cell

#: Names of the tables of the official parts; the later ones are those of CheXlocalize and of the test set's labels.
_VALID_TABLES: Final = ("valid.csv", "val_labels.csv")
_TEST_TABLES: Final = ("test.csv", "test_labels.csv", "groundtruth.csv")
_ABOUT: Final = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
_FOLDERS: Final[dict[Part, tuple[str, ...]]] = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def read_chexpert(config: CheXpertStudies) -> SourceTable:
    """Read the tables of CheXpert-v1.0 or CheXpert-v1.0-small.

    Left out by reason: a study whose images carry different labels.

    Raises:
        InputError: A table is missing, or all mistakes of all tables with their lines.
        LeakageError: A patient stands in two official parts.
    """
    release = _find_release(Path(config.path), config.train_table)
    problems = Problems("CheXpert")
    gathered = Gathered()
    patients: set[tuple[str, str]] = set()
    for row in (row for part in release.tables for row in _rows(release, part, problems)):
        patients.add((row.name.patient, row.part))
        study = _study(row, release.tables.keys(), config, problems)
        for path in release.images(row.name):
            view = view_of(row.cells.get("Frontal/Lateral", ""), row.cells.get("AP/PA", ""), path.name)
            gathered.add(study, SourceImage(path, view), row.line, problems, row.file)
    problems.raise_if_any("Mend these lines, or download the table again.")
    refuse_patients_in_two(
        patients, "official table", "Download the tables again: the official parts share no patient."
    )
    return gathered.table()


@dataclass(frozen=True)
class _Row:
    """One line of a table."""

    part: Part
    file: str
    line: int
    name: ImageName
    cells: dict[str, str]


@dataclass(frozen=True)
class _Release:
    """Where tables and images lie.

    Attributes:
        dir: The folder that holds the parts' folders.
        tables: The table of each part that is here.
        batches: Patient -> folder that holds it, where the large release was unpacked as it comes, in batches.
    """

    dir: Path
    tables: dict[Part, Path]
    batches: dict[str, Path] = field(default_factory=dict)

    def images(self, name: ImageName) -> list[Path]:
        """The image, or all images of the study where the table names no more."""
        folder = self.batches.get(name.patient)
        study_dir = self.dir / name.study_dir if folder is None else folder / name.patient / name.study
        if name.file:
            return [study_dir / name.file]
        return sorted(study_dir.glob("view*")) or [study_dir / "view1_frontal.jpg"]  # missing: the stage counts it


def _find_release(path: Path, train_table: str) -> _Release:
    """The release in a folder or in one of its children."""
    children = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    found = [folder for folder in (path, *children) if _first(folder, ("valid.csv", "train.csv")) is not None]
    found = found[:1] if path in found else found
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found)
        raise InputError(
            f"holds {len(found)} folders with train.csv and valid.csv{f' ({names})' if names else ''}",
            where=path.name,
            remedy="Give the path of CheXpert-v1.0 or CheXpert-v1.0-small.",
        )
    folder = found[0]
    # train_cheXbert.csv and train_visualCheXbert.csv come beside the release's folder, not in it.
    train = _first(folder, (train_table,)) or _first(path, (train_table,))
    if train is None:
        raise InputError("is missing", where=f"{folder.name}/{train_table}", remedy="Copy it from the download.")
    tables: dict[Part, Path] = {"train": train}
    if (valid := _first(folder, _VALID_TABLES)) is not None:
        tables["valid"] = valid
    if (test := _first(folder, _TEST_TABLES)) is not None:
        tables["test"] = test
    return _Release(folder, tables, _batches(path) if not (folder / "train").is_dir() else {})


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _batches(path: Path) -> dict[str, Path]:
    """The patients of "CheXpert-v1.0 batch 2 (train 1)" and its sisters, as the large download unpacks."""
    folders = sorted(path.glob("CheXpert-v1.0 batch *(train *)"))
    return {patient.name: folder for folder in folders for patient in folder.iterdir() if patient.is_dir()}


def _rows(release: _Release, part: Part, problems: Problems) -> Iterator[_Row]:
    path = release.tables[part]
    column = "Study" if path.name == "groundtruth.csv" else "Path"
    # The test set's tables tell neither age nor sex, and need not have what the competition did not score.
    required = OBSERVATIONS_5 if part == "test" else OBSERVATIONS
    optional = [name for name in (*_ABOUT, *OBSERVATIONS) if name not in required]
    for line, cells in stream(path, (column, *required), optional):
        name = parse_image_name(cells[column])
        if name is None or name.part not in _FOLDERS[part] or (column == "Path" and not name.file):
            problems.add(line, f"{column} is not .../{part}/patient<n>/study<n>/<image>", path.name)
        else:
            yield _Row(part, path.name, line, name, cells)


def _study(row: _Row, parts: Collection[Part], config: CheXpertStudies, problems: Problems) -> Study:
    return Study(
        study_id=f"{row.name.patient_id}-{row.name.study}",
        patient_id=row.name.patient_id,
        split=split_of_part(row.part, row.name.patient_id, parts, config),
        images=(),
        source="CheXpert",
        sex=sex_code(row.cells.get("Sex", "")),
        age=cell(row.cells, "Age", float),
        labels=label_columns(row.cells, row.line, problems, row.file),
    )
