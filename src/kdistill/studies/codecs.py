"""Compressed pixel data: which syntaxes, which one decoder for each, and what the code stream itself must say.

A decoder believes the code stream, the display believes the tags. Where the two disagree a picture still comes out,
with sheared rows or a wrong grey scale, so they are compared before anything is decoded. Exactly one decoder is asked:
pydicom would try the next one when the first reports damage, and a more lenient one fills the hole with grey.

Source: DICOM PS3.5 A.4 and 8.2; ITU-T T.81 B.2 (JPEG), T.87 (JPEG-LS), T.800 A.5 (JPEG 2000). Which decoder reads which
syntax: pydicom 3.0, "Pixel data decompression: supported plugins".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from kdistill.errors import InputError
from kdistill.studies.dicom_file import BIG_ENDIAN, EXPLICIT, IMPLICIT

NATIVE: Final = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN})
_DICOM_EXTRA: Final = "Install a decoder: pip install 'kdistill[dicom]'"
_LIBJPEG: Final = (
    "12-bit JPEG is decoded by pylibjpeg-libjpeg only (pip install pylibjpeg-libjpeg; its licence is GPL-3); or "
    "convert the file to explicit little endian."
)

Family = Literal["jpeg", "jpeg_lossless", "jpeg_ls", "jpeg_2000", "rle"]


@dataclass(frozen=True)
class Syntax:
    """A compressed transfer syntax: its name, its kind, and pydicom's plugins in the order in which we want them."""

    name: str
    family: Family
    plugins: tuple[str, ...]


#: OpenJPEG itself comes first for JPEG 2000: Pillow brings the same library, gdcm a copy of its own.
_J2K: Final = ("pylibjpeg", "pillow", "gdcm")
SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.50": Syntax("JPEG baseline", "jpeg", ("pillow",)),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG extended", "jpeg", ("pillow",)),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG lossless", "jpeg_lossless", ("gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG lossless (first order)", "jpeg_lossless", ("gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS lossless", "jpeg_ls", ("pyjpegls", "gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS near lossless", "jpeg_ls", ("pyjpegls", "gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 lossless", "jpeg_2000", _J2K),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", "jpeg_2000", _J2K),
    "1.2.840.10008.1.2.4.201": Syntax("HTJ2K lossless", "jpeg_2000", ("pylibjpeg",)),
    "1.2.840.10008.1.2.4.202": Syntax("HTJ2K lossless (RPCL)", "jpeg_2000", ("pylibjpeg",)),
    "1.2.840.10008.1.2.4.203": Syntax("HTJ2K", "jpeg_2000", ("pylibjpeg",)),
    "1.2.840.10008.1.2.5": Syntax("RLE lossless", "rle", ("pylibjpeg", "pydicom")),
}


class Stream(NamedTuple):
    """What the header of a code stream says. `process`: the JPEG start-of-frame marker's number, 0 for JPEG 2000."""

    precision: int
    rows: int
    columns: int
    components: int
    process: int


class Frame(NamedTuple):
    """What the tags say of the one frame."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int


def decode_frame(dataset: Any, syntax_uid: str, frame: Frame) -> np.ndarray:
    """Decode the one frame of encapsulated pixel data.

    Args:
        dataset: A pydicom data set with PixelData.
        syntax_uid: Its transfer syntax.
        frame: What its tags say.

    Returns:
        [H, W] or [H, W, 3] as pydicom gives it; unused bits are not masked.

    Raises:
        InputError: Unknown syntax, a decoder is missing (the extra is named), or the stream is cut or contradicts the
            tags.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    syntax = SYNTAXES.get(syntax_uid)
    if syntax is None:
        raise InputError(
            f"its pixels are compressed in a way that is not read here ({clean_uid(syntax_uid)})",
            remedy="Convert it to explicit little endian, JPEG, JPEG-LS, JPEG 2000 or RLE.",
        )
    stream = None
    if syntax.family != "rle":
        stream = require_consistent(get_frame(dataset.PixelData, 0, number_of_frames=1), syntax, frame)
    decoder = get_decoder(UID(syntax_uid))
    plugin = _choose(syntax, stream, decoder.available_plugins)
    options: Any = {} if syntax.family in ("jpeg_ls", "jpeg_2000") else {"correct_unused_bits": False}
    pixels, _ = decoder.as_array(dataset, decoding_plugin=plugin, **options)
    return np.asarray(pixels)


