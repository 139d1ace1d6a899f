"""Where the thorax lies on a film: a schematic chest, tried at every place and size, and the best fit kept.

A frontal chest is two dark fields in bright surroundings, parted by a bright column that widens to the left below (the
heart). That picture is drawn for some thousand boxes and correlated with the film (matched filter; Brunelli 2009,
Template Matching Techniques in Computer Vision, ch. 3: normalised correlation). It reads no mask, no label and no
phantom geometry, has nothing to train, and says how well it fits: below `MIN_CONFIDENCE` the standard film's frame is
used. Its few numbers were set on 25 NIH films whose lungs were boxed by eye first (docs/frame.md).

Axes: N images, C candidate boxes, P pixels of the small image, M candidate midlines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from kdistill.sites import REFERENCE, Frame

#: Correlation from which a fit is believed. Of 834 NIH films 97% reach it; of the same films inverted 10%, turned by 90
#: degrees 6% and 14%, cut into 16 tiles and shuffled 5%. Upside down it is reached by 55%: films must be upright.
MIN_CONFIDENCE: Final = 0.6
#: Pixels along a side of the image that is searched; 16 to 32 gave equal errors.
_GRID: Final = 24
#: Candidate edges are this far apart (fractions of the image); what lies between comes from averaging near fits.
_STEP: Final = 0.06
#: Fits within about this much of the best one are averaged.
_TEMPERATURE: Final = 0.03
#: Width of the blur that is taken off (exposure, slope of the body), in fractions of the image.
_BACKGROUND: Final = 0.16
#: How far beyond the lungs the film is compared, in fractions of the box: left and right, above, below.
_MARGIN: Final = (0.02, 0.02, 0.04)
#: A lung's rim holds little air along a ray and is not seen as dark: inset of the dark core at the sides, above, below.
_INSET: Final = (0.08, 0.09, 0.03)
#: How much less dark than the apex a lung is drawn at its base.
_BASE_DENSITY: Final = 0.4
_MIDLINES: Final = np.linspace(-0.14, 0.14, 29)
_PROFILE_PX: Final = 64
#: Films searched together: enough for the matrix product, some megabytes.
_CHUNK: Final = 128


class FoundFrame(NamedTuple):
    """A film's frame; the reference where `confidence`, the correlation with the schematic chest, is too low."""

    frame: Frame
    confidence: float
    found: bool


@dataclass(frozen=True)
class FoundFrames:
    """Of N films: `frames` float64 [N, 5] (columns as in `Frame`), `confidence` float64 [N], `found` bool [N]."""

    frames: np.ndarray
    confidence: np.ndarray
    found: np.ndarray

    def __getitem__(self, number: int) -> FoundFrame:
        """One film's."""
        frame = Frame(*self.frames[number].tolist())
        return FoundFrame(frame, float(self.confidence[number]), bool(self.found[number]))


class FrameFinder:
    """Finds the thorax on canonical films; building it draws the candidates (17 MB, a fraction of a second)."""

    def __init__(self) -> None:
        self._boxes = _candidates()
        self._templates, self._supports, self._num_px = _draw(self._boxes)

    def find(self, image: np.ndarray) -> FoundFrame:
        """Find the thorax on one film, uint8 [S, S] (bright = dense, the patient's right on the left)."""
        return self.find_many(image[None])[0]

    def find_many(self, images: np.ndarray, rows: np.ndarray | None = None) -> FoundFrames:
        """Find the thorax on each film.

        Args:
            images: uint8 [M, S, S], may be memory-mapped: only a few are held at a time.
            rows: int64 [N], the images to read; all by default.
        """
        rows = np.arange(len(images)) if rows is None else rows
        frames, confidence = np.tile(np.array(REFERENCE), (len(rows), 1)), np.zeros(len(rows))
        for start in range(0, len(rows), _CHUNK):
            several = images[rows[start : start + _CHUNK]]
            boxes, confidence[start : start + _CHUNK] = self._fit(np.stack([_small(image) for image in several]))
            for row, (image, box) in enumerate(zip(several, boxes, strict=True), start=start):
                if confidence[row] >= MIN_CONFIDENCE:
                    frames[row] = *box, _midline(image, box)
        return FoundFrames(frames, confidence, confidence >= MIN_CONFIDENCE)

    def _fit(self, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Small images [N, g, g] -> boxes [N, 4] and the best correlation [N]."""
        pixels = _flatten(small).reshape(len(small), -1)
        mean = pixels @ self._supports.T
        variance = (pixels * pixels) @ self._supports.T - mean * mean
        # The floor is a contrast of a thousandth: on an empty film rounding errors would correlate with something.
        fit = pixels @ self._templates.T / np.sqrt(np.maximum(variance, 1e-6) * self._num_px)
        best = fit.max(axis=1)
        weights = np.exp((fit - best[:, None]) / _TEMPERATURE)
        return weights @ self._boxes / weights.sum(axis=1, keepdims=True), best


def _candidates() -> np.ndarray:
    """Plausible boxes, float32 [C, 4]: not too far off the middle, not too narrow, not too long."""
    near, far = np.arange(-0.08, 0.48, _STEP), np.arange(-0.12, 0.52, _STEP)
    left, top, right, bottom = (a.ravel() for a in np.meshgrid(near[near < 0.43], near, 1 - near[near < 0.43], 1 - far))
    width, height = right - left, bottom - top
    plausible = (width >= 0.4) & (width <= 1.12) & (abs(left + right - 1) <= 0.4)
    plausible &= (height >= 0.33) & (height <= 1.12) & (height >= 0.65 * width) & (height <= 1.35 * width)
    return np.stack([left, top, right, bottom], axis=1)[plausible].astype(np.float32)


def _draw(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The schematic chest in each box.

    Returns:
        templates float32 [C, P]: zero mean and unit length where they are compared, zero elsewhere; supports
        float32 [C, P]: one over the number of compared pixels there; and these numbers [C].
    """
    centres = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
    left, top, right, bottom = (boxes[:, n, None] for n in range(4))
    u = ((centres - left) / (right - left))[:, None, :]
    v = ((centres - top) / (bottom - top))[:, :, None]
    side, above, below = _MARGIN
    inside = ((abs(u - 0.5) < 0.5 + side) & (v > -above) & (v < 1 + below)).reshape(len(boxes), -1)
    support = inside / inside.sum(axis=1, keepdims=True, dtype=np.float32)
    drawn = _flatten(_chest(u, v)).reshape(len(boxes), -1)
    drawn = (drawn - (drawn * support).sum(axis=1, keepdims=True)) * inside
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32), support.astype(np.float32), inside.sum(axis=1).astype(np.float32)


