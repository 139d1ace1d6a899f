"""What the gate looks at: a small picture of the film's content and the directions of its edges, as one row of numbers.

The black bars that a film is padded with are cut off first and the rest is stretched to a small square, so a film looks
the same before and after `images.to_square`. Edge directions keep their sign (Dalal and Triggs 2005, Histograms of
Oriented Gradients for Human Detection, doi:10.1109/CVPR.2005.177, with 360 degrees instead of 180): a bright heart in
dark lungs and a dark heart in bright lungs differ in nothing else.

Axes: H, W the film; 64 x 64 the small picture; F features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

#: Side of the small picture: ribs are still seen, letters are not.
SMALL_PX: Final = 64
_CELL_PX: Final = 8
_CELLS: Final = SMALL_PX // _CELL_PX
_DIRECTIONS: Final = 8
#: Side of the picture whose grey levels are features.
_THUMB: Final = 16
_LEVELS: Final = 8
NUM_FEATURES: Final = _CELLS * _CELLS * _DIRECTIONS + _THUMB * _THUMB + _LEVELS
#: A row or column with less than this range of grey (of 1) is padding.
_PADDING_RANGE: Final = 0.03
#: Larger images are thinned first: every second, third ... pixel, so that a 12-megapixel film costs no more than this.
_ENOUGH_PX: Final = 512
#: Contrast (of 1) that counts as none: noise in an even region must not become edges when it is normalised.
_FLOOR: Final = 0.3


def content(pixels: np.ndarray) -> np.ndarray:
    """The part of an image [H, W] inside its even borders (a view); the whole image where nothing would be left."""
    rows = np.flatnonzero(np.ptp(pixels, axis=1) > _PADDING_RANGE)
    if len(rows) < 2:
        return pixels
    inside = pixels[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(np.ptp(inside, axis=0) > _PADDING_RANGE)
    return inside if len(columns) < 2 else inside[:, columns[0] : columns[-1] + 1]


def thin(pixels: np.ndarray) -> np.ndarray:
    """Every k-th pixel of an image [H, W], so that its shorter side keeps at least 512 pixels (if it had them)."""
    step = max(1, min(pixels.shape) // _ENOUGH_PX)
    return pixels[::step, ::step]


def small_picture(pixels: np.ndarray) -> np.ndarray:
    """The content of a film [H, W] in [0, 1] as float32 [64, 64], its 1st and 99th percentile stretched to 0 and 1."""
    inside = np.ascontiguousarray(content(thin(pixels)), dtype=np.float32)
    picture = np.asarray(Image.fromarray(inside).resize((SMALL_PX, SMALL_PX), Image.Resampling.BILINEAR))
    low, high = np.percentile(picture, [1, 99])
    return np.clip((picture - low) / max(high - low, 1e-3), 0, 1).astype(np.float32)


def features(picture: np.ndarray) -> np.ndarray:
    """Edge directions by cell, grey levels of a thumbnail and their histogram: float32 [F].

    Args:
        picture: float32 [64, 64] in [0, 1], as `small_picture` gives it.
    """
    block = SMALL_PX // _THUMB
    thumb = picture.reshape(_THUMB, block, _THUMB, block).mean(axis=(1, 3))
    levels = np.histogram(picture, bins=_LEVELS, range=(0, 1))[0] / picture.size
    grey = (thumb - thumb.mean()) / max(float(thumb.std()), 0.05)
    return np.concatenate([_edges(picture).ravel(), grey.ravel(), levels]).astype(np.float32)


def _edges(picture: np.ndarray) -> np.ndarray:
    """Histogram of signed edge directions in each cell, [8, 8, 8], divided by the contrast of the cells around it."""
    down, across = np.gradient(picture)
    strength = np.hypot(down, across)
    direction = (np.arctan2(down, across) / (2 * np.pi) % 1.0) * _DIRECTIONS
    first = np.floor(direction).astype(np.int64)
    share = direction - first
    row, column = np.indices(picture.shape) // _CELL_PX
    start = (row * _CELLS + column) * _DIRECTIONS
    length = _CELLS * _CELLS * _DIRECTIONS
    sums = np.bincount((start + first % _DIRECTIONS).ravel(), (strength * (1 - share)).ravel(), minlength=length)
    sums += np.bincount((start + (first + 1) % _DIRECTIONS).ravel(), (strength * share).ravel(), minlength=length)
    cells = sums.reshape(_CELLS, _CELLS, _DIRECTIONS)
    padded = np.pad((cells * cells).sum(axis=-1), 1, mode="edge")
    around = sum(padded[i : i + _CELLS, j : j + _CELLS] for i in range(3) for j in range(3)) / 9
    return np.sqrt(cells / np.sqrt(around + _FLOOR * _FLOOR)[..., None])
