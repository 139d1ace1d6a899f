"""DICOM -> grey pixels: modality LUT, padding, VOI LUT, then polarity, each applied once and in the standard's order.

Source: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT shape).
Polarity is never guessed: a file that does not say it is refused.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from kdistill.errors import InputError

_REQUIRED: Final = (
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
_MAX_PIXELS: Final = 64_000_000
#: What a code, date or time may look like: nothing that could reach a terminal or a page raw.
_CODE: Final = re.compile(r"[A-Za-z0-9_. -]{1,32}")


def decode_dicom(data: bytes) -> np.ndarray:
    """Decode the bytes of a DICOM file.

    Returns:
        Float32 [H, W] in [0, 1], bright = dense.

    Raises:
        InputError: A needed tag is missing (it is named), the pixels are damaged, compressed in a way that needs an
            extra (named), multi-frame or in colour.
    """
    dataset = _read(data)
    _require_tags(dataset)
    values = _stored_values(dataset)
    padding = _padding_mask(dataset, values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about harmless value lengths; what matters is checked here
        grey = _display_range(dataset, values, padding)
    if _is_inverted(dataset):
        grey = 1.0 - grey
    grey[padding] = 0.0
    return grey.astype(np.float32)


def dicom_header(data: bytes) -> Any | None:
    """The dataset of a DICOM file without its pixels; None for the bytes of any other file.

    Raises:
        InputError: The file says that it is DICOM and cannot be read.
    """
    if data[128:132] != b"DICM":
        return None
    dataset = _read(data)
    del dataset.PixelData
    return dataset


def _read(data: bytes) -> Any:
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # pydicom raises ten different types on damaged files (FAULTS 15)
        raise InputError(
            f"is a damaged DICOM file ({type(error).__name__})", remedy="Export it again from the archive."
        ) from error


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


def _require_tags(dataset: Any) -> None:
    for keyword in _REQUIRED:
        if dataset.get(keyword) in (None, ""):
            raise InputError(
                f"the DICOM tag {keyword} is missing", remedy="It is needed to show the pixels and is never guessed."
            )
    if "PixelData" not in dataset:
        raise InputError("the DICOM file has no PixelData", remedy="Give an image object, not a header or a report.")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise InputError("is a multi-frame object, not one radiograph")
    if dataset.Rows * dataset.Columns > _MAX_PIXELS:
        raise InputError(f"claims {dataset.Columns} x {dataset.Rows} pixels, more than {_MAX_PIXELS}")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(
            f"PhotometricInterpretation is {str(dataset.PhotometricInterpretation)[:16]!r}, not a grey radiograph"
        )


def _stored_values(dataset: Any) -> np.ndarray:
    shift = _widen_to_high_bit(dataset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(dataset.pixel_array)
    except (ImportError, RuntimeError, NotImplementedError) as error:
        name = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise InputError(
            f"its pixels are compressed as {name}, which cannot be decoded here",
            remedy="Install a decoder: pip install 'kdistill[dicom]'",
        ) from error
    except Exception as error:  # FAULTS 15
        raise InputError(f"its pixel data are damaged ({type(error).__name__})", remedy="Export it again.") from error
    if values.ndim != 2:
        raise InputError(f"its pixels have {values.ndim} dimensions, not a grey image")
    return values >> shift


def _widen_to_high_bit(dataset: Any) -> int:
    """A HighBit above BitsStored - 1 (retired, but it occurs): pydicom would keep the low bits and drop the high ones.

    Returns:
        By how many bits the decoded values have to be shifted down.
    """
    stored, high_bit = int(dataset.BitsStored), int(dataset.get("HighBit") or 0)
    if not stored <= high_bit < int(dataset.BitsAllocated):
        return 0
    dataset.BitsStored = high_bit + 1
    return high_bit + 1 - stored


def _padding_mask(dataset: Any, values: np.ndarray) -> np.ndarray:
    """Pixels outside the exposed field: PixelPaddingValue, up to PixelPaddingRangeLimit where it stands."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return np.zeros(values.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    mask = (values >= low) & (values <= high)
    return mask if not mask.all() else np.zeros(values.shape, dtype=bool)


def _display_range(dataset: Any, values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Modality LUT, then VOI LUT or window (the first of several), else the 0.5 to 99.5 percentiles; to [0, 1]."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    if dataset.get("RescaleSlope") in (0, 0.0):
        dataset.RescaleSlope = 1  # a slope of 0 erases the image; the standard forbids it
    modal = np.asarray(apply_modality_lut(values, dataset), dtype=np.float64)
    if "VOILUTSequence" in dataset:
        shown = np.asarray(apply_voi_lut(modal.astype(values.dtype), dataset), dtype=np.float64)
        low, high = float(shown.min()), float(shown.max())
        return (shown - low) / max(high - low, 1e-9)
    window = _first_window(dataset)
    if window is None:
        low, high = np.percentile(modal[~padding], [0.5, 99.5])
        return np.clip((modal - low) / max(high - low, 1e-9), 0.0, 1.0)
    centre, width = window
    if str(dataset.get("VOILUTFunction", "LINEAR")) == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (modal - centre) / width))
    # PS3.3 C.11.2.1.2.1: linear between centre - 0.5 - (width - 1) / 2 and centre - 0.5 + (width - 1) / 2.
    return np.clip((modal - (centre - 0.5)) / max(width - 1.0, 1e-9) + 0.5, 0.0, 1.0)


def _first_window(dataset: Any) -> tuple[float, float] | None:
    try:
        centre, width = (
            np.atleast_1d(np.asarray(dataset.get(k), dtype=float))[0] for k in ("WindowCenter", "WindowWidth")
        )
    except (TypeError, ValueError, IndexError):
        return None
    usable = np.isfinite(centre) and np.isfinite(width) and width >= 1
    return (float(centre), float(width)) if usable else None


def _is_inverted(dataset: Any) -> bool:
    """MONOCHROME1 and PresentationLUTShape INVERSE say the same thing: together they still invert once."""
    return dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"
