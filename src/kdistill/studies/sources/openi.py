"""Indiana University chest films with reports (Open-i): the original XML and images, or the two Kaggle tables.

Neither layout names patients: every report is taken for a patient of its own. The XML does not say which film of a
report is the frontal one either; `indiana_projections.csv` (made by others, by eye) does, and is used where it lies
beside the reports.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.records import Study
from kdistill.studies.config import OpeniStudies
from kdistill.studies.sources.common import SourceImage, SourceStudy, SourceTable
from kdistill.studies.sources.openi_reports import LeftOut, OpeniReport, iter_reports
from kdistill.studies.sources.openi_terms import labels_of_terms
from kdistill.studies.table import Problems, read_rows, split_of

#: Where the reports and images usually lie: as the NLM archives unpack, and as the Kaggle copy does.
REPORTS: Final = (
    *("ecgen-radiology", "NLMCXR_reports", "NLMCXR_reports.tgz", "NLMCXR_reports.tar.gz"),
    *("ecgen-radiology.tar.gz", "ecgen-radiology.tgz"),
)
IMAGES: Final = ("NLMCXR_png", "NLMCXR_dcm", "images/images_normalized", "images_normalized", "images")
KAGGLE_REPORTS: Final = "indiana_reports.csv"
KAGGLE_VIEWS: Final = "indiana_projections.csv"
_ENDING: Final = re.compile(r"(?:\.(?:png|dcm|jpe?g))+$", re.IGNORECASE)
_TWICE: Final = re.compile(r"^(\d+)_(?=\1_)")
_WORD: Final = re.compile(r"[^\W\d_]+")


def read_openi(config: OpeniStudies) -> SourceTable:
    """Read the reports and find their images.

    Left out by reason: files that are no report, reports without an image, reports without findings and impression, or
    of placeholders (XXXX) only. Placeholders inside a text stay; the studies that have them are counted.

    Raises:
        InputError: Reports or images are not where they should be, or a table is wrong.
    """
    folder = Path(config.path)
    films = _index_files(_image_folder(folder, config))
    table = SourceTable([], counts=Counter({"reports_with_placeholders": 0}))
    views, by_report = _projections(folder / KAGGLE_VIEWS)
    seen: set[str] = set()
    for report in _reports(folder, config, by_report):
        reason = report.reason if isinstance(report, LeftOut) else _reason_to_leave(report, seen)
        if isinstance(report, LeftOut) or reason:
            table.left_out.append((report[0], reason or ""))
            continue
        seen.add(report.uid)
        table.counts["reports_with_placeholders"] += "XXXX" in report.findings + report.impression
        table.studies.append(_study(report, config, films, views))
    table.studies.sort(key=lambda item: (len(item.study.study_id), item.study.study_id))
    return table


def film_key(name: str) -> str:
    """One name for a film, however it is written: parentImage's id, the PNG, the DICOM, the Kaggle copy.

    >>> [film_key(n) for n in ("CXR1_1_IM-0001-3001", "1_IM-0001-3001.dcm.png", "CXR10_IM-0002-1001.png")]
    ['1_IM-0001-3001', '1_IM-0001-3001', '10_IM-0002-1001']
    """
    stem = _ENDING.sub("", name)
    return _TWICE.sub("", stem.removeprefix("CXR"))


def _image_folder(folder: Path, config: OpeniStudies) -> Path:
    found = _first(folder, (config.images,) if config.images else IMAGES)
    if found is None or not found.is_dir():
        raise InputError(
            "has no folder of images",
            where=folder.name,
            remedy=f"Unpack NLMCXR_png.tgz there (DATA.md), or set studies.images; looked for {', '.join(IMAGES)}.",
        )
    return found


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _index_files(images: Path) -> dict[str, Path]:
    """film_key -> file, of every image below the folder (NLMCXR_dcm has a folder a report).

    The key "" is where a film that is not there is said to be missing.
    """
    found: dict[str, Path] = {"": images}
    for parent, folders, names in os.walk(images):
        folders.sort()
        for name in sorted(names):
            if _ENDING.search(name):
                found.setdefault(film_key(name), Path(parent) / name)
    return found


def _projections(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """film_key -> view, and uid -> its films in the table's order; empty without the table."""
    views: dict[str, str] = {}
    films: dict[str, list[str]] = {}
    if not path.is_file():
        return views, films
    problems = Problems(path.name)
    for line, row in read_rows(path, ("uid", "filename", "projection")):
        if row["projection"].lower() not in ("frontal", "lateral"):
            problems.add(line, f"projection {row['projection']!r} is not Frontal or Lateral")
        views[film_key(row["filename"])] = row["projection"].upper()
        films.setdefault(row["uid"], []).append(row["filename"])
    problems.raise_if_any("Mend these lines of the table.")
    return views, films


def _reports(folder: Path, config: OpeniStudies, films: dict[str, list[str]]) -> Iterator[OpeniReport | LeftOut]:
    """The XML reports, else those of the Kaggle table (which needs its table of projections for the films)."""
    found = _first(folder, (config.reports,) if config.reports else REPORTS)
    if found is not None:
        return iter_reports(found, config.max_archive_mb)
    if (folder / KAGGLE_REPORTS).is_file() and films:
        return _kaggle_reports(folder / KAGGLE_REPORTS, films)
    raise InputError(
        "has no reports",
        where=folder.name,
        remedy=f"Put NLMCXR_reports.tgz there (DATA.md), or {KAGGLE_REPORTS} and {KAGGLE_VIEWS}; looked for "
        f"{', '.join(REPORTS)}.",
    )


def _kaggle_reports(path: Path, films: dict[str, list[str]]) -> Iterator[OpeniReport]:
    for _, row in read_rows(path, ("uid", "MeSH", "indication", "comparison", "findings", "impression")):
        yield OpeniReport(
            f"CXR{row['uid']}",
            comparison=row["comparison"],
            indication=row["indication"],
            findings=row["findings"],
            impression=row["impression"],
            terms=tuple(term.strip() for term in row["MeSH"].split(";") if term.strip()),
            image_ids=tuple(films.get(row["uid"], ())),
        )


def _reason_to_leave(report: OpeniReport, seen: set[str]) -> str | None:
    if report.uid in seen:
        return "duplicate_report"
    if not report.image_ids:
        return "report_without_image"
    words = _WORD.findall(report.findings + " " + report.impression)
    if not words:
        return "report_empty"
    return None if any(word.strip("xX") for word in words) else "report_of_placeholders_only"


def _study(report: OpeniReport, config: OpeniStudies, films: dict[str, Path], views: dict[str, str]) -> SourceStudy:
    study_id = f"openi-{report.uid}"
    study = Study(
        study_id=study_id,
        patient_id=study_id,
        split=split_of(study_id, validate_share=config.validate_share, test_share=config.test_share),
        images=(),
        source=Path(config.path).resolve().name,
        indication=report.indication,
        findings=report.findings,
        impression=report.impression,
        labels=(labels_of_terms(report.terms) or None) if config.mesh_labels else None,
    )
    keys = [film_key(name) for name in report.image_ids]
    return SourceStudy(
        study,
        [SourceImage(films.get(key, films[""] / f"CXR{key}.png"), views.get(key), dicom_id=key) for key in keys],
    )
