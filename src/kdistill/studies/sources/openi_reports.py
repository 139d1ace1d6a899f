"""Reports of Indiana University (Open-i) from the original XML: one eCitation a file, from a folder or the archive.

Sections are the AbstractText elements by their Label (COMPARISON, INDICATION, FINDINGS, IMPRESSION), terms are
MeSH/major (manual) and MeSH/automatic, images the ids of parentImage. Format: the files themselves (NLMCXR_reports.tgz,
openi.nlm.nih.gov/faq); Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from lxml import etree

from kdistill.errors import InputError
from kdistill.studies.archives import ArchiveLimits, archive_files

#: The longest of the 2,925 reports at hand has 8,967 bytes.
MAX_REPORT_BYTES: Final = 1_000_000
#: More entries than this are no set of reports (Open-i has 3,955).
MAX_ENTRIES: Final = 200_000
_UID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


class OpeniReport(NamedTuple):
    """One report.

    Attributes:
        uid: As in uId, "CXR10" (the Kaggle tables write 10).
        comparison, indication, findings, impression: "" where the section is empty.
        terms: Manual MeSH terms, "head/qualifier/...".
        automatic: Terms that a program found.
        image_ids: Ids of the films, "CXR10_IM-0002-1001": file names without their ending.
    """

    uid: str
    comparison: str = ""
    indication: str = ""
    findings: str = ""
    impression: str = ""
    terms: tuple[str, ...] = ()
    automatic: tuple[str, ...] = ()
    image_ids: tuple[str, ...] = ()


class LeftOut(NamedTuple):
    """A file that gave no report, and why."""

    name: str
    reason: str


def iter_reports(path: Path, max_archive_mb: int) -> Iterator[OpeniReport | LeftOut]:
    """Yield the reports of a folder (in the order of names) or of an archive (in its order), read in place.

    Args:
        path: The folder, or a .tgz, .tar or .zip; its content decides which.
        max_archive_mb: Megabytes that an archive may unpack to.

    Raises:
        InputError: The folder or archive cannot be read.
        PolicyError: The archive is unsafe (see `archives.archive_files`): a link, a name that leads out, a bomb.
    """
    for name, data in _files(path) if path.is_dir() else _packed(path, max_archive_mb):
        yield parse_report(data, name) if len(data) <= MAX_REPORT_BYTES else LeftOut(name, "too_large")


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*.xml")):
        try:
            with path.open("rb") as file:
                yield path.name, file.read(MAX_REPORT_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=path.name) from error


def _packed(path: Path, max_mb: int) -> Iterator[tuple[str, bytes]]:
    """Name and start of each XML file of an archive; not more of one than shows that it is no report."""
    limits = ArchiveLimits(total_bytes=max_mb * 1_000_000, entries=MAX_ENTRIES, setting="max_archive_mb")
    for name, chunks in archive_files(path, limits):
        if not name.lower().endswith(".xml"):
            continue
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) > MAX_REPORT_BYTES:
                break
        yield PurePosixPath(name).name, bytes(data)


def parse_report(data: bytes, name: str) -> OpeniReport | LeftOut:
    """Read one report from untrusted bytes: no entity is resolved, no DTD loaded, nothing fetched."""
    if b"<!ENTITY" in data:  # before libxml2 starts to expand them
        return LeftOut(name, "xml_declares_entities")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return LeftOut(name, "xml_damaged")
    subset = root.getroottree().docinfo.internalDTD
    if subset is not None and any(True for _ in subset.iterentities()):
        return LeftOut(name, "xml_declares_entities")
    uid = root.find("uId")
    if root.tag != "eCitation" or uid is None or not _UID.fullmatch(uid.get("id", "")):
        return LeftOut(name, "xml_is_no_report")
    sections = {node.get("Label", "").lower(): _text(node) for node in root.iter("AbstractText")}
    return OpeniReport(
        uid.get("id", ""),
        comparison=sections.get("comparison", ""),
        indication=sections.get("indication", ""),
        findings=sections.get("findings", ""),
        impression=sections.get("impression", ""),
        terms=tuple(filter(None, map(_text, root.iterfind("MeSH/major")))),
        automatic=tuple(filter(None, map(_text, root.iterfind("MeSH/automatic")))),
        image_ids=tuple(node.get("id", "") for node in root.iter("parentImage") if _UID.fullmatch(node.get("id", ""))),
    )


def _text(node: Any) -> str:
    return " ".join("".join(node.itertext()).split())
