"""The bytes of a DICOM file -> a data set that is whole, of known encoding and safe to hand to pydicom.

pydicom inflates a deflated data set without a limit before it looks at anything else (1.7 MB become 5 GB), ends
silently at the first element that is cut, and recurses into nested sequences. So the structure is walked here first,
without recursion, and pydicom is given the inflated data set behind a header of our own.

Source: DICOM PS3.10 7.1 (preamble, file meta information), PS3.5 7.1 (elements), 7.5 (sequences), A.4 (fragments),
A.5 (deflated).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from kdistill.errors import InputError
from kdistill.studies.film import Note

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

#: The largest image that we read (64 million pixels of 16 bits) is 128 MB; the rest of a data set is small.
MAX_INFLATED_BYTES: Final = 160_000_000
#: Real radiographs hold a few hundred elements, nested up to about five deep.
MAX_ELEMENTS: Final = 50_000
MAX_DEPTH: Final = 32

_UNDEFINED: Final = 0xFFFFFFFF
_PIXEL_DATA: Final = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


class Encoding(NamedTuple):
    """How elements are written."""

    explicit: bool
    little: bool


class Layout(NamedTuple):
    """What a walk through a data set found: its end, and its pixel data (length None: in fragments, or absent)."""

    end: int
    has_pixels: bool
    pixel_bytes: int | None


@dataclass(frozen=True)
class DicomBytes:
    """A data set that was walked to its end.

    Attributes:
        data: The file to hand to pydicom: preamble, a header with the transfer syntax only, the data set.
        syntax: UID of the transfer syntax (explicit little endian where the file was deflated).
        layout: See `Layout`.
        notes: What a reader must be told.
    """

    data: bytes
    syntax: str
    layout: Layout
    notes: tuple[Note, ...]


def looks_like_dicom(data: bytes) -> bool:
    """Whether bytes are a DICOM file, or begin like a data set that has lost its preamble."""
    bare = data[1:2] == b"\x00" and data[:1] in (b"\x02", b"\x08") and data[3:4] == b"\x00"
    return data[128:132] == b"DICM" or bare or (data[:3] == b"\x00\x08\x00" and data[4:6].isalpha())


def open_dicom(data: bytes) -> DicomBytes:
    """Find the transfer syntax, inflate with a limit, and walk the data set.

    Raises:
        InputError: The file is cut (with byte counts), damaged, nested too deep, too large when inflated, or its
            encoding is not stated and not plain from its structure.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    notes: tuple[Note, ...] = () if start else ("no_preamble",)
    syntax, start = _file_meta(data, start)
    if start >= len(data):
        raise InputError(f"is cut short: the DICOM file ends after its header, at byte {len(data)}", remedy=_AGAIN)
    if syntax == DEFLATED:
        data, start, syntax = _inflated(data[start:]), 0, EXPLICIT
    if syntax is None:
        syntax, layout = _only_encoding(data, start)
        notes = (*notes, "transfer_syntax_assumed")
    else:
        layout = walk(data, start, encoding_of(syntax))
    return DicomBytes(_canonical_header(syntax) + data[start : layout.end], syntax, layout, notes)


_AGAIN: Final = "Copy or export it again."


def encoding_of(syntax: str) -> Encoding:
    """The encoding of a transfer syntax: every compressed one is explicit, little endian (PS3.5 A.4)."""
    return Encoding(explicit=syntax != IMPLICIT, little=syntax != BIG_ENDIAN)


def _file_meta(data: bytes, start: int) -> tuple[str | None, int]:
    """(transfer syntax or None, where the data set begins). Group 2 is always explicit, little endian."""
    syntax = None
    position = start
    while data[position : position + 2] == b"\x02\x00":
        element = _element(data, position, Encoding(True, True), len(data))
        if element.length == _UNDEFINED or element.value + element.length > len(data):
            raise _cut(element, len(data))
        if element.tag == 0x00020010:
            value = data[element.value : element.value + min(element.length, 64)]
            syntax = value.decode("ascii", "replace").rstrip("\x00 ") or None
        position = element.value + element.length
    return syntax, position


