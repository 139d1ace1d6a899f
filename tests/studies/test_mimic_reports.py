"""Reports of MIMIC-CXR: headers, wet reads, addenda, bodies without headers; archives with faults."""

from __future__ import annotations

import struct
import time
import zipfile

import pytest

from kdistill.errors import InputError
from kdistill.studies.sources.mimic_reports import (
    MAX_REPORT_BYTES,
    FolderReports,
    ReportFault,
    ZipReports,
    open_reports,
    read_sections,
)

from .mimic_layout import CLEAR, EXAMS, REPORT, write_archive, write_reports

RULE = " " + "_" * 78 + "\n"
FINAL = " " * 33 + "FINAL REPORT\n"
BODY = " CHEST, TWO VIEWS:\n\n The lungs are clear, as on ___.\n Heart size is normal.\n"
#: text -> (indication, findings, impression)
CASES = {
    "all sections": (CLEAR, ("Fever.", "The lungs are clear.", "No acute process.")),
    "CRLF": (CLEAR.replace("\n", "\r\n"), ("Fever.", "The lungs are clear.", "No acute process.")),
    "no header in the body": (
        FINAL + " The lungs are clear, as on ___.\n Heart size is normal.\n",
        ("", "The lungs are clear, as on ___. Heart size is normal.", ""),
    ),
    "history and a body without header": (
        FINAL + " HISTORY:  ___M with chest pain.\n\n COMPARISON:  ___.\n\n The lungs are clear.\n No effusion.\n",
        ("___M with chest pain.", "The lungs are clear. No effusion.", ""),
    ),
    "wet read before": (
        " WET READ: ___ ___ ___ 8:19 AM\n  Large right pneumothorax.\n" + RULE + FINAL + CLEAR.split("\n", 1)[1],
        ("Fever.", "The lungs are clear.", "No acute process."),
    ),
    "wet read before a body without header": (
        " WET READ: ___ 8:19 AM\n  Large right pneumothorax.\n" + RULE + FINAL + " The lungs are clear.\n",
        ("", "The lungs are clear.", ""),
    ),
    "nothing but a wet read": (
        " WET READ: ___ 8:19 AM\n\n  No pneumothorax.\n",
        ("", "___ 8:19 AM No pneumothorax.", ""),
    ),
    "addendum after": (
        CLEAR + "\n ADDENDUM  On review there is a nodule.\n",
        ("Fever.", "The lungs are clear.", "No acute process."),
    ),
    "addendum before": (
        " " * 33 + "FINAL ADDENDUM\n ADDENDUM:  There is a nodule.\n" + RULE + CLEAR,
        ("Fever.", "The lungs are clear.", "No acute process."),
    ),
    "addendum to a body without header": (
        FINAL + " The lungs are clear.\n" + RULE + " FINAL ADDENDUM\n There is a nodule.\n",
        ("", "The lungs are clear.", ""),
    ),
    "addendum in the middle": (
        FINAL + " ADDENDUM:  There is a nodule.\n\n FINDINGS:  Clear.\n\n IMPRESSION:  Normal.\n",
        ("", "Clear.", "Normal."),
    ),
    "impression alone": (
        FINAL + " IMPRESSION:  AP chest compared to ___:\n\n Mild edema.\n",
        ("", "", "AP chest compared to ___: Mild edema."),
    ),
    "placeholders": (FINAL + " FINDINGS:  ___\n\n IMPRESSION:  ___.\n", ("", "___", "___.")),
    "notification": (
        FINAL + " IMPRESSION:  Edema.\n\n NOTIFICATION:  Told Dr. ___ at 3 PM.\n",
        ("", "", "Edema."),
    ),
    "empty": ("", ("", "", "")),
    "headers alone": (FINAL + " FINDINGS:\n\n IMPRESSION:\n", ("", "", "")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sections(name):
    text, expected = CASES[name]
    found = read_sections(text).sections
    assert (found.indication, found.findings, found.impression) == expected


def test_what_is_left_apart_is_told():
    addendum, wet = read_sections(CASES["addendum after"][0]), read_sections(CASES["wet read before"][0])
    assert (addendum.has_addendum, addendum.has_wet_read) == (True, False)
    assert (wet.has_addendum, wet.has_wet_read) == (False, True)
    plain = read_sections(REPORT)
    assert not plain.has_addendum and not plain.has_wet_read


@pytest.mark.parametrize("unit", ["ADDENDUM\n", " ADDENDUM: a\n ____________\n", "\n \t", "FINAL REPORT\n", "A ", "_"])
def test_100_kb_in_bounded_time(unit):
    start = time.process_time()
    read_sections(unit * (100_000 // len(unit)))
    assert time.process_time() - start < 10.0  # a quadratic pattern takes minutes


def test_the_zip_is_read_in_place(tmp_path):
    path = write_archive(tmp_path / "mimic-cxr-reports.zip")
    with open_reports(path) as reports:
        assert isinstance(reports, ZipReports) and reports.read("10000032", "50414267") == REPORT
        with pytest.raises(ReportFault, match="report_missing"):
            reports.read("10000764", "50414267")  # another patient's
    assert [entry.name for entry in tmp_path.iterdir()] == ["mimic-cxr-reports.zip"]


def test_names_that_lead_out_and_other_files_are_never_looked_at(tmp_path):
    more = {"../../etc/passwd": b"x", "/abs.txt": b"x", "files/p10/p10000032/s50414267.exe": b"x", "n.zip": b"PK"}
    path = write_archive(tmp_path / "in" / "mimic-cxr-reports.zip", more=more)
    with open_reports(path.parent) as reports:
        assert reports.read("10000032", "50414267") == REPORT
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def damage_member(data: bytes) -> bytes:
    """Change a byte of the first report's compressed text; the directory stays whole."""
    start = data.index(b"s50414267.txt") + len(b"s50414267.txt") + 20
    return data[:start] + bytes([data[start] ^ 0xFF]) + data[start + 1 :]


def test_a_damaged_member_is_one_study_less(tmp_path):
    path = write_archive(tmp_path / "r.zip")
    path.write_bytes(damage_member(path.read_bytes()))
    with open_reports(path) as reports:
        with pytest.raises(ReportFault, match="report_unreadable"):
            reports.read("10000032", "50414267")
        assert reports.read("10000032", "53189527") == CLEAR


def test_a_member_that_grows_is_stopped(tmp_path):
    more = {"files/p10/p10000999/s59999999.txt": b" " * (MAX_REPORT_BYTES + 1)}
    path = write_archive(tmp_path / "r.zip", more=more)
    with open_reports(path) as reports, pytest.raises(ReportFault, match="report_unreadable"):
        reports.read("10000999", "59999999")


@pytest.mark.parametrize("data", [b"\xff\xfe bytes", b"x" * (MAX_REPORT_BYTES + 1)])
def test_a_report_file_that_is_no_text_is_unreadable(tmp_path, data):
    write_reports(tmp_path)
    (tmp_path / f"{EXAMS[0].folder}.txt").write_bytes(data)
    with open_reports(tmp_path) as reports:
        assert isinstance(reports, FolderReports)
        with pytest.raises(ReportFault, match="report_unreadable"):
            reports.read("10000032", "50414267")


def claim(data: bytes, size: int) -> bytes:
    """A zip whose end record claims a directory of so many bytes."""
    at = data.rindex(b"PK\x05\x06")
    return data[: at + 12] + struct.pack("<L", size) + data[at + 16 :]


def write_bad(tmp_path, kind):
    path = write_archive(tmp_path / "r.zip")
    match kind:
        case "cut":
            path.write_bytes(path.read_bytes()[:-40])
        case "text":
            path.write_text("no archive")
        case "empty":
            path.write_bytes(b"")
        case "huge directory":
            whole = claim(path.read_bytes(), 200_000_000)
            with path.open("wb") as file:
                file.seek(250_000_000)  # sparse: takes no disk
                file.write(whole)
        case "no reports":
            write_archive(path, [])
        case "twice":
            write_archive(path, more={f"old/{EXAMS[0].folder.removeprefix('files/')}.txt": b"x"})
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            (tmp_path / "r.zip").mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "no zip archive or is cut short"),
        ("text", "no zip archive"),
        ("empty", "no zip archive"),
        ("huge directory", "directory too large"),
        ("no reports", "holds no report"),
        ("twice", "holds 1 reports twice"),
        ("missing", "cannot be read .No such file"),
        ("folder", "holds no report"),
    ],
)
def test_reports_that_cannot_be_opened(tmp_path, kind, message):
    path = write_bad(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught, open_reports(path):
        pass
    assert caught.value.remedy and caught.value.exit_code == 2


def test_a_report_behind_a_password_is_unreadable(tmp_path):
    path = write_archive(tmp_path / "r.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(f"{EXAMS[0].folder}.txt").header_offset
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[offset + 6] |= 1
    data[central + 8] |= 1
    path.write_bytes(bytes(data))
    with open_reports(path) as reports, pytest.raises(ReportFault, match="report_unreadable"):
        reports.read("10000032", "50414267")
