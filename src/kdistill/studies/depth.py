"""The values behind a film's grey: what a viewer needs to move the window that the film was decoded with.

A decoded film is cut to its display window, and what lies outside is gone. `Depth` keeps the values from before, with
the window as two of them, so that a viewer which sets this window shows exactly what a student was given.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and window functions).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Differences of grey (0 to 1) below this are rounding: a 16-bit step is 1.5e-5.
_EXACT: Final = 1e-6


class Depth(NamedTuple):
    """Values of a film at full depth; larger is brighter, whatever the file's polarity.

    Attributes:
        values: uint16 [H, W].
        low: The value that the decoded film shows as black (may lie outside what occurs).
        high: The value that it shows as white.
        slope: The unit of the file is `slope * value + intercept` (negative where the file is MONOCHROME1).
        intercept: See `slope`.
        is_linear: False: the file brings a curve in place of a window; `values` are then taken behind it, 0 to 65535.
        shape: Rows and columns of the file; `values` may hold fewer.
    """

    values: NDArray[np.uint16]
    low: float
    high: float
    slope: float
    intercept: float
    is_linear: bool
    shape: tuple[int, int]


def depth_of_grey(grey: NDArray[np.float32]) -> Depth:
    """The depth of a film whose file has no window: its 8-bit values where it has no finer ones, else 16 bits.

    >>> depth_of_grey(np.array([[0.0, 1.0]], dtype=np.float32)).high
    255.0
    """
    rounded = np.rint(grey * np.float32(255))
    is_8bit = bool(np.abs(rounded - grey * np.float32(255)).max() < 1e-3)
    values = rounded if is_8bit else np.rint(grey * np.float32(65535))
    high = 255.0 if is_8bit else 65535.0
    return Depth(values.astype(np.uint16), 0.0, high, 1.0, 0.0, True, (grey.shape[0], grey.shape[1]))


def depth_of_codes(
    stored: NDArray[np.int32],
    codes: NDArray[np.int64],
    modal: NDArray[np.float64],
    table: NDArray[np.float64],
    padding: NDArray[np.bool_] | None,
) -> Depth:
    """The depth of a film that was decoded by one table over its stored values.

    Args:
        stored: Stored values [H, W].
        codes: Every whole number from the least to the largest of them [K].
        modal: `codes` in the unit of the file, that is after the modality LUT [K].
        table: Grey of each code, polarity resolved, 0 to 1 [K].
        padding: Pixels outside the exposed field; they get the least value.
    """
    shape = (stored.shape[0], stored.shape[1])
    line = _line(codes, table)
    if line is None:
        values = np.rint(table * 65535).astype(np.uint16)[stored - codes[0]]
        found = Depth(values, 0.0, 65535.0, 1.0, 0.0, False, shape)
    else:
        found = _of_line(stored, codes, modal, line, shape, is_padded=padding is not None)
    if padding is not None:
        found.values[padding] = 0
    return found


def _of_line(
    stored: NDArray[np.int32],
    codes: NDArray[np.int64],
    modal: NDArray[np.float64],
    line: tuple[float, float],
    shape: tuple[int, int],
    *,
    is_padded: bool,
) -> Depth:
    black, white = line
    sign, first = (1, int(codes[0])) if white > black else (-1, int(codes[-1]))
    low, high = sign * (black - first), sign * (white - first)
    # Padding is black in the film: its value has to lie at the window's lower end or below it.
    shift = min(max(int(np.ceil(-low)), 0), 65535 - len(codes)) if is_padded else 0
    values = (sign * (stored - first) + max(shift, 0)).astype(np.uint16)
    slope, intercept = _unit(codes, modal, first)
    return Depth(
        values,
        low + max(shift, 0),
        high + max(shift, 0),
        sign * slope,
        intercept - sign * slope * max(shift, 0),
        True,
        shape,
    )


def _line(codes: NDArray[np.int64], table: NDArray[np.float64]) -> tuple[float, float] | None:
    """(code at black, code at white) where the table is a straight line cut to 0 and 1; None where it is not."""
    inside = np.flatnonzero((table > 0) & (table < 1))
    if len(inside) < 2:
        return None
    first, last = inside[0], inside[-1]
    rise = (table[last] - table[first]) / float(codes[last] - codes[first])
    if rise == 0:
        return None
    black = float(codes[first]) - table[first] / rise
    straight = np.clip((codes - black) * rise, 0.0, 1.0)
    return (black, black + 1 / rise) if np.abs(straight - table).max() < _EXACT else None


def _unit(codes: NDArray[np.int64], modal: NDArray[np.float64], first: int) -> tuple[float, float]:
    """(slope, value of the code `first`) of the modality step; stored values count where it is no straight line."""
    slope = (modal[-1] - modal[0]) / float(codes[-1] - codes[0])
    straight = modal[0] + slope * (codes - codes[0])
    if slope == 0 or np.abs(straight - modal).max() > 1e-6 * max(1.0, float(np.abs(modal).max())):
        return 1.0, float(first)
    return float(slope), float(modal[0] + slope * (first - codes[0]))


def shrunk(depth: Depth, longest_px: int) -> Depth:
    """The same film with at most `longest_px` pixels on its longer side, each the mean of those it stands for."""
    height, width = depth.values.shape
    if max(height, width) <= longest_px:
        return depth
    scale = longest_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(depth.values.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return depth._replace(values=np.rint(np.asarray(small)).astype(np.uint16))
