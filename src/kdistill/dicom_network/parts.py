"""A DICOM file on its way to somebody: its bytes, and what a network must know of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kdistill.errors import InputError
from kdistill.studies.dicom import quiet_pydicom
from kdistill.studies.dicom_file import looks_like_dicom

#: "again": it may be sent again; "uncommitted": it was delivered, and the archive has not committed to keep it.
Fate = Literal["delivered", "refused", "again", "uncommitted"]


class Outcome(NamedTuple):
    """What became of one object. `reason` is ours, or a number of the standard's."""

    fate: Fate
    reason: str = ""


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
