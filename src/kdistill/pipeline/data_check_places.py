"""Where in a table something stands: a line number, never an id of a patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdistill.studies.config import CovidNotesStudies, FileSource, FolderStudies, NihStudies
from kdistill.studies.sources.common import SourceStudy, SourceTable
from kdistill.studies.table import read_rows

_MAX_PLACES: Final = 50


def places_of(tables: Sequence[tuple[FileSource, SourceTable]]) -> dict[str, str]:
    """Image path -> where its row stands ("studies.csv line 12"; with the folder's name where there are several).

    A source without one table of its images gives the study's id, or, where that holds the patient's, its number in the
    order of reading.
    """
    found: dict[str, str] = {}
    for source, table in tables:
        name = f"{Path(source.path).name}/" if len(tables) > 1 else ""
        lines = _lines(source)
        for number, item in enumerate(table.studies, start=1):
            for image in item.images:
                line = lines.get(str(image.path))
                found[str(image.path)] = f"{name}{line}" if line else f"{name}{_unnumbered(item, number)}"
    return found


def _lines(source: FileSource) -> dict[str, str]:
    match source:
        case FolderStudies():
            table, column = "studies.csv", "image_path"
        case NihStudies() if not (Path(source.path) / "labels.csv").is_file():
            return {}  # the official download
        case NihStudies():
            table, column = "labels.csv", "image"
        case CovidNotesStudies():
            table, column = "metadata.csv", "image"
        case _:
            return {}
    folder = Path(source.path)
    return {str(folder / row[column]): f"{table} line {line}" for line, row in read_rows(folder / table, (column,))}


def _unnumbered(item: SourceStudy, number: int) -> str:
    patient = item.study.patient_id
    bare = patient.rpartition("-")[2] or patient
    return f"study {number}" if bare in item.study.study_id else f"study {item.study.study_id}"


def lines_of_shared_patients(folder: Path) -> list[str]:
    """For each patient of studies.csv who stands in two splits: the lines of each split."""
    splits: dict[str, dict[str, list[int]]] = {}
    for line, row in read_rows(folder / "studies.csv", ("patient_id",)):
        splits.setdefault(row["patient_id"], {}).setdefault(row.get("split", ""), []).append(line)
    return [
        "one patient: " + "; ".join(f"{split} in {listed([f'line {n}' for n in lines])}" for split, lines in by.items())
        for by in splits.values()
        if len(by) > 1
    ]


def listed(places: Sequence[str]) -> str:
    """Places as text: "studies.csv lines 3, 5 and 40 more", "files 3, 5" (the first 50)."""
    shown = list(places[:_MAX_PLACES])
    heads = {place.rpartition(" ")[0] for place in shown}
    if len(shown) > 1 and len(heads) == 1 and (head := heads.pop()).endswith(("line", "file")):
        text = f"{head}s " + ", ".join(place.rpartition(" ")[2] for place in shown)
    else:
        text = ", ".join(shown)
    more = len(places) - len(shown)
    return text + (f" and {more} more" if more > 0 else "")
