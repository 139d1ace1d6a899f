"""PadChest (Bustos et al. 2020, arXiv:1901.07441): 160,000 films of one Spanish hospital, labels from their reports.

Columns as in the authors' description (github.com/auriml/Rx-thorax-automatic-captioning, README.md).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kdistill.errors import InputError
from kdistill.records import Study
from kdistill.studies.config import PadChestStudies
from kdistill.studies.sources.common import SourceImage, SourceStudy, SourceTable
from kdistill.studies.sources.padchest_labels import UNUSABLE, columns_of, parse_labels
from kdistill.studies.table import Problems, read_columns, split_of

_NAME: Final = "PADCHEST_chest_x_ray_images_labels_160K"
TABLES: Final = (f"{_NAME}_01.02.19.csv", f"{_NAME}_01.02.19.csv.gz", f"{_NAME}.csv", f"{_NAME}.csv.gz")
COLUMNS: Final = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("Projection", "Pediatric", "MethodLabel", "Report", "Labels"),
)
#: Projection -> view position. COSTAL (ribs, abdomen cut off or seen through) and EXCLUDE are no chest films.
VIEWS: Final = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP_horizontal", "L": "LATERAL"}
_PHYSICIAN: Final = "physician"


@dataclass
class _Row:
    """The columns of one image."""

    image_id: str
    image_dir: str
    date: str
    study_id: str
    patient_id: str
    birth: str
    sex: str
    projection: str
    pediatric: str
    method: str
    report: str
    labels: str

    @property
    def study_year(self) -> int | None:
        return int(self.date[:4]) if self.date[:8].isdigit() and len(self.date) >= 8 else None

    @property
    def age(self) -> float | None:
        """Years, from the year of birth: right to one year."""
        try:
            age = (self.study_year or float("nan")) - float(self.birth)
        except ValueError:
            return None
        return age if 0 <= age < 130 else None


def read_padchest(config: PadChestStudies) -> SourceTable:
    """Read PadChest: images, labels of the 14 where the mapping is sound, and which study is a patient's previous one.

    Left out by reason: other projections, paediatric images, images without labels or labelled as unusable, studies
    that say nothing but "unchanged", and on request those that no physician labelled. The Spanish report is not handed
    on unless asked for; that is counted.

    Raises:
        InputError: The table is not there or wrong (all problems with line numbers).
    """
    path = _table(config)
    root = Path(config.path) / config.images
    table = SourceTable([], counts=Counter({"spanish_reports_left_out": 0}))
    problems = Problems(path.name)
    found: dict[str, SourceStudy] = {}
    dates: dict[str, str] = {}
    for line, values in read_columns(path, COLUMNS):
        row = _Row(*values)
        if what := _mistake(row):
            problems.add(line, what)
            continue
        if reason := _reason_to_leave(row, config):
            table.left_out.append((f"{path.name} line {line}", reason))
            continue
        image = SourceImage(_file(root, row), VIEWS[row.projection], Path(row.image_id).stem)
        if row.study_id not in found:
            found[row.study_id], dates[row.study_id] = _study(row, config), row.date
            table.counts["spanish_reports_left_out"] += bool(row.report) and config.spanish_report == "leave_out"
        elif found[row.study_id].study.patient_id != _patient(row):
            problems.add(line, "the study stands above with another patient")
        found[row.study_id].images.append(image)
    problems.raise_if_any("Mend these lines of the table.")
    table.studies = _with_priors(found, dates)
    return table


def _table(config: PadChestStudies) -> Path:
    folder = Path(config.path)
    names = (config.table,) if config.table else TABLES
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        "has no PadChest table",
        where=folder.name,
        remedy=f"Put it there (DATA.md), or name it with studies.table; looked for {', '.join(names)}.",
    )


def _mistake(row: _Row) -> str | None:
    if not row.image_id or not row.study_id or not row.patient_id:
        return "ImageID, StudyID and PatientID must not be empty"
    if any(part in ("..", ".") or "/" in part or "\\" in part for part in (row.image_id, row.image_dir)):
        return "ImageID or ImageDir is a path, not a name"
    try:
        parse_labels(row.labels)
    except ValueError as error:
        return f"Labels {error}"
    return None


def _reason_to_leave(row: _Row, config: PadChestStudies) -> str | None:
    if row.projection not in VIEWS:
        known = row.projection.lower() in ("costal", "exclude")
        return f"projection_{row.projection.lower()}" if known else "projection_unknown"
    if row.pediatric.upper() == "PED" and config.paediatric == "leave_out":
        return "paediatric"
    if config.labelled_by == "physician" and row.method.lower() != _PHYSICIAN:
        return "not_labelled_by_a_physician"
    labels = parse_labels(row.labels)
    if not labels:
        return "no_labels"
    if unusable := [reason for label, reason in UNUSABLE.items() if label in labels]:
        return unusable[0]
    return "only_unchanged" if not any(state is not None for state in columns_of(labels).values()) else None


def _file(root: Path, row: _Row) -> Path:
    """In its numbered folder, or all images in one folder (as copies of smaller images often are)."""
    numbered = root / row.image_dir.removesuffix(".0")
    return (numbered if row.image_dir and numbered.is_dir() else root) / row.image_id


def _patient(row: _Row) -> str:
    return f"padchest-{row.patient_id}"


def _study(row: _Row, config: PadChestStudies) -> SourceStudy:
    patient_id = _patient(row)
    study = Study(
        study_id=f"padchest-{row.study_id}",
        patient_id=patient_id,
        split=split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share),
        images=(),
        source=Path(config.path).resolve().name,
        sex=row.sex if row.sex in ("M", "F") else None,
        age=row.age,
        findings=row.report if config.spanish_report == "findings" else "",
        labels=columns_of(parse_labels(row.labels) or ()),
    )
    return SourceStudy(study, [])


def _with_priors(found: dict[str, SourceStudy], dates: dict[str, str]) -> list[SourceStudy]:
    """Name each study's previous one: the same patient's latest of an earlier day among those that were kept."""
    by_patient: dict[str, list[tuple[str, SourceStudy]]] = {}
    for study_id, item in found.items():
        by_patient.setdefault(item.study.patient_id, []).append((dates[study_id], item))
    for items in by_patient.values():
        for date, item in items:
            earlier = [(other, before.study.study_id) for other, before in items if other.isdigit() and other < date]
            if date.isdigit() and earlier:
                item.study = item.study.model_copy(update={"prior_study_id": max(earlier)[1]})
    return list(found.values())