def _chest(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The schematic chest, 0 in the lungs and 1 elsewhere.

    Args:
        u: [C, 1, g] across the box from 0 (the patient's right) to 1.
        v: [C, g, 1] down the box from 0 (apices) to 1 (costophrenic angles).
    """
    side, above, below = _INSET
    x, y = (u - 0.5) / (1 - 2 * side), (v - above) / (1 - above - below)
    off = abs(x)
    left = x > 0
    # The ribcage narrows to the apices; the mediastinum widens below the hila, on the left by the heart; the domes of
    # the diaphragm fall to the lateral angles, the right one higher than the left. Towards the base heart, breasts and
    # fluid lie over the lung: where it is drawn as dark as above, boxes end too high.
    wall = 0.5 * np.sqrt(1 - np.clip((0.62 - y) / 0.66, 0, 1) ** 2.2)
    middle = 0.1 + np.where(left, 0.2 * np.clip((y - 0.42) / 0.5, 0, 1), 0.06 * np.clip((y - 0.4) / 0.5, 0, 1))
    dome = np.where(left, np.float32(0.84), np.float32(0.80))
    dome = dome + (1 - dome) * np.clip((off - 0.22) / 0.28, 0, 1) ** 2
    dark = 1 - _BASE_DENSITY * np.clip((y - 0.4) / 0.6, 0, 1)
    return 1 - dark * _inside(wall - off) * _inside(off - middle) * _inside(dome - y) * _inside(y)


def _inside(distance: np.ndarray) -> np.ndarray:
    """0 to 1 across an outline, over about a tenth of the box."""
    return 1 / (1 + np.exp(np.clip(-distance / 0.03, -30, 30)))


def _small(image: np.ndarray) -> np.ndarray:
    shrunk = Image.fromarray(image).resize((_GRID, _GRID), Image.Resampling.BOX)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)


def _flatten(small: np.ndarray) -> np.ndarray:
    """Take off the wide blur, so that neither exposure nor the slope of the body counts: [.., g, g] -> the same."""
    place = np.arange(_GRID)
    blur = np.exp(-0.5 * ((place[:, None] - place) / (_BACKGROUND * _GRID)) ** 2)
    blur = (blur / blur.sum(axis=1, keepdims=True)).astype(np.float32)
    return small - blur @ small @ blur.T


def _midline(image: np.ndarray, box: np.ndarray) -> float:
    """The bright column between the lungs above the heart: its brightness less that of both sides is largest."""
    left, top, right, bottom = box.tolist()
    size, height = image.shape[0], bottom - top
    rows = [min(max(y, 0.0), 1.0) * size for y in (top + 0.15 * height, top + 0.60 * height)]
    strip = Image.fromarray(image).resize((_PROFILE_PX, 1), Image.Resampling.BOX, box=(0, rows[0], size, rows[1]))
    centres = (np.arange(_PROFILE_PX) + 0.5) / _PROFILE_PX
    middles = (left + right) / 2 + (right - left) * _MIDLINES
    return float(middles[np.argmax(_column(abs(centres - middles[:, None]) / (right - left)) @ np.asarray(strip)[0])])


def _column(off: np.ndarray) -> np.ndarray:
    """Weights [M, W] that give the mean inside a column less the mean beside it, by distance in widths of the box."""
    column, beside = off < 0.08, (off > 0.12) & (off < 0.32)
    return column / column.sum(axis=1, keepdims=True) - beside / beside.sum(axis=1, keepdims=True)
