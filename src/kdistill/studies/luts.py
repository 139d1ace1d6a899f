"""Stored values -> display values, as tables over all stored values that occur: exact, and one look-up a pixel.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and window functions), C.7.6.3.1.5 (palette).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kdistill.errors import InputError
from kdistill.studies.film import Note

#: Without a usable window: the share of pixels left below black and above white, in percent.
PERCENTILES = (0.5, 99.5)


class Table(NamedTuple):
    """A look-up table: value of the first entry's input, output of each entry, bits of the output."""

    first: int
    entries: np.ndarray
    bits: int

    def of(self, values: np.ndarray) -> np.ndarray:
        """Look values up; beyond either end the first or last entry counts (C.11.1.1.1)."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)].astype(np.float64)


def read_table(descriptor: Any, data: Any, *, name: str, little: bool) -> Table:
    """A LUT from its descriptor (entries, first, bits) and data (16-bit words, or bytes where they are so packed).

    Raises:
        InputError: It is missing or contradicts itself; the tag is named.
    """
    if descriptor is None or data is None:
        raise InputError(
            f"the DICOM tag {name} is missing", remedy="It is needed to show the pixels and is never guessed."
        )
    try:
        count, first, bits = (int(value) for value in descriptor)
    except (TypeError, ValueError) as error:
        raise InputError(f"the DICOM tag {name} is damaged", remedy="Export it again.") from error
    count = count or 65536
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little else ">u2")
    else:
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)
    is_packed = bits == 8 and little and count > 1 and len(words) == (count + 1) // 2
    entries = words.astype("<u2").view(np.uint8) if is_packed else words
    if not (0 < count <= len(entries) and 1 <= bits <= 16):
        raise InputError(
            f"the DICOM tag {name} claims {count} entries of {bits} bits, its data hold {len(entries)}",
            remedy="Export it again.",
        )
    return Table(first, entries[:count], bits)


def modality(dataset: Any, codes: np.ndarray) -> tuple[np.ndarray, bool]:
    """Apply the modality LUT, or rescale slope and intercept.

    Args:
        dataset: The data set.
        codes: Stored values [K].

    Returns:
        Float64 [K], and whether their unit is known: after a slope that cannot be used, no window fits them.
    """
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        item = sequence[0]
        table = read_table(
            item.get("LUTDescriptor"), item.get("LUTData"), name="ModalityLUTSequence", little=_little(dataset)
        )
        return table.of(codes), True
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if "RescaleSlope" not in dataset and "RescaleIntercept" not in dataset:
        return codes.astype(np.float64), True
    if not slope or intercept is None:
        return codes.astype(np.float64), False
    return codes * slope + intercept, True


def _little(dataset: Any) -> bool:
    return dataset.original_encoding[1] is not False


def number(dataset: Any, keyword: str) -> float | None:
    """The first value of a numeric tag; None where it is absent, no number, infinite or NaN."""
    try:
        value = float(np.atleast_1d(np.asarray(dataset.get(keyword), dtype=float))[0])
    except (TypeError, ValueError, IndexError):
        return None
    return value if np.isfinite(value) else None


def shown(dataset: Any, codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, tuple[Note, ...]]:
    """Modality LUT, then VOI LUT, window (the first of several) or percentiles.

    Args:
        dataset: The data set.
        codes: Stored values that occur or lie between such, ascending [K].
        counts: How many pixels outside the padding have each [K].

    Returns:
        Float64 [K] in [0, 1] before polarity, and what must be told.
    """
    modal, unit_known = modality(dataset, codes)
    if not unit_known:
        return by_percentiles(modal, counts), ("rescale_unusable",)
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        item = sequence[0]
        table = read_table(
            item.get("LUTDescriptor"), item.get("LUTData"), name="VOILUTSequence", little=_little(dataset)
        )
        if table.first > 32767 and modal.min() < 0:  # a signed first value behind an unsigned VR
            table = table._replace(first=table.first - 65536)
        return np.clip(table.of(modal) / (2.0**table.bits - 1), 0.0, 1.0), ()
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if centre is not None and width is not None:
        grey = windowed(modal, centre, width, function)
        if grey is not None:
            return grey, ()
    given = "WindowCenter" in dataset or "WindowWidth" in dataset
    return by_percentiles(modal, counts), ("window_unusable",) if given else ()


def windowed(modal: np.ndarray, centre: float, width: float, function: str) -> np.ndarray | None:
    """A window function of C.11.2.1.2 and C.11.2.1.3, to [0, 1]; None for a width or function that has no meaning.

    >>> windowed(np.array([0.0, 100.0, 200.0]), 100, 200, "LINEAR_EXACT")
    array([0. , 0.5, 1. ])
    """
    match function:
        case "LINEAR" if width >= 1:
            if width == 1:
                return (modal > centre - 0.5).astype(np.float64)
            return np.clip((modal - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
        case "LINEAR_EXACT" if width > 0:
            return np.clip((modal - centre) / width + 0.5, 0.0, 1.0)
        case "SIGMOID" if width > 0:
            return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (modal - centre) / width, -700, 700)))
        case _:
            return None


def by_percentiles(modal: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Stretch the values between two percentiles of the pixels (numpy's linear rule) to [0, 1]."""
    order = np.argsort(modal, kind="stable")
    values, upto = modal[order], np.cumsum(counts[order])
    low, high = (_percentile(values, upto, q) for q in PERCENTILES)
    return np.clip((modal - low) / max(high - low, 1e-9), 0.0, 1.0)


def _percentile(values: np.ndarray, upto: np.ndarray, q: float) -> float:
    at = (int(upto[-1]) - 1) * q / 100.0
    below, above = (values[np.searchsorted(upto, position, side="right")] for position in (np.floor(at), np.ceil(at)))
    return float(below + (above - below) * (at - np.floor(at)))


def palette(dataset: Any, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Look a PALETTE COLOR image up: (integers [H, W, 3], bits of each).

    Raises:
        InputError: A table is missing or damaged; its tag is named.
    """
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        table = read_table(
            dataset.get(name + "Descriptor"), dataset.get(name + "Data"), name=name + "Data", little=_little(dataset)
        )
        channels.append((table.of(values), table.bits))
    return np.stack([channel for channel, _ in channels], axis=-1).astype(np.int64), max(bits for _, bits in channels)
