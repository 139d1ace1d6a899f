"""MIMIC-CXR-JPG and MIMIC-CXR (DICOM) in the layout of PhysioNet: tables, files and reports -> studies.

Source: Johnson et al. 2019, Scientific Data 6:317 (doi:10.1038/s41597-019-0322-0) and arXiv:1901.07042; file names as
in `mimic_tables` and `mimic_reports`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from kdistill.artifact import sha256_file
from kdistill.errors import InputError, LeakageError
from kdistill.observations import Labels
from kdistill.records import Split, Study
from kdistill.sections import Sections
from kdistill.studies.config import MimicDicomStudies, MimicJpgStudies
from kdistill.studies.sources.common import (
    SourceImage,
    SourceStudy,
    SourceTable,
    refuse_shared_patients,
    stated_or_hashed_split,
)
from kdistill.studies.sources.mimic_reports import (
    Report,
    ReportFault,
    Reports,
    find_archive,
    open_reports,
    read_sections,
)
from kdistill.studies.sources.mimic_tables import (
    LABELS,
    METADATA,
    RECORDS,
    SPLIT,
    Gathered,
    ImageRow,
    MimicConfig,
    When,
    join_metadata,
    needed_tables,
    parse_when,
    read_labels,
    read_metadata,
    read_records,
    read_splits,
    read_study_list,
)

#: Reasons that say that files are not there: too many of them mean a partial copy, not a few bad files.
_INCOMPLETE: Final = frozenset({"no_image_file", "report_missing"})


def read_mimic(config: MimicConfig) -> SourceTable:
    """Read MIMIC-CXR: one study for each study_id, ids as its folders have them (p10000032, s50414267).

    Left out by reason: images without a file (image_file_missing) or a split (image_without_split), studies without an
    image left (no_image_file, no_image_with_split), without a report (report_missing, report_unreadable,
    report_without_findings), and rows of tables on images or studies that no table of images lists.

    Raises:
        InputError: A table is missing, damaged or contradicts another one; the reports cannot be opened; more studies
            than max_rejected_share have no file.
        LeakageError: A patient stands in two splits.
    """
    gathered = Gathered()
    found = {path.name.split(".csv")[0]: path for path in needed_tables(config)}
    images = _images(config, found, gathered)
    studies = _by_study(images)
    splits = read_splits(found[SPLIT], images, config, gathered) if SPLIT in found else None
    if splits is not None:
        _refuse_divided_studies(studies, splits)
    labels = read_labels(found[LABELS[config.labels]], config, gathered) if config.labels != "none" else None
    priors = _priors(studies)
    kept: list[SourceStudy] = []
    with _reports(config) as reports:
        for study_id, rows in studies.items():
            item = _study(config, rows, splits, labels, reports, priors.get(study_id), gathered)
            if item is not None:
                kept.append(item)
    refuse_shared_patients([item.study for item in kept])
    _refuse_partial_copy(config, len(studies), gathered)
    return SourceTable(kept, gathered.left_out, gathered.counts)


def _images(config: MimicConfig, found: Mapping[str, Path], gathered: Gathered) -> dict[str, ImageRow]:
    match config:
        case MimicJpgStudies():
            return read_metadata(found[METADATA], config, gathered)
        case MimicDicomStudies():
            images = read_records(found[RECORDS], config, gathered)
            read_study_list(config, gathered)
            if config.views_from == "metadata":
                join_metadata(found[METADATA], images, config, gathered)
            else:
                _join_headers(config, images, gathered)
            return images


def _join_headers(config: MimicDicomStudies, images: dict[str, ImageRow], gathered: Gathered) -> None:
    """Views and dates from the files themselves; a header that cannot be read leaves them unknown."""
    from kdistill.studies.dicom import read_header

    for dicom_id, row in images.items():
        try:
            header = read_header(_image_path(config, row), ("ViewPosition", "StudyDate", "StudyTime"))
        except InputError:
            gathered.counts["images_without_header"] += 1
            continue
        try:
            when = parse_when(header["StudyDate"], header["StudyTime"])
        except ValueError:
            gathered.counts["images_without_date"] += 1
            when = None
        images[dicom_id] = replace(row, view=header["ViewPosition"] or None, when=when)


def _image_path(config: MimicConfig, row: ImageRow) -> Path:
    ending = "jpg" if isinstance(config, MimicJpgStudies) else "dcm"
    return Path(config.path) / row.study_dir / f"{row.dicom_id}.{ending}"


def _by_study(images: Mapping[str, ImageRow]) -> dict[str, list[ImageRow]]:
    studies: dict[str, list[ImageRow]] = {}
    for row in images.values():
        studies.setdefault(row.study_id, []).append(row)
    return studies


def _priors(studies: Mapping[str, Sequence[ImageRow]]) -> dict[str, str]:
    """study_id -> the nearest study of the same patient that is strictly earlier; undated studies take no part.

    All listed studies count, also those left out later: a report compares with them all the same.
    """
    dated: dict[str, list[tuple[When, str]]] = {}
    for study_id, rows in studies.items():
        times = [row.when for row in rows if row.when is not None]
        if times:
            dated.setdefault(rows[0].subject_id, []).append((min(times), study_id))
    priors: dict[str, str] = {}
    for course in dated.values():
        course.sort()
        for (when, study_id), (before, earlier) in zip(course[1:], course, strict=False):
            # Of two studies at the same time neither is earlier: both have the prior of the first.
            prior = earlier if before < when else priors.get(earlier)
            if prior is not None:
                priors[study_id] = prior
    return priors


def _reports(config: MimicConfig) -> contextlib.AbstractContextManager[Reports | None]:
    place = _reports_place(config)
    return open_reports(place) if place else contextlib.nullcontext()


def _reports_place(config: MimicConfig) -> Path | None:
    """Where the reports are; the JPG set has none of its own."""
    match config:
        case MimicJpgStudies():
            return Path(config.reports_path) if config.reports_path else None
        case MimicDicomStudies():
            return Path(config.reports_path or config.path)


def _study(
    config: MimicConfig,
    rows: Sequence[ImageRow],
    splits: Mapping[str, Split] | None,
    labels: Mapping[str, Labels] | None,
    reports: Reports | None,
    prior: str | None,
    gathered: Gathered,
) -> SourceStudy | None:
    first = rows[0]
    images = _usable_images(config, rows, splits, gathered)
    if not images:
        return None
    report = _report(first, reports, gathered)
    if reports is not None and report is None:
        return None
    if labels is not None and first.study_id not in labels:
        gathered.counts["studies_without_label_row"] += 1
    sections = report.sections if report else Sections()
    study = Study(
        study_id=f"s{first.study_id}",
        patient_id=f"p{first.subject_id}",
        split=stated_or_hashed_split(splits[images[0].dicom_id] if splits else "", f"p{first.subject_id}", config),
        images=(),
        source=config.kind,
        indication=sections.indication,
        findings=sections.findings,
        impression=sections.impression,
        labels=(labels or {}).get(first.study_id),
        prior_study_id=f"s{prior}" if prior else None,
    )
    return SourceStudy(study, [SourceImage(_image_path(config, row), row.view, row.dicom_id) for row in images])


def _usable_images(
    config: MimicConfig, rows: Sequence[ImageRow], splits: Mapping[str, Split] | None, gathered: Gathered
) -> list[ImageRow]:
    """The images with a file and, where splits are official, a split; the others, and a study of none, are named."""
    there = [row for row in rows if _image_path(config, row).is_file()]
    usable = [row for row in there if splits is None or row.dicom_id in splits]
    gathered.left_out += [(row.dicom_id, "image_file_missing") for row in rows if row not in there]
    gathered.left_out += [(row.dicom_id, "image_without_split") for row in there if row not in usable]
    if not usable:
        reason = "no_image_with_split" if there else "no_image_file"
        gathered.left_out.append((f"s{rows[0].study_id}", reason))
    return usable


def _report(row: ImageRow, reports: Reports | None, gathered: Gathered) -> Report | None:
    """A study's report; one that is missing, unreadable or says nothing is named."""
    if reports is None:
        return None
    try:
        report = read_sections(reports.read(row.subject_id, row.study_id))
    except ReportFault as fault:
        gathered.left_out.append((f"s{row.study_id}", fault.reason))
        return None
    gathered.counts["reports_with_addendum"] += report.has_addendum
    gathered.counts["reports_with_wet_read"] += report.has_wet_read
    if not report.sections.evidence:
        gathered.left_out.append((f"s{row.study_id}", "report_without_findings"))
        return None
    return report


