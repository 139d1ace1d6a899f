"""Tables of MIMIC-CXR that contradict each other, files that are not there: named, counted, never silently dropped."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import Counter
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from kdistill.artifact import open_stage
from kdistill.errors import InputError, PolicyError
from kdistill.studies.config import MimicDicomStudies, MimicJpgStudies
from kdistill.studies.dicom import read_header
from kdistill.studies.sources.mimic_tables import parse_when
from kdistill.studies.sources.read import read_source
from kdistill.studies.stage import build_studies
from kdistill.studies.table import read_columns, read_rows

from .mimic_layout import (
    EXAMS,
    changed,
    write_archive,
    write_dicom,
    write_jpg,
    write_reports,
    write_table,
    write_tables,
)
from .test_dicom import dicom, ramp

METADATA, SPLIT, CHEXPERT = (f"mimic-cxr-2.0.0-{name}" for name in ("metadata", "split", "chexpert"))
IDENTIFIERS = re.compile(r"\d{8}")


def edit(path, change):
    """Change the rows of a gzipped table (row 0 is the header) in place."""
    rows = list(csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
    rows = change(rows) or rows
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def put(line, column, value):
    """A change of one cell, by line of the file and name of the column."""

    def change(rows):
        rows[line - 1][rows[0].index(column)] = value

    return change


def repeat(line):
    return lambda rows: [*rows, rows[line - 1]]


def without(column):
    return lambda rows: [[cell for cell, name in zip(row, rows[0], strict=True) if name != column] for row in rows]


@pytest.fixture
def jpg(tmp_path):
    write_jpg(tmp_path)
    write_archive(tmp_path / "mimic-cxr-reports.zip")
    return MimicJpgStudies(path=str(tmp_path), reports_path=str(tmp_path), size_px=32, max_rejected_share=0.9)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (METADATA, put(3, "dicom_id", "../../../etc/passwd"), "line 3: dicom_id is not five groups"),
        (METADATA, put(3, "subject_id", "10000032.0"), "line 3: subject_id and study_id must be numbers of 8 digits"),
        (METADATA, put(3, "study_id", ""), "line 3: subject_id and study_id must be numbers of 8 digits"),
        (METADATA, put(3, "subject_id", "10000764"), "line 3: the same study_id stands above with another subject_id"),
        (METADATA, repeat(2), "line 9: the same dicom_id stands above"),
        (METADATA, put(2, "StudyDate", "2180-05-06"), "line 2: StudyDate is no date"),
        (METADATA, put(2, "StudyTime", "21:30"), "line 2: StudyTime is no time"),
        (METADATA, without("ViewPosition"), "column ViewPosition is missing"),
        (METADATA, lambda rows: [*rows[:2], rows[2][:-1], *rows[3:]], "line 3: 11 fields, the header has 12"),
        (METADATA, lambda rows: [[*row, row[0]] for row in rows], "column dicom_id stands twice"),
        (METADATA, lambda rows: [[]], "column dicom_id, subject_id, study_id, ViewPosition"),
        (SPLIT, put(4, "split", "dev"), "line 4: split is not train, validate or test"),
        (SPLIT, put(4, "study_id", "50414267"), "line 4: subject_id or study_id differ"),
        (SPLIT, put(4, "subject_id", "10000764"), "line 4: subject_id or study_id differ"),
        (SPLIT, repeat(2), "line 9: the same dicom_id stands above"),
        (CHEXPERT, put(2, "Edema", "2"), "line 2: Edema: label '2' is not 1, 0, -1 or empty"),
        (CHEXPERT, put(2, "subject_id", "10000764"), "line 2: subject_id differs"),
        (CHEXPERT, repeat(3), "line 6: the same study_id stands above"),
        (CHEXPERT, without("Fracture"), "column Fracture is missing"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_its_lines(jpg, tmp_path, table, change, message):
    edit(tmp_path / f"{table}.csv.gz", change)
    with pytest.raises(InputError) as caught:
        read_source(jpg)
    assert message in str(caught.value) and f"{table}.csv.gz" in str(caught.value)
    assert not IDENTIFIERS.search(str(caught.value).replace("21800506", ""))  # 21800506 is the example of a date


def test_all_lines_are_named_at_once(jpg, tmp_path):
    edit(tmp_path / f"{SPLIT}.csv.gz", put(3, "split", "dev"))
    edit(tmp_path / f"{SPLIT}.csv.gz", put(5, "split", ""))
    with pytest.raises(InputError, match=r"line 3: .*\n.*line 5: "):
        read_source(jpg)


@pytest.mark.parametrize(
    ("table", "setting", "remedy"),
    [
        (METADATA, {}, "`path` is the folder"),
        (SPLIT, {"split": "hash"}, "split: hash"),
        (CHEXPERT, {"labels": "none"}, "labels: none"),
    ],
)
def test_a_missing_table_names_the_setting_that_does_without(jpg, tmp_path, table, setting, remedy):
    (tmp_path / f"{table}.csv.gz").unlink()
    with pytest.raises(InputError, match="is missing") as caught:
        read_source(jpg)
    assert remedy in str(caught.value)
    if setting:
        assert len(read_source(jpg.model_copy(update=setting)).studies) == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-30], "damaged or cut short"),
        (lambda data: data[:-8] + bytes(8), "damaged or cut short"),
        (lambda data: gzip.compress(b"dicom_id\xff\xfe"), "is not UTF-8"),
        (lambda data: gzip.compress(b"x" * 2_000_000), "too large"),
        (lambda data: b"", "column dicom_id"),
    ],
)
def test_a_damaged_table_is_refused(jpg, tmp_path, damage, message):
    path = tmp_path / f"{SPLIT}.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        read_source(jpg)
    assert path.name in str(caught.value)


def left_out(config):
    return Counter(reason for _, reason in read_source(config).left_out)


def test_images_and_studies_without_files_are_named(jpg, tmp_path):
    (tmp_path / EXAMS[0].folder / f"{EXAMS[0].dicom_id(0)}.jpg").unlink()  # the study keeps its frontal image
    (tmp_path / EXAMS[1].folder / f"{EXAMS[1].dicom_id(0)}.jpg").unlink()
    table = read_source(jpg)
    assert left_out(jpg) == {"image_file_missing": 2, "no_image_file": 1}
    assert ("s53189527", "no_image_file") in table.left_out and len(table.studies) == 4
    later = {item.study.study_id: item.study.prior_study_id for item in table.studies}
    assert later["s50414267"] == "s53189527"  # the study was made, whether its file is here or not


def test_images_without_a_split_are_named(jpg, tmp_path):
    edit(tmp_path / f"{SPLIT}.csv.gz", lambda rows: [row for n, row in enumerate(rows) if n not in (1, 3)])
    assert left_out(jpg) == {"image_without_split": 2, "no_image_with_split": 1}
    assert left_out(jpg.model_copy(update={"split": "hash"})) == {}


def test_rows_of_unknown_images_and_studies_are_named(jpg, tmp_path):
    edit(tmp_path / f"{METADATA}.csv.gz", lambda rows: rows[:-1])
    assert left_out(jpg) == {"split_row_of_unknown_image": 1, "label_row_of_unknown_study": 1}
    assert left_out(jpg.model_copy(update={"groups": ("p10",)})) == {}  # the rows are of p11


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "report_missing"),
        ("", "report_without_findings"),
        (" FINAL REPORT\n INDICATION: Cough.\n", "report_without_findings"),
    ],
)
def test_studies_without_a_report_are_named(tmp_path, report, reason):
    exams = changed(0, report=report)
    write_jpg(tmp_path, exams)
    write_archive(tmp_path / "r.zip", exams)
    config = MimicJpgStudies(path=str(tmp_path), reports_path=str(tmp_path / "r.zip"), max_rejected_share=0.3)
    table = read_source(config)
    assert table.left_out == [("s50414267", reason)] and len(table.studies) == 4


def test_addenda_and_wet_reads_are_counted(tmp_path):
    exams = changed(0, report=f" WET READ: ___\n Edema.\n FINAL REPORT\n {EXAMS[1].report}\n ADDENDUM: A nodule.\n")
    write_jpg(tmp_path, exams)
    write_archive(tmp_path / "r.zip", exams)
    table = read_source(MimicJpgStudies(path=str(tmp_path), reports_path=str(tmp_path / "r.zip")))
    assert (table.counts["reports_with_addendum"], table.counts["reports_with_wet_read"]) == (1, 1)
    assert table.studies[0].study.report == "The lungs are clear.\nNo acute process."


def test_all_studies_are_kept_or_named(jpg, tmp_path):
    """Kept + left out = listed, with every fault at once."""
    exams = [replace(EXAMS[0], subject=f"1000{n:04d}", study=f"5000{n:04d}") for n in range(1, 13)]
    exams[1] = replace(exams[1], views=("LATERAL",))
    exams[2] = replace(exams[2], report=None)
    exams[3] = replace(exams[3], report="")
    write_jpg(tmp_path, exams)
    write_archive(tmp_path / "mimic-cxr-reports.zip", exams)
    for exam in exams[4:6]:
        for path in (tmp_path / exam.folder).iterdir():
            path.unlink()
    lost = {exam.dicom_id(n) for exam in exams[6:8] for n in range(2)}
    edit(tmp_path / f"{SPLIT}.csv.gz", lambda rows: [row for row in rows if row[0] not in lost])
    table = read_source(jpg)
    named = {item for item, _ in table.left_out if item.startswith("s")}
    assert len(named) == 7 and len(table.studies) == 5
    assert named | {item.study.study_id for item in table.studies} == {f"s{exam.study}" for exam in exams}


def test_a_partial_copy_fails_and_names_the_way_out(jpg, tmp_path):
    for exam in EXAMS[:2]:
        (tmp_path / exam.folder / f"{exam.dicom_id(len(exam.views) - 1)}.jpg").unlink()
    (tmp_path / EXAMS[0].folder / f"{EXAMS[0].dicom_id(0)}.jpg").unlink()
    with pytest.raises(InputError, match="of 5 listed studies 2 have no image file and 0 no report") as caught:
        read_source(jpg.model_copy(update={"max_rejected_share": 0.05}))
    assert "groups" in str(caught.value)


def test_a_patient_or_study_in_two_splits_is_refused(tmp_path):
    write_jpg(tmp_path / "a", changed(1, split="test"))
    with pytest.raises(PolicyError, match="1 patients stand in more than one split"):
        read_source(MimicJpgStudies(path=str(tmp_path / "a")))
    write_jpg(tmp_path / "b")
    edit(tmp_path / "b" / f"{SPLIT}.csv.gz", put(2, "split", "test"))
    with pytest.raises(PolicyError, match="1 studies have images in more than one split"):
        read_source(MimicJpgStudies(path=str(tmp_path / "b")))


def test_an_unreadable_image_is_quarantined_by_the_stage(jpg, tmp_path):
    (tmp_path / EXAMS[1].folder / f"{EXAMS[1].dicom_id(0)}.jpg").write_bytes(b"\xff\xd8\xff cut")
    with open_stage(tmp_path / "out" / "studies", stage="studies", config=jpg) as stage:
        build_studies(stage, jpg)
    assert stage.counts["rejected_image_unusable"] == 1 and stage.counts["rejected_study_without_image"] == 1


@pytest.fixture
def dcm(tmp_path):
    write_reports(write_dicom(tmp_path))
    write_tables(tmp_path)
    return MimicDicomStudies(path=str(tmp_path), size_px=32, max_rejected_share=0.9)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("cxr-record-list", put(2, "path", "files/../x.dcm"), "line 2: path is not files"),
        ("cxr-record-list", put(2, "dicom_id", "x"), "line 2: dicom_id is not five groups"),
        ("cxr-record-list", repeat(2), "line 9: the same dicom_id stands above"),
        ("cxr-study-list", put(2, "path", "files/x.txt"), "line 2: path is not files"),
        (METADATA, put(2, "study_id", "53189527"), "line 2: subject_id or study_id differ"),
        (METADATA, put(2, "StudyTime", "x"), "line 2: StudyTime is no time"),
        (METADATA, repeat(2), "line 9: the same dicom_id stands above"),
    ],
)
def test_tables_of_the_dicom_set(dcm, tmp_path, table, change, message):
    edit(tmp_path / f"{table}.csv.gz", change)
    with pytest.raises(InputError) as caught:
        read_source(dcm)
    assert message in str(caught.value)


def test_rows_that_only_one_table_of_the_dicom_set_has(dcm, tmp_path):
    edit(tmp_path / "cxr-record-list.csv.gz", lambda rows: rows[:-1])
    reasons = {"metadata_row_of_unknown_image": 1, "split_row_of_unknown_image": 1, "study_without_image_row": 1}
    assert left_out(dcm) == reasons
    edit(tmp_path / f"{METADATA}.csv.gz", lambda rows: rows[:2])
    assert read_source(dcm).counts["images_without_metadata"] == 5
    (tmp_path / f"{METADATA}.csv.gz").unlink()
    with pytest.raises(InputError, match="views_from: dicom"):
        read_source(dcm)


def test_the_study_list_is_not_needed(dcm, tmp_path):
    (tmp_path / "cxr-study-list.csv.gz").unlink()
    assert len(read_source(dcm).studies) == 5


def test_headers_that_cannot_be_read_leave_view_and_date_unknown(dcm, tmp_path):
    (tmp_path / EXAMS[1].folder / f"{EXAMS[1].dicom_id(0)}.dcm").write_bytes(b"DICM?")
    table = read_source(dcm.model_copy(update={"views_from": "dicom"}))
    study = table.studies[1]
    assert study.images[0].view_position is None and study.study.prior_study_id is None
    assert table.counts["images_without_header"] == 1


def test_a_header_gives_codes_and_nothing_else(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(ramp(), ViewPosition="PA", StudyDate="21800506"))
    found = read_header(path, ("ViewPosition", "StudyDate", "StudyTime"))
    assert found == {"ViewPosition": "PA", "StudyDate": "21800506", "StudyTime": ""}
    path.write_bytes(dicom(ramp(), StudyID="PA\x1b[31m"))
    assert read_header(path, ("StudyID",)) == {"StudyID": ""}
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    with pytest.raises(InputError, match="deflated"):
        read_header(path, ("ViewPosition",))


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("21800506", "213014.53100000002", (21800506, 213014.53100000002)),
        ("21800506", "80556.875", (21800506, 80556.875)),
        ("21800506", "0", (21800506, 0.0)),
        ("", "80556.875", None),
        ("21800506", "", None),
    ],
)
def test_dates(date, time, expected):
    assert parse_when(date, time) == expected


@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_streamed_columns_are_those_of_the_whole_table(tmp_path, bom, end):
    text = end.join(["a, b ,c", ' 1,"two, and", 3 ', "", '4,"x\ny",ü', "7,8,9"]) + end
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    expected = [(line, (row["c"], row["b"])) for line, row in read_rows(path, ("a", "b"))]
    assert list(read_columns(path, ("c", "b"))) == expected and len(expected) == 3
    write_table(tmp_path / "z", ["a", "b"], [[1, 2]])
    assert list(read_columns(tmp_path / "z.csv.gz", ("b", "a"))) == [(2, ("2", "1"))]
