"""Measurements of exposure and noise: one number each, with a limit that says from where on a film tells nothing.

Axes: H, W the film's content, float32 in [0, 1].
"""

from __future__ import annotations

import numpy as np

#: A grey level that holds more than this share of the pixels alone is looked at as clipping.
_LEVELS = 64


def grey_range(pixels: np.ndarray) -> float:
    """Range between the 2nd and the 98th percentile, of 1."""
    low, high = np.percentile(pixels, [2, 98])
    return float(high - low)


def neighbour_correlation(pixels: np.ndarray) -> float:
    """Pearson correlation of horizontally and vertically neighbouring pixels; 1 for a constant image."""
    values = pixels.astype(np.float64)
    first = np.concatenate([values[:, :-1].ravel(), values[:-1].ravel()])
    second = np.concatenate([values[:, 1:].ravel(), values[1:].ravel()])
    if first.std() < 1e-9 or second.std() < 1e-9:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])


def clipped_share(pixels: np.ndarray, *, bright: bool) -> float:
    """Share of the film's inner half that lies within half a grey level in 255 of its brightest (darkest) value.

    The outer quarter on each side is not looked at: air beside the patient is rightly clipped. A film whose lungs are
    black or whose heart and abdomen are one white has lost what was there.
    """
    height, width = pixels.shape
    inside = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    if bright:
        return float((inside >= pixels.max() - 0.002).mean())
    return float((inside <= pixels.min() + 0.002).mean())
