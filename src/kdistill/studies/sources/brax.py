"""BRAX (Reis et al. 2022, doi:10.1038/s41597-022-01608-8): Brazilian images with labels; the reports are not public."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.observations import OBSERVATIONS
from kdistill.records import Study
from kdistill.studies.config import BraxStudies
from kdistill.studies.sources.chexpert_format import label_columns, sex_code, stream
from kdistill.studies.sources.common import SourceImage, SourceTable
from kdistill.studies.sources.gather import Gathered
from kdistill.studies.table import Problems, split_of

#: Version 1.1.0 and 1.0.0.
_TABLES: Final = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")
_COLUMNS: Final = ("PatientID", "PatientSex", "PatientAge", "AccessionNumber", "ViewPosition")


def read_brax(config: BraxStudies) -> SourceTable:
    """Read BRAX: studies by patient and accession number, split by patient hash (there is no official split).

    Left out by reason: a study whose images carry different labels.

    Raises:
        InputError: The table is missing, or all its mistakes with their lines.
    """
    folder = Path(config.path)
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise InputError(f"holds no {_TABLES[0]}", where=folder.name, remedy="Give the folder brax/1.1.0.")
    column = "PngPath" if config.images == "png" else "DicomPath"
    problems = Problems(table.name)
    gathered = Gathered()
    for line, row in stream(table, (column, *_COLUMNS, *OBSERVATIONS)):
        if not row["PatientID"] or not row["AccessionNumber"] or not row[column]:
            problems.add(line, f"PatientID, AccessionNumber and {column} must not be empty")
        elif os.path.normpath(row[column]).startswith(("..", "/")):
            problems.add(line, f"{column} leads out of the folder")
        else:
            view = row["ViewPosition"] or None
            gathered.add(_study(row, line, config, problems), SourceImage(folder / row[column], view), line, problems)
    problems.raise_if_any("Mend these lines, or download the table again.")
    return gathered.table()


def _study(row: dict[str, str], line: int, config: BraxStudies, problems: Problems) -> Study:
    patient_id = f"brax-{row['PatientID']}"
    return Study(
        study_id=f"{patient_id}-{row['AccessionNumber']}",
        patient_id=patient_id,
        split=split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share),
        images=(),
        source="BRAX",
        sex=sex_code(row["PatientSex"]),
        age=_youngest(row["PatientAge"]),
        labels=label_columns(row, line, problems),
    )


def _youngest(age_group: str) -> float | None:
    """Ages come in groups of five years; the lower end of one.

    >>> _youngest("85 or more"), _youngest("40"), _youngest("")
    (85.0, 40.0, None)
    """
    found = re.search(r"\d+", age_group)
    return float(found[0]) if found else None
