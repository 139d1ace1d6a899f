"""DICOM -> grey pixels: modality LUT, VOI LUT or window, polarity, padding, each once and in the standard's order.

Source: DICOM PS3.3 C.7.6.3 (image pixel), C.7.5.1.1.2 (padding), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6
(presentation LUT shape); PS3.5 8.1.1 (pixel cells). Polarity and depth are never guessed: a file that does not say them
is refused.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from kdistill.errors import InputError
from kdistill.studies import luts
from kdistill.studies.codecs import NATIVE, SYNTAXES, Frame, clean_uid, decode_frame
from kdistill.studies.depth import Depth, depth_of_codes
from kdistill.studies.dicom_file import BIG_ENDIAN, DicomBytes, looks_like_dicom, open_dicom
from kdistill.studies.dicom_policy import code, what_it_shows
from kdistill.studies.film import LOSSY_COLOUR, MAX_PIXELS, Film, Note

_REQUIRED: Final = (
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
#: Everything that is looked at; the rest (names, dates, private groups) is never parsed.
_READ: Final = (
    *_REQUIRED,
    *("HighBit", "NumberOfFrames", "PlanarConfiguration", "PixelData", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "PresentationLUTShape", "SOPClassUID", "Modality", "BodyPartExamined"),
    *("ViewPosition", "PatientOrientation", "PatientAge", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
)
#: What a code, date or time may look like: nothing that could reach a terminal or a page raw.
_CODE: Final = re.compile(r"[A-Za-z0-9_. -]{1,32}")
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def decode_dicom(data: bytes, *, require_chest: bool = True, keep_depth: bool = False) -> Film:
    """Decode the bytes of a DICOM file in this process. For files of unknown origin use `decoding.DecoderPool`.

    Args:
        data: The file.
        require_chest: Refuse what is no chest radiograph by its tags; False: only note it.
        keep_depth: Also give the values from before the display window.

    Raises:
        InputError: A needed tag is missing (it is named) or contradicts another, the pixels are damaged or cut,
            compressed in a way that needs an extra (named), multi-frame, in colour, or no chest radiograph.
    """
    try:
        with quiet_pydicom():
            return _decode(data, require_chest, keep_depth)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("needs more memory than decoding may use", remedy="Give a smaller image.") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    # pydicom and its decoders raise ten different types on damaged files (FAULTS 15); a panic in a decoder written in
    # Rust (pylibjpeg-rle) arrives as an exception that is no `Exception`.
    except BaseException as error:
        raise InputError(
            f"is a damaged DICOM file ({type(error).__name__})", remedy="Export it again from the archive."
        ) from error


def dicom_header(data: bytes) -> Any | None:
    """The data set of a DICOM file without its pixels; None for the bytes of any other file.

    Raises:
        InputError: The file says that it is DICOM and cannot be read.
    """
    import pydicom

    if not looks_like_dicom(data):
        return None
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(io.BytesIO(open_dicom(data).data), stop_before_pixels=True)
            dataset.buffer = None  # the whole file, pixels and all, would be kept as long as a result is
            _shorten(dataset)
            return dataset
    except InputError:
        raise
    except Exception as error:  # FAULTS 15
        raise InputError(
            f"is a damaged DICOM file ({type(error).__name__})", remedy="Export it again from the archive."
        ) from error


#: Values of bytes, which no result copies.
_PACKED: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
#: Texts that results copy (names, identifiers, descriptions) have 64 letters by the standard, some 10,240.
_MAX_VALUE_CHARS: Final = 16_000
_MAX_HEADER_CHARS: Final = 200_000


def _shorten(dataset: Any) -> None:
    """Take out what no result copies. Of very many tags the first stay: what names patient and study comes first."""
    kept = 0
    for element in list(dataset):
        number = 0 if element.VR in _PACKED else _num_chars(element)
        is_large = number > _MAX_VALUE_CHARS or kept + number > _MAX_HEADER_CHARS
        if element.tag.is_private or element.VR in _PACKED or is_large:
            del dataset[element.tag]
        else:
            kept += number


def _num_chars(element: Any) -> int:
    """Letters of a value, or of all values of a sequence; empty elements count too, so that many of them add up."""
    if element.VR == "SQ":
        return sum(8 + _num_chars(nested) for item in element.value for nested in item)
    value = element.value
    return 8 * element.VM + (len(value) if isinstance(value, (str, bytes)) else len(str(value)))


def read_header(path: Path, keywords: Sequence[str]) -> dict[str, str]:
    """Read some short tags of a DICOM file without its pixels ("" where a tag is missing or no plain code).

    Args:
        path: The file.
        keywords: DICOM keywords of single codes, dates or times.

    Raises:
        InputError: It cannot be read or is deflated (a small file may then hold gigabytes before its pixels).
    """
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        with quiet_pydicom():
            syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
            if syntax == DeflatedExplicitVRLittleEndian:
                raise InputError("is a deflated DICOM file: its header is not read", where=path.name)
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
            texts = {keyword: str(dataset.get(keyword) or "").strip() for keyword in keywords}
    except InputError:
        raise
    except Exception as error:  # FAULTS 15
        raise InputError(
            f"is no DICOM file or a damaged one ({type(error).__name__})", where=path.name, remedy="Download it again."
        ) from error
    return {keyword: text if _CODE.fullmatch(text) else "" for keyword, text in texts.items()}


def is_compressed_dicom(data: bytes) -> bool:
    """Whether native code would have to decode the pixels (False for what is no readable DICOM file)."""
    try:
        return open_dicom(data).syntax not in NATIVE
    except InputError:
        return False


#: The level of a logger and the filters of warnings belong to the whole process.
_QUIET: Final = threading.RLock()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """pydicom warns and logs with values in the text, which may be a patient's; what matters is checked here."""
    logger = logging.getLogger("pydicom")
    with _QUIET:
        before = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(before)


