"""Letters burned into the pixels: small sharp marks of one height in a row, more of them than a side marker has.

Connected components of what stands out from its surroundings, bright or dark, kept where they have the size of letters
and chained to lines (the classical recipe: Wahl, Wong and Casey 1982, Block segmentation and text extraction in mixed
text/image documents). It reads nothing: a name, a date and a hospital's mark count alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

#: Letters are counted at this size of the longer side at most: they are thinner than anything else on a film.
_MAX_SIDE_PX: Final = 1024
_HEIGHT_PX: Final = (6, 48)
#: Side of the neighbourhood that a letter stands out from, in pixels, and by how much of the grey range.
_AROUND_PX: Final = 21
_STANDS_OUT: Final = 0.14
#: Letters of one line differ in height and foot by at most this share of their height, and stand this near.
_ALIKE: Final = 0.35
_FOOT: Final = 0.2
_NEAR: Final = 1.1
#: A line of fewer is a marker (R, L, PORT) or an accident.
_MIN_LINE: Final = 5


class _Mark(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


def count_letters(pixels: np.ndarray) -> int:
    """Number of letters that stand in lines of five or more on a film [H, W] in [0, 1]."""
    from scipy import ndimage

    step = max(1, -(-max(pixels.shape) // _MAX_SIDE_PX))
    image = np.ascontiguousarray(pixels[::step, ::step], dtype=np.float32)
    above = image - ndimage.uniform_filter(image, _AROUND_PX, mode="nearest")
    found = 0
    for ink in (above > _STANDS_OUT, above < -_STANDS_OUT):
        labelled, number = ndimage.label(ink, structure=np.ones((3, 3)))
        if number:
            marks = list(_marks(labelled, ndimage.find_objects(labelled)))
            found = max(found, sum(len(line) for line in lines_of(marks) if len(line) >= _MIN_LINE))
    return found


def _marks(labelled: np.ndarray, boxes: list[tuple[slice, slice]]) -> Iterator[_Mark]:
    """Components of a letter's size and density."""
    for number, (rows, columns) in enumerate(boxes, start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not _HEIGHT_PX[0] <= height <= _HEIGHT_PX[1] or width > 1.6 * height:
            continue
        density = float((labelled[rows, columns] == number).mean())
        if 0.15 <= density <= 0.9 or (width <= 0.4 * height and density > 0.15):
            yield _Mark(rows.start, columns.start, rows.stop, columns.stop)


def lines_of(marks: list[_Mark]) -> list[list[_Mark]]:
    """Chain marks from left to right: like height, same foot, near."""
    lines: list[list[_Mark]] = []
    for mark in sorted(marks, key=lambda m: m.left):
        for line in lines:
            if _follows(line[-1], mark):
                line.append(mark)
                break
        else:
            lines.append([mark])
    return lines


def _follows(last: _Mark, mark: _Mark) -> bool:
    height = max(last.height, mark.height)
    return (
        abs(last.height - mark.height) <= _ALIKE * height
        and min(abs(last.bottom - mark.bottom), abs(last.top - mark.top)) <= _FOOT * height
        and -0.3 * height <= mark.left - last.right <= _NEAR * height
    )