def _choose(syntax: Syntax, stream: Stream | None, available: tuple[str, ...]) -> str:
    wanted, remedy = syntax.plugins, _DICOM_EXTRA
    if syntax.family == "jpeg" and stream is not None and stream.precision != 8:
        wanted, remedy = ("pylibjpeg",), _LIBJPEG
    chosen = next((name for name in wanted if name in available), None)
    if chosen is None:
        raise InputError(f"its pixels are compressed as {syntax.name}, which cannot be decoded here", remedy=remedy)
    return chosen


def clean_uid(uid: str) -> str:
    """A UID as it may be shown: digits and dots, 64 characters."""
    return "".join(c if c in "0123456789." else "?" for c in uid[:64])


def require_consistent(stream: bytes, syntax: Syntax, frame: Frame) -> Stream:
    """Compare a code stream's header with the tags, and see that it is whole.

    Raises:
        InputError: They differ in size, channels, bit depth or process; or the end mark is missing.
    """
    found = _j2k_header(stream) if syntax.family == "jpeg_2000" else _jpeg_header(stream)
    if found is None:
        raise InputError(f"its pixel data are no {syntax.name} stream", remedy="Export it again.")
    if b"\xff\xd9" not in stream[-16:]:
        raise InputError(
            f"is cut short: its {syntax.name} stream of {len(stream)} bytes has no end mark", remedy="Export it again."
        )
    said = (frame.rows, frame.columns, frame.samples)
    if (found.rows, found.columns, found.components) != said:
        raise InputError(
            f"its tags claim {frame.columns} x {frame.rows} pixels of {frame.samples} channels, its {syntax.name} "
            f"stream holds {found.columns} x {found.rows} of {found.components}",
            remedy="Which of the two is right is never guessed.",
        )
    _require_precision(found, syntax, frame)
    return found


def _require_precision(found: Stream, syntax: Syntax, frame: Frame) -> None:
    processes = {"jpeg": (0, 1, 2), "jpeg_lossless": (3,), "jpeg_ls": (55,), "jpeg_2000": (0,), "rle": ()}
    if found.process not in processes[syntax.family]:
        raise InputError(f"its pixel data are another kind of JPEG than {syntax.name}", remedy="Export it again.")
    exact = syntax.family == "jpeg"
    if (found.precision != frame.bits_stored) if exact else not 2 <= found.precision <= frame.bits_allocated:
        raise InputError(
            f"BitsStored is {frame.bits_stored}, its {syntax.name} stream has {found.precision} bits",
            remedy="Which of the two is right is never guessed.",
        )


def _jpeg_header(stream: bytes) -> Stream | None:
    for marker, body in jpeg_segments(stream):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            process = marker - 0xC0
        elif marker == 0xF7:
            process = 55
        else:
            continue
        if len(body) < 6:
            return None
        return Stream(body[0], int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5], process)
    return None


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment of a JPEG or JPEG-LS stream before its first scan."""
    if stream[:2] != b"\xff\xd8":
        return
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        if marker == 0xDA or length < 2:
            return
        yield marker, stream[position + 4 : position + 2 + length]
        position += 2 + length


def _j2k_header(stream: bytes) -> Stream | None:
    """The SIZ segment; some writers put the stream into a JP2 file, which is forbidden and which every reader takes."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096) if stream[4:8] == b"jP  " else 0
    if start < 0 or stream[start : start + 4] != b"\xff\x4f\xff\x51" or len(stream) < start + 45:
        return None
    right, bottom, left, top = (int.from_bytes(stream[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
    components = int.from_bytes(stream[start + 40 : start + 42], "big")
    sizes = stream[start + 42 : start + 42 + 3 * components]
    if (
        not components
        or len(sizes) < 3 * components
        or any(sizes[1::3][i] != 1 or sizes[2::3][i] != 1 for i in range(components))
    ):
        return None  # subsampled or no channels: nothing that a radiograph uses
    if len(set(sizes[0::3])) != 1:
        return None
    return Stream((sizes[0] & 0x7F) + 1, bottom - top, right - left, components, 0)