def _refuse_divided_studies(studies: Mapping[str, Sequence[ImageRow]], splits: Mapping[str, Split]) -> None:
    divided = sum(
        len({splits[row.dicom_id] for row in rows if row.dicom_id in splits}) > 1 for rows in studies.values()
    )
    if divided:
        raise LeakageError(
            f"{divided} studies have images in more than one split",
            remedy="Download mimic-cxr-2.0.0-split.csv.gz again, or set split: hash.",
        )


def _refuse_partial_copy(config: MimicConfig, listed: int, gathered: Gathered) -> None:
    missing = Counter(reason for _, reason in gathered.left_out if reason in _INCOMPLETE)
    if listed and missing.total() > config.max_rejected_share * listed:
        raise InputError(
            f"of {listed} listed studies {missing['no_image_file']} have no image file and "
            f"{missing['report_missing']} no report",
            where=Path(config.path).name,
            remedy="Finish the download; for a part of it name its patient folders in groups ([p10]), or raise "
            f"max_rejected_share ({config.max_rejected_share}).",
        )


def fingerprint_mimic(config: MimicConfig) -> str:
    """What tells that a copy of MIMIC-CXR changed, without walking its 377,000 images: the content of the tables, the
    archive's size, and the names of the patients' folders. A file that arrives later in a patient's folder that was
    there already is not seen: a finished stage stays as it is until `--fresh`.
    """
    digest = hashlib.sha256()
    with contextlib.suppress(InputError):  # what is missing is said when the stage is made
        for table in needed_tables(config):
            digest.update(f"{table.name}\0{sha256_file(table)}\0".encode())
    place = _reports_place(config)
    archive = find_archive(place) if place else None
    if archive is not None and archive.is_file():
        digest.update(f"{archive.name}\0{archive.stat().st_size}\0".encode())
    for root in (Path(config.path) / "files", *([place / "files"] if place and archive is None else [])):
        for group in sorted(root.glob("p1[0-9]")):
            if config.groups is None or group.name in config.groups:
                digest.update("\0".join([group.name, *sorted(entry.name for entry in group.iterdir())]).encode())
    return digest.hexdigest()
