"""Lead markers on the film: the letter R at the patient's right (image left), and the tag of portable films.

The tag is the phantom's shortcut: in training it goes with one observation, in the test set it does not.
"""

from __future__ import annotations

import numpy as np

from kdistill.studies.phantom.anatomy import marks_rng
from kdistill.studies.phantom.shapes import Field

_LEAD = np.float32(1.6)
_GLYPHS = {
    "R": ("1110", "1001", "1001", "1110", "1010", "1001", "1001"),
    "P": ("1110", "1001", "1001", "1110", "1000", "1000", "1000"),
    "O": ("0110", "1001", "1001", "1001", "1001", "1001", "0110"),
    "T": ("1111", "0110", "0110", "0110", "0110", "0110", "0110"),
}
#: Sub-samples per pixel along each axis: a letter's stroke is about one pixel wide at 128 px.
_SAMPLES = 4


def _bitmap(text: str) -> np.ndarray:
    columns = []
    for letter in text:
        glyph = np.array([[int(bit) for bit in row] for row in _GLYPHS[letter]], dtype=np.float32)
        columns.append(np.pad(glyph, ((0, 0), (0, 1))))
    return np.pad(np.concatenate(columns, axis=1)[:, :-1], 1)


def _stamp(target: Field, text: str, centre: tuple[float, float], height: float, angle: float, invert: bool) -> None:
    """Add lead lettering to an attenuation field; centre and height in image units (-1..1), the letters 7 dots high."""
    bitmap = _bitmap(text)
    size = target.shape[0]
    dot = height / 7
    reach = 0.5 * np.hypot(bitmap.shape[1], bitmap.shape[0]) * dot
    low = [max(int((c - reach + 1) * size / 2) - 1, 0) for c in centre]
    high = [min(int((c + reach + 1) * size / 2) + 2, size) for c in centre]
    if low[0] >= high[0] or low[1] >= high[1]:
        return
    xs, ys = (_subsamples(low[i], high[i], size) - centre[i] for i in (0, 1))
    across = (np.cos(angle) * xs[None, :] + np.sin(angle) * ys[:, None]) / dot + bitmap.shape[1] / 2
    down = (np.cos(angle) * ys[:, None] - np.sin(angle) * xs[None, :]) / dot + bitmap.shape[0] / 2
    column, row = np.floor(across).astype(int), np.floor(down).astype(int)
    hit = (column >= 0) & (column < bitmap.shape[1]) & (row >= 0) & (row < bitmap.shape[0])
    ink = bitmap[np.clip(row, 0, bitmap.shape[0] - 1), np.clip(column, 0, bitmap.shape[1] - 1)]
    ink = np.where(hit, 1 - ink if invert else ink, 0).astype(np.float32)
    shape = (high[1] - low[1], _SAMPLES, high[0] - low[0], _SAMPLES)
    target[low[1] : high[1], low[0] : high[0]] += _LEAD * ink.reshape(shape).mean(axis=(1, 3))


def _subsamples(low: int, high: int, size: int) -> np.ndarray:
    return (np.arange(low * _SAMPLES, high * _SAMPLES) + 0.5) * 2 / (size * _SAMPLES) - 1


def lead_markers(seed: int, size_px: int, portable: bool) -> Field:
    """Attenuation of the lead markers.

    The ordinary film has a plain R; the portable film an R punched out of a lead plate, and the tag "PORT" above a
    shoulder. Both stand outside the lung fields. Positions come from the study's seed and do not depend on `portable`,
    so that toggling the shortcut changes nothing but marker and tag.
    """
    rng = marks_rng(seed)
    place = (float(rng.uniform(-0.90, -0.83)), float(rng.uniform(-0.76, -0.60)))
    height, angle = float(rng.uniform(0.10, 0.14)), float(rng.normal(0, 0.08))
    tag_side = -1 if rng.random() < 0.3 else 1
    tag_x, tag_y = float(rng.uniform(0.63, 0.71)), float(rng.uniform(-0.925, -0.885))
    tag_height, tag_angle = float(rng.uniform(0.085, 0.115)), float(rng.normal(0, 0.05))
    field = np.zeros((size_px, size_px), dtype=np.float32)
    _stamp(field, "R", place, height, angle, invert=portable)
    if portable:
        _stamp(field, "PORT", (tag_side * tag_x, tag_y), tag_height, tag_angle, invert=False)
    return field
