"""A DICOM file on its way to somebody: its bytes, what a network must know of them, and what became of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from kdistill.errors import InputError
from kdistill.studies.dicom import quiet_pydicom
from kdistill.studies.dicom_file import looks_like_dicom

#: "again": it may be sent again; "uncommitted": it was delivered, and the archive has not committed to keep it.
Fate = Literal["delivered", "refused", "again", "uncommitted"]
#: An object's time to travel: what a line of one megabit a second carries.
SLOWEST_BYTES_PER_S: Final = 125_000
#: PS3.7 Annex C: "Duplicate SOP Instance"; it is there already, which is what was wanted.
DUPLICATE: Final = 0x0111
#: PS3.4 Table B.2-1: the object is stored, with a remark.
_WARNINGS: Final = frozenset({0xB000, 0xB006, 0xB007})


class Outcome(NamedTuple):
    """What became of one object. `reason` is ours, or a number of the standard's."""

    fate: Fate
    reason: str = ""


def fate_of(status: int) -> Fate:
    """What a C-STORE status means for its sender: only a lack of resources may pass.

    >>> fate_of(0x0000), fate_of(0xB007), fate_of(0x0111), fate_of(0xA700), fate_of(0xA900)
    ('delivered', 'delivered', 'delivered', 'again', 'refused')
    """
    if status in (0, DUPLICATE) or status in _WARNINGS:
        return "delivered"
    return "again" if status & 0xFF00 == 0xA700 or status == 0x0213 else "refused"


class Part(NamedTuple):
    """One object as a file (PS3.10). `name` is what a message may call it."""

    name: str
    sop_class: str
    instance: str
    syntax: str
    data: bytes

    def dataset(self) -> Any:
        """The whole data set."""
        import pydicom

        with quiet_pydicom():
            return pydicom.dcmread(io.BytesIO(self.data))


def part_of(name: str, data: bytes) -> Part:
    """Look at a file's identifiers.

    Args:
        name: What a message may call it.
        data: The file.

    Raises:
        InputError: It is no DICOM file with a header, or names no SOP class or instance.
    """
    import pydicom

    if not looks_like_dicom(data) or data[128:132] != b"DICM":
        raise InputError("is no DICOM file", where=name, remedy="Only DICOM files can be sent.")
    wanted = ["SOPClassUID", "SOPInstanceUID"]
    try:
        with quiet_pydicom():
            found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(wanted))
            values = [str(found[keyword].value or "") for keyword in wanted]
            syntax = str(found.file_meta.TransferSyntaxUID)
    except Exception as error:  # FAULTS 15
        raise InputError(
            f"is a damaged DICOM file ({type(error).__name__})", where=name, remedy="Export it again."
        ) from error
    if not all(values):
        raise InputError("names no SOP class or instance", where=name, remedy="Without them nothing can store it.")
    return Part(name, values[0], values[1], syntax, data)


def read_part(path: Path) -> Part:
    """A file of the disk.

    Raises:
        InputError: It cannot be read, or is no DICOM file.
    """
    try:
        return part_of(path.name, path.read_bytes())
    except OSError as error:
        raise InputError("cannot be read", where=path.name) from error