def _decode(data: bytes, require_chest: bool, keep_depth: bool) -> Film:
    import pydicom

    file = open_dicom(data)
    dataset = pydicom.dcmread(io.BytesIO(file.data), specific_tags=list(_READ))
    notes, view = what_it_shows(dataset, require_chest=require_chest)
    frame = _required(dataset, file)
    photometric = code(dataset, "PhotometricInterpretation")
    stored = _stored_values(dataset, file, frame)
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        grey, more, depth = _grey(dataset, stored, keep_depth)
    else:
        grey, more, depth = _grey_of_colours(dataset, file, stored, frame), (), None
    return Film(grey, (*file.notes, *notes, *more), view, depth)


def _required(dataset: Any, file: DicomBytes) -> Frame:
    """Check every tag that the pixels depend on, before anything is allocated."""
    for keyword in _REQUIRED:
        if dataset.get(keyword) in (None, ""):
            raise InputError(
                f"the DICOM tag {keyword} is missing", remedy="It is needed to show the pixels and is never guessed."
            )
    if not file.layout.has_pixels:
        raise InputError("the DICOM file has no PixelData", remedy="Give an image object, not a header or a report.")
    frames = 1 if dataset.get("NumberOfFrames") in (None, "") else _whole(dataset, "NumberOfFrames", 0, 2**31)
    if frames > 1:
        raise InputError(f"is a multi-frame object ({frames} frames), not one radiograph")
    rows, columns = _whole(dataset, "Rows", 1, 65535), _whole(dataset, "Columns", 1, 65535)
    if rows * columns > MAX_PIXELS:
        raise InputError(f"claims {columns} x {rows} pixels, more than {MAX_PIXELS}")
    samples = _whole(dataset, "SamplesPerPixel", 1, 3)
    allocated = _whole(dataset, "BitsAllocated", 8, 16)
    frame = Frame(rows, columns, samples, allocated, _whole(dataset, "BitsStored", 1, allocated))
    _whole(dataset, "PixelRepresentation", 0, 1)
    _require_kind(code(dataset, "PhotometricInterpretation"), frame)
    if file.syntax in NATIVE:
        _require_length(file, frame, code(dataset, "PhotometricInterpretation"))
    elif file.layout.pixel_bytes is not None:
        raise InputError(f"its pixels should be compressed ({clean_uid(file.syntax)}) but stand uncompressed")
    return frame