def _inflated(compressed: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(compressed, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise InputError("is a damaged deflated DICOM file", remedy=_AGAIN) from error
    if len(data) >= MAX_INFLATED_BYTES:
        raise InputError(
            f"inflates from {len(compressed)} bytes to more than {MAX_INFLATED_BYTES}: no radiograph is that large",
            remedy="Export it without compression if it is genuine.",
        )
    if not inflater.eof:
        raise InputError(
            f"is cut short: its deflated data end after {len(compressed)} bytes, {len(data)} inflated", remedy=_AGAIN
        )
    return data


def _only_encoding(data: bytes, start: int) -> tuple[str, Layout]:
    """The one encoding in which a data set without a stated transfer syntax can be read to its end."""
    fits: list[tuple[str, Layout]] = []
    for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN):
        try:
            layout = walk(data, start, encoding_of(syntax))
        except InputError:
            continue
        fits.append((syntax, layout))
    if len(fits) != 1 or (fits[0][1].has_pixels and fits[0][1].pixel_bytes is None):
        raise InputError(
            f"its transfer syntax is not stated and not plain from its {len(data)} bytes",
            where="DICOM tag (0002,0010)",
            remedy="It may be cut or damaged; export it again as a DICOM file with its header.",
        )
    return fits[0]


class _Element(NamedTuple):
    tag: int
    vr: bytes
    value: int
    length: int


def _element(data: bytes, position: int, encoding: Encoding, end: int) -> _Element:
    order = "<" if encoding.little else ">"
    if position + 8 > end:
        raise InputError(f"is cut short: an element begins at byte {position}, the data end at {end}", remedy=_AGAIN)
    group, number = struct.unpack_from(order + "HH", data, position)
    tag = group << 16 | number
    if not encoding.explicit or group == 0xFFFE:
        return _Element(tag, b"", position + 8, struct.unpack_from(order + "I", data, position + 4)[0])
    vr = data[position + 4 : position + 6]
    if vr in _SHORT_VRS:
        return _Element(tag, vr, position + 8, struct.unpack_from(order + "H", data, position + 6)[0])
    if vr not in _LONG_VRS:
        raise InputError(f"is a damaged DICOM file (no element can be read at byte {position})", remedy=_AGAIN)
    if position + 12 > end:
        raise InputError(f"is cut short: an element begins at byte {position}, the data end at {end}", remedy=_AGAIN)
    return _Element(tag, vr, position + 12, struct.unpack_from(order + "I", data, position + 8)[0])


def _cut(element: _Element, end: int) -> InputError:
    name = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
    return InputError(
        f"is cut short or damaged: the element {name} needs {element.length} bytes, {end - element.value} are there",
        remedy=_AGAIN,
    )


class _Open(NamedTuple):
    """A level that the walk is in. `end` is None where a mark closes it."""

    kind: str
    end: int | None
    encoding: Encoding
    limit: int


def walk(data: bytes, start: int, encoding: Encoding) -> Layout:
    """Step over every element of a data set without building anything.

    Raises:
        InputError: An element is cut or unreadable, a top-level tag stands twice, or nesting has no end.
    """
    return _Walk(data, encoding).run(start)


class _Walk:
    def __init__(self, data: bytes, encoding: Encoding) -> None:
        self.data = data
        self.levels = [_Open("data set", len(data), encoding, len(data))]
        self.tags: set[int] = set()
        self.pixel_bytes: int | None = None

    def run(self, position: int) -> Layout:
        for _ in range(MAX_ELEMENTS):
            while self.levels and self.levels[-1].end == position:
                self.levels.pop()
            if not self.levels or (len(self.levels) == 1 and self._only_zeros_from(position)):
                return Layout(position, _PIXEL_DATA in self.tags, self.pixel_bytes)
            position = self._step(position, self.levels[-1])
            if len(self.levels) > MAX_DEPTH:
                raise InputError(f"is nested more than {MAX_DEPTH} sequences deep", remedy="No radiograph needs that.")
        raise InputError(f"has more than {MAX_ELEMENTS} elements", remedy="No radiograph needs that.")

    def _only_zeros_from(self, position: int) -> bool:
        """Some writers fill the last block of a file with zeros."""
        return self.data[position : position + 8] == bytes(8) and not any(self.data[position:])

    def _step(self, position: int, level: _Open) -> int:
        element = _element(self.data, position, level.encoding, level.limit)
        if level.kind in ("sequence", "fragments"):
            return self._step_item(element, level)
        if element.tag == _ITEM_END and level.kind == "item" and level.end is None:
            self.levels.pop()
            return element.value
        if element.tag >> 16 == 0xFFFE:
            raise InputError(f"is a damaged DICOM file (a misplaced mark at byte {position})", remedy=_AGAIN)
        if level.kind == "data set":
            self._note_top_level(element)
        return self._step_value(element, level)

    def _note_top_level(self, element: _Element) -> None:
        if element.tag in self.tags:
            name = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
            raise InputError(f"the DICOM tag {name} stands twice", remedy="Which of the two counts is never guessed.")
        self.tags.add(element.tag)
        if element.tag == _PIXEL_DATA and element.length != _UNDEFINED:
            self.pixel_bytes = element.length

    def _step_value(self, element: _Element, level: _Open) -> int:
        if element.length == _UNDEFINED:
            self._open_undefined(element, level)
            return element.value
        end = element.value + element.length
        if end > level.limit:
            raise _cut(element, level.limit)
        if element.vr == b"SQ" or (not element.vr and _is_sequence(element.tag)):
            self.levels.append(_Open("sequence", end, level.encoding, end))
            return element.value
        return end

    def _open_undefined(self, element: _Element, level: _Open) -> None:
        if element.tag == _PIXEL_DATA and element.vr in (b"OB", b"OW") and level.kind == "data set":
            self.levels.append(_Open("fragments", None, level.encoding, level.limit))
        elif element.vr in (b"SQ", b"UN", b""):
            # PS3.5 6.2.2: the items of an unknown element are written implicit, little endian.
            inside = Encoding(False, True) if element.vr == b"UN" else level.encoding
            self.levels.append(_Open("sequence", None, inside, level.limit))
        else:
            raise InputError("is a damaged DICOM file (an element of endless length)", remedy=_AGAIN)

    def _step_item(self, element: _Element, level: _Open) -> int:
        if element.tag == _SEQUENCE_END and level.end is None:
            self.levels.pop()
            return element.value
        if element.tag != _ITEM:
            raise InputError(f"is a damaged DICOM file (no item at byte {element.value - 8})", remedy=_AGAIN)
        if element.length == _UNDEFINED and level.kind == "sequence":
            self.levels.append(_Open("item", None, level.encoding, level.limit))
            return element.value
        end = element.value + element.length
        if end > level.limit:
            raise _cut(element, level.limit)
        if level.kind == "fragments":
            return end
        self.levels.append(_Open("item", end, level.encoding, end))
        return element.value


def _is_sequence(tag: int) -> bool:
    """By the standard's dictionary: an implicit element does not say so itself."""
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _canonical_header(syntax: str) -> bytes:
    value = syntax.encode("ascii", "replace")
    value += bytes(len(value) % 2)
    element = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 0x0002, 0, b"UL", 4, len(element)) + element
