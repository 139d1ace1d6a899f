"""Reports of MIMIC-CXR: read from the official zip in place, or from its files, and cut into sections.

Source: the data set page of mimic-cxr 2.1.0 (doi:10.13026/4jqj-jw95): one text a study, in
files/p10/p10000032/s50414267.txt, all of them in mimic-cxr-reports.zip. Placeholders (`___`) stay as they are.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

from kdistill.errors import InputError
from kdistill.sections import Sections, split_report

ARCHIVE: Final = "mimic-cxr-reports.zip"
#: Bytes of one report; the longest radiology reports that we have seen have a few thousand.
MAX_REPORT_BYTES: Final = 1_000_000
#: Bytes of an archive's directory: 228,000 reports need about 25 MB, and reading it costs ten times its size in memory.
MAX_DIRECTORY_BYTES: Final = 128 * 1024 * 1024

_MEMBER: Final = re.compile(r"(?:[^/\\]+/)*p(\d\d)/p(\1\d{6})/s(\d{8})\.txt")
#: The longest end record: comment, its own 22 bytes, locator and record of the 64-bit form.
_TAIL_BYTES: Final = 65_535 + 22 + 20 + 56
_WHERE: Final = "Name the official mimic-cxr-reports.zip, or the folder that it unpacks to, in reports_path."
#: Where reports lie below a folder that a user names: beside the images, or as the zip unpacks.
_PLACES: Final = ("files", "mimic-cxr-reports/files", "mimic-cxr-reports", ".")

_FINAL: Final = re.compile(r"^[ \t]*FINAL REPORT[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
#: A later remark on the report, up to the rule or the header that ends it.
_ADDENDUM: Final = re.compile(
    r"^[ \t]*(?:FINAL[ \t]+)?ADDENDUM\b.*?"
    r"(?=^[ \t]*_{5,}[ \t]*\r?$|^[ \t]*(?!(?:FINAL[ \t]+)?ADDENDUM)[A-Z][A-Z ()/,-]{2,60}:|\Z)",
    re.DOTALL | re.MULTILINE,
)
#: Lines drawn between parts; a placeholder has three strokes.
_RULE: Final = re.compile(r"^[ \t]*_{20,}[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """The sections of one report, each on one line, and whether an addendum or a wet read was left apart."""

    sections: Sections
    has_addendum: bool
    has_wet_read: bool


class ReportFault(Exception):
    """One report cannot be used; the study is left out under `reason`."""

    def __init__(self, reason: Literal["report_missing", "report_unreadable"]) -> None:
        super().__init__(reason)
        self.reason = reason


class ZipReports:
    """Reports inside an archive: nothing is written to disk, links and other files in it are never looked at."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        twice = 0
        for info in archive.infolist():
            if match := _MEMBER.fullmatch(info.filename):
                twice += match.group(3) in self._members
                self._members[match.group(3)] = info
        if twice:
            raise InputError(f"holds {twice} reports twice", where=path.name, remedy="Download the archive again.")
        if not self._members:
            raise InputError("holds no report p10/p10000032/s50414267.txt", where=path.name, remedy=_WHERE)

    def read(self, subject_id: str, study_id: str) -> str:
        """The text of a study's report.

        Raises:
            ReportFault: It is not there, under another patient, damaged, too long or no UTF-8.
        """
        info = self._members.get(study_id)
        if info is None or f"/p{subject_id}/" not in f"/{info.filename}":
            raise ReportFault("report_missing")
        try:
            with self._archive.open(info) as file:
                return _decode(file.read(MAX_REPORT_BYTES + 1))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise ReportFault("report_unreadable") from error


class FolderReports:
    """Reports as files, below any of the places where they are unpacked to."""

    def __init__(self, path: Path) -> None:
        self._roots = [root for place in _PLACES if any((root := path / place).glob("p1[0-9]"))]
        if not self._roots:
            raise InputError("holds no report files/p10/p10000032/s50414267.txt", where=path.name, remedy=_WHERE)

    def read(self, subject_id: str, study_id: str) -> str:
        """The text of a study's report.

        Raises:
            ReportFault: It is not there, cannot be read, is too long or no UTF-8.
        """
        for root in self._roots:
            try:
                with (root / f"p{subject_id[:2]}" / f"p{subject_id}" / f"s{study_id}.txt").open("rb") as file:
                    return _decode(file.read(MAX_REPORT_BYTES + 1))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ReportFault("report_unreadable") from error
        raise ReportFault("report_missing")


Reports = ZipReports | FolderReports


def _decode(data: bytes) -> str:
    if len(data) > MAX_REPORT_BYTES:
        raise ReportFault("report_unreadable")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReportFault("report_unreadable") from error


def find_archive(path: Path) -> Path | None:
    """The zip that holds the reports, if `path` is one or a folder with it."""
    if path.is_dir():
        return path / ARCHIVE if (path / ARCHIVE).is_file() else None
    return path


@contextlib.contextmanager
def open_reports(path: Path) -> Iterator[Reports]:
    """Open the reports of a zip, of a folder that holds the zip, or of a folder of text files.

    Raises:
        InputError: There is nothing, no zip archive, a damaged one, or none with reports.
    """
    archive = find_archive(path)
    if archive is None:
        yield FolderReports(path)
        return
    try:
        _require_plausible_directory(archive)
        opened = zipfile.ZipFile(archive)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=archive.name, remedy=_WHERE) from error
    except zipfile.BadZipFile as error:
        raise InputError(
            f"is no zip archive or is cut short ({error})", where=archive.name, remedy="Download it again."
        ) from error
    with opened:
        yield ZipReports(archive, opened)


def _require_plausible_directory(path: Path) -> None:
    """Refuse an archive of millions of entries before its directory is read (both forms of the end record are)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    claimed = [0]
    for mark, offset, form in ((b"PK\x05\x06", 12, "<L"), (b"PK\x06\x06", 40, "<Q")):
        at = tail.find(mark)
        while at >= 0:
            field = tail[at + offset : at + offset + struct.calcsize(form)]
            claimed += struct.unpack(form, field) if len(field) == struct.calcsize(form) else ()
            at = tail.find(mark, at + 1)
    if max(n for n in claimed if n <= size) > MAX_DIRECTORY_BYTES:
        raise InputError("has a directory too large for reports", where=path.name, remedy="Download it again.")


def read_sections(text: str) -> Report:
    """Cut a report into its sections; line breaks inside a section become spaces, `___` stays.

    What stands before the line FINAL REPORT (a wet read, a letterhead) and addenda are left apart: they are other
    texts on the same study. A body without any header is findings, as `sections` has it.
    """
    finals = [match for match in _FINAL.finditer(text) if text[match.end() :].strip()]
    start = finals[-1].end() if finals else 0
    body, addenda = _ADDENDUM.subn("", text[start:])
    sections = split_report(_RULE.sub("", body))
    flat = {f.name: " ".join(getattr(sections, f.name).split()) for f in fields(sections)}
    return Report(Sections(**flat), has_addendum=addenda > 0, has_wet_read="WET READ" in text[:start].upper())
