"""COVID-19 Image Data Collection (Cohen et al. 2020, arXiv:2006.11988): images with free clinical notes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kdistill.records import Study
from kdistill.studies.config import CovidNotesStudies
from kdistill.studies.sources.common import SourceImage, SourceStudy, SourceTable, is_frontal
from kdistill.studies.table import Problems, cell, read_rows, split_of

#: CT findings are not findings of the radiograph beside them.
_ABOUT_CT: Final = re.compile(r"\bH?R?CTs?\b|\bCT[- ]?scan|tomograph", re.IGNORECASE)


def read_covid_notes(config: CovidNotesStudies) -> SourceTable:
    """Read the COVID-19 Image Data Collection: images with free clinical notes, taken as findings.

    Left out by reason: a note about a CT, an empty note, a view that is not frontal.

    Raises:
        InputError: The table cannot be read.
    """
    folder = Path(config.path)
    table = SourceTable([])
    problems = Problems("metadata.csv")
    for line, row in read_rows(folder / "metadata.csv", ("image", "patientid", "clinical_notes")):
        if not row["image"] or not row["patientid"] or os.path.normpath(row["image"]).startswith(("..", "/")):
            problems.add(line, "image and patientid must not be empty, and the image must lie in the folder")
            continue
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
        table.studies.append(SourceStudy(study, [SourceImage(folder / row["image"], study.view_position)]))
    problems.raise_if_any("Mend these lines of the table.")
    return table


def _reason_to_leave(note: str, view: str) -> str | None:
    if not note:
        return "no_clinical_note"
    if _ABOUT_CT.search(note):
        return "note_describes_ct"
    return "view_not_frontal" if is_frontal(view) is False else None
