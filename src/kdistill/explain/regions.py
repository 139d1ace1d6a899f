"""Evidence map -> the region that an export can point at, in the pixels of the source image."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Share of the attention that the marked patches hold together.
REGION_MASS: Final = 0.5


class PixelBox(NamedTuple):
    """A rectangle in pixels of the source image, from its upper left corner; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float


def evidence_box(evidence_map: NDArray[np.floating], height: int, width: int) -> PixelBox | None:
    """The place that holds most of an observation's evidence.

    The strongest patches that hold half of the attention are marked; of the connected groups among them (edges or
    corners touching) the one with the most attention is taken, and the rectangle around it is carried from the padded
    square that the model saw back to the source image.

    Args:
        evidence_map: [G, G], rows from the top; sums to one.
        height: Rows of the source image.
        width: Columns of the source image.

    Returns:
        The rectangle, cut to the image; None where it lies on the padding alone.
    """
    marked = _strongest(np.asarray(evidence_map, dtype=np.float64))
    rows, columns = np.nonzero(marked)
    size, grid = max(height, width), len(evidence_map)
    top, left = (size - height) / 2, (size - width) / 2  # as `studies.images.to_square` pads
    cell = size / grid
    box = PixelBox(
        max(columns.min() * cell - left, 0.0),
        max(rows.min() * cell - top, 0.0),
        min((columns.max() + 1) * cell - left, float(width)),
        min((rows.max() + 1) * cell - top, float(height)),
    )
    return box if box.left < box.right and box.top < box.bottom else None


def _strongest(attention: NDArray[np.float64]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    order = np.argsort(-attention, axis=None, kind="stable")
    mass = np.cumsum(attention.ravel()[order])
    count = int(np.searchsorted(mass, REGION_MASS * mass[-1])) + 1
    marked = np.zeros(attention.shape, dtype=bool)
    marked.ravel()[order[:count]] = True
    groups, number = label(marked, structure=np.ones((3, 3)))
    weights = [attention[groups == group].sum() for group in range(1, number + 1)]
    return np.asarray(groups == 1 + int(np.argmax(weights)))
