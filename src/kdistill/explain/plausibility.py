"""Is there a radiograph to read? Two measurements on the canonical image, each with one documented limit.

They catch what a model must never report on: a blank or nearly blank image, and noise. They do not tell a chest from a
knee: that needs the out-of-distribution model of a later stage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdistill.explain.config import ExplainConfig


def grey_range(image: NDArray[np.uint8]) -> float:
    """Grey levels between the 2nd and the 98th percentile of an image [S, S]."""
    low, high = np.percentile(image, [2, 98])
    return float(high - low)


def neighbour_correlation(image: NDArray[np.uint8]) -> float:
    """Pearson correlation of horizontally and vertically neighbouring pixels; 1 for a constant image."""
    values = image.astype(np.float64)
    first = np.concatenate([values[:, :-1].ravel(), values[:-1].ravel()])
    second = np.concatenate([values[:, 1:].ravel(), values[1:].ravel()])
    if first.std() == 0 or second.std() == 0:
        return 1.0
    return float(np.corrcoef(first, second)[0, 1])


def why_implausible(image: NDArray[np.uint8], config: ExplainConfig) -> str | None:
    """One sentence that says why an image [S, S] cannot be a radiograph, or None."""
    levels = grey_range(image)
    if levels < config.min_grey_range:
        return f"The image is nearly constant ({levels:.0f} of 255 grey levels between its 2nd and 98th percentile)."
    correlation = neighbour_correlation(image)
    if correlation < config.min_neighbour_correlation:
        return (
            f"The image looks like noise (neighbouring pixels correlate at {correlation:.2f}; a radiograph above 0.9)."
        )
    return None
