"""Small directories in the exact layout of MIMIC-CXR-JPG and MIMIC-CXR, with drawn images and texts of our own."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kdistill.observations import LabelState

from .test_dicom import dicom

METADATA_COLUMNS = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]
#: The labeler tables sort their columns by name.
LABEL_COLUMNS = [
    "subject_id", "study_id", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
]  # fmt: skip
STATES: dict[LabelState, str] = {1: "1.0", 0: "0.0", -1: "-1.0", None: ""}

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___-year-old woman with cough.

 COMPARISON:  ___.

 FINDINGS:

 There is a small left pleural
 effusion.  The heart is normal, as on ___.

 IMPRESSION:

 Small left effusion.
"""
CLEAR = """                                 FINAL REPORT
 INDICATION:  Fever.

 FINDINGS:  The lungs are clear.

 IMPRESSION:  No acute process.
"""


@dataclass(frozen=True)
class Exam:
    """One study: views in the metadata's order; one date for all of them."""

    subject: str
    study: str
    split: str = "train"
    views: tuple[str, ...] = ("PA",)
    date: str = "21800506"
    time: str = "213014.531"
    report: str | None = REPORT
    labels: dict[str, LabelState] | None = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return f"files/p{self.subject[:2]}/p{self.subject}/s{self.study}"

    def dicom_id(self, number: int) -> str:
        """Five groups of eight hexadecimal digits."""
        return f"{int(self.study):08x}-{number:08x}-0000abcd-12345678-9abcdef0"


#: Two patients of p10, one of p11; the second study is the earliest of its patient.
EXAMS = (
    Exam("10000032", "50414267", views=("LATERAL", "PA"), labels={"Pleural Effusion": 1, "Pneumonia": 0, "Edema": -1}),
    Exam("10000032", "53189527", date="21800506", time="80556.875", report=CLEAR, labels={"No Finding": 1}),
    Exam("10000032", "51911762", date="21800723", time="80556.0", report=CLEAR, views=("AP",)),
    Exam("10000764", "57375967", "validate", views=("LL", "AP"), labels=None),
    Exam("11000011", "58000001", "test", report=CLEAR, labels={"Support Devices": 1}),
)


def film(seed: int, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    """Grey noise over a gradient, different for each seed."""
    noise = np.random.default_rng(seed).normal(0, 20, size)
    return np.clip(np.linspace(30, 220, size[0])[:, None] + noise, 0, 255).astype(np.uint8)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]], gz: bool = True) -> Path:
    """Write a CSV, gzipped under its official name or plain."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    path = path.with_name(path.name + (".csv.gz" if gz else ".csv"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode()) if gz else text.getvalue().encode())
    return path


def write_tables(
    root: Path, exams: Sequence[Exam] = EXAMS, *, gz: bool = True, labelers: Sequence[str] = ("chexpert",)
):
    """The tables that come with MIMIC-CXR-JPG."""
    listed = [(exam, exam.dicom_id(n), view) for exam in exams for n, view in enumerate(exam.views)]
    metadata = [
        [dicom_id, e.subject, e.study, "CHEST (PA AND LAT)", view, 48, 40, e.date, e.time, "", view.lower(), "Erect"]
        for e, dicom_id, view in listed
    ]
    write_table(root / "mimic-cxr-2.0.0-metadata", METADATA_COLUMNS, metadata, gz)
    splits = [[dicom_id, e.study, e.subject, e.split] for e, dicom_id, _ in listed]
    write_table(root / "mimic-cxr-2.0.0-split", ["dicom_id", "study_id", "subject_id", "split"], splits, gz)
    rows = [
        [e.subject, e.study, *(STATES[e.labels.get(name)] for name in LABEL_COLUMNS[2:])]
        for e in exams
        if e.labels is not None
    ]
    for labeler in labelers:
        write_table(root / f"mimic-cxr-2.0.0-{labeler}", LABEL_COLUMNS, rows, gz)


def write_jpg(root: Path, exams: Sequence[Exam] = EXAMS, *, gz: bool = True, labelers: Sequence[str] = ("chexpert",)):
    """mimic-cxr-jpg: tables and images."""
    write_tables(root, exams, gz=gz, labelers=labelers)
    for exam in exams:
        for number in range(len(exam.views)):
            path = root / exam.folder / f"{exam.dicom_id(number)}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(film(int(exam.study) + number)).save(path, quality=95)
    return root


def write_dicom(root: Path, exams: Sequence[Exam] = EXAMS):
    """mimic-cxr: record list, study list and DICOM files; `write_reports` adds the reports."""
    records, studies = [], []
    for exam in exams:
        studies.append([exam.subject, exam.study, f"{exam.folder}.txt"])
        for number, view in enumerate(exam.views):
            path = root / exam.folder / f"{exam.dicom_id(number)}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = film(int(exam.study) + number).astype(np.int64) * 16
            hours, _, fraction = exam.time.partition(".")
            time = f"{hours.zfill(6)}.{fraction}"  # a header keeps the zeros that the metadata table lost
            path.write_bytes(dicom(pixels, ViewPosition=view or None, StudyDate=exam.date, StudyTime=time))
            records.append([exam.subject, exam.study, exam.dicom_id(number), path.relative_to(root).as_posix()])
    write_table(root / "cxr-record-list", ["subject_id", "study_id", "dicom_id", "path"], records)
    write_table(root / "cxr-study-list", ["subject_id", "study_id", "path"], studies)
    return root


def write_reports(root: Path, exams: Sequence[Exam] = EXAMS) -> Path:
    """The reports as files: files/p10/p10000032/s50414267.txt."""
    for exam in exams:
        if exam.report is not None:
            path = root / f"{exam.folder}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(exam.report, encoding="utf-8")
    return root


def write_archive(path: Path, exams: Sequence[Exam] = EXAMS, more: dict[str, bytes] | None = None) -> Path:
    """The reports as mimic-cxr-reports.zip, with other members if asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files/p10/", b"")
        for exam in exams:
            if exam.report is not None:
                archive.writestr(f"{exam.folder}.txt", exam.report)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return path


def changed(number: int, **changes: object) -> tuple[Exam, ...]:
    """EXAMS with one study changed."""
    exams = list(EXAMS)
    exams[number] = replace(exams[number], **changes)  # type: ignore[arg-type]
    return tuple(exams)