def _whole(dataset: Any, keyword: str, low: int, high: int) -> int:
    value = dataset.get(keyword)
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"the DICOM tag {keyword} is no whole number", remedy="Export it again.") from error
    if not low <= number <= high:
        raise InputError(
            f"the DICOM tag {keyword} is {number}, not between {low} and {high}", remedy="Export it again."
        )
    return number


def _require_kind(photometric: str, frame: Frame) -> None:
    channels = (
        3 if photometric in _COLOURS else 1 if photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 0
    )
    if not channels:
        raise InputError(f"PhotometricInterpretation is {photometric}, not a grey radiograph")
    if channels != frame.samples or frame.bits_allocated not in (8, 16):
        raise InputError(
            f"SamplesPerPixel {frame.samples} and BitsAllocated {frame.bits_allocated} do not fit {photometric}",
            remedy="Export it again.",
        )


def _require_length(file: DicomBytes, frame: Frame, photometric: str) -> None:
    """Exactly the bytes that the tags promise: one row too many or too few shears the picture."""
    cells_a_pixel = (
        2 if photometric == "YBR_FULL_422" else frame.samples
    )  # C.7.6.3.1.2: every second colour is left out
    expected = frame.rows * frame.columns * cells_a_pixel * (frame.bits_allocated // 8)
    found = file.layout.pixel_bytes
    if found is None:
        raise InputError("its pixels are compressed but its transfer syntax says that they are not")
    if found not in (expected, expected + expected % 2):
        raise InputError(
            f"its tags promise {expected} bytes of pixels, there are {found}",
            remedy="It is cut or its size tags are wrong; export it again.",
        )


def _stored_values(dataset: Any, file: DicomBytes, frame: Frame) -> np.ndarray:
    """The value of every pixel as it is stored: sign and bit position resolved, int32 [H, W] or [H, W, 3]."""
    high_bit = frame.bits_stored - 1  # the only value that the standard allows today (PS3.5 8.1.1)
    if dataset.get("HighBit") not in (None, ""):
        high_bit = _whole(dataset, "HighBit", frame.bits_stored - 1, frame.bits_allocated - 1)
    signed = int(dataset.PixelRepresentation) == 1
    if file.syntax in NATIVE:
        from pydicom.pixels import get_decoder
        from pydicom.uid import UID

        options: Any = {"correct_unused_bits": False}
        cells, _ = get_decoder(UID(file.syntax)).as_array(dataset, **options)
    else:
        cells = decode_frame(dataset, file.syntax, frame)
    shape = (frame.rows, frame.columns, 3)[: 2 if frame.samples == 1 else 3]
    if cells.shape != shape:
        raise InputError(f"its pixels decode to {cells.ndim} dimensions, not to one image")
    if file.syntax in NATIVE or SYNTAXES[file.syntax].family == "rle":
        return _from_cells(cells, frame.bits_stored, high_bit, signed)
    if high_bit != frame.bits_stored - 1:
        raise InputError(
            "HighBit is off in compressed pixels: which bits count is not plain", remedy="Export it again."
        )
    return _from_codec(cells, frame.bits_stored, signed)


def _from_cells(cells: np.ndarray, stored: int, high_bit: int, signed: bool) -> np.ndarray:
    """Take the bits up to HighBit out of each cell: an older standard let overlays live in the others."""
    unsigned = cells.view(np.dtype(f"u{cells.dtype.itemsize}").newbyteorder(cells.dtype.byteorder))
    values = (unsigned.astype(np.int32) >> (high_bit + 1 - stored)) & ((1 << stored) - 1)
    return np.where(values >> (stored - 1), values - (1 << stored), values) if signed else values


def _from_codec(cells: np.ndarray, stored: int, signed: bool) -> np.ndarray:
    """A codec gives values; where they do not fit BitsStored, one of the two is wrong."""
    values = cells.astype(np.int32)
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if signed else (0, 1 << stored)
    if signed and values.min() >= 0 and values.max() < 1 << stored:  # two's complement that was not extended
        values = np.where(values >= high, values - (1 << stored), values)
    if values.min() < low or values.max() >= high:
        raise InputError(f"its pixels do not fit BitsStored ({stored})", remedy="Which is wrong is never guessed.")
    return values


def _grey(dataset: Any, stored: np.ndarray, keep_depth: bool) -> tuple[np.ndarray, tuple[Note, ...], Depth | None]:
    """Display values by one table over all stored values, then polarity, then padding in black."""
    padding = _padding_mask(dataset, stored)
    low, high = int(stored.min()), int(stored.max())
    codes = np.arange(low, high + 1)
    counts = np.bincount((stored[~padding] if padding is not None else stored.ravel()) - low, minlength=len(codes))
    table, notes = luts.shown(dataset, codes, counts)
    if _is_inverted(dataset):
        table = 1.0 - table
    grey = table.astype(np.float32)[stored - low]
    if padding is not None:
        grey[padding] = 0.0
    if not keep_depth or low == high:
        return grey, notes, None
    try:
        depth = depth_of_codes(stored, codes, luts.modality(dataset, codes)[0], table, padding)
    except MemoryError:  # a viewer has less to show then; the image is read all the same
        return grey, notes, None
    return grey, notes, depth


def _padding_mask(dataset: Any, stored: np.ndarray) -> np.ndarray | None:
    """Pixels outside the exposed field: PixelPaddingValue, up to PixelPaddingRangeLimit where it stands."""
    padding = luts.number(dataset, "PixelPaddingValue")
    if padding is None:
        return None
    limit = luts.number(dataset, "PixelPaddingRangeLimit")
    ends = [padding, padding if limit is None else limit]
    if int(dataset.PixelRepresentation) == 1:  # written as unsigned beside signed pixels
        ends = [end - 65536 if end > 32767 else end for end in ends]
    mask = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() and not mask.all() else None


def _is_inverted(dataset: Any) -> bool:
    """MONOCHROME1 and PresentationLUTShape INVERSE say the same thing: together they still invert once."""
    return (
        "MONOCHROME1" in code(dataset, "PhotometricInterpretation")
        or code(dataset, "PresentationLUTShape") == "INVERSE"
    )


def _grey_of_colours(dataset: Any, file: DicomBytes, stored: np.ndarray, frame: Frame) -> np.ndarray:
    """A film that was stored in colour is used where its channels are equal: only then is there one grey value."""
    if file.syntax == BIG_ENDIAN and frame.samples == 1:
        raise InputError("is a palette image in big endian order", remedy="Convert it to explicit little endian.")
    rgb, bits = luts.palette(dataset, stored) if frame.samples == 1 else (stored, frame.bits_stored)
    top = (1 << bits) - 1
    lossy = file.syntax not in NATIVE and SYNTAXES[file.syntax].family in ("jpeg", "jpeg_2000", "jpeg_ls")
    allowed = LOSSY_COLOUR * top / 255 if lossy else 0
    if np.abs(rgb - rgb[..., :1]).max() > allowed:
        raise InputError(
            "is a colour picture", remedy="Give the radiograph itself, in grey, not a screenshot or a photograph."
        )
    return (rgb.mean(axis=-1) / top).astype(np.float32)
