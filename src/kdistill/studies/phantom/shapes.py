"""Path lengths of parallel X-rays through simple bodies, in closed form; pure mathematics on a pixel grid.

Patient coordinates: x from -1 (image left, the patient's right) to +1, y from -1 (top) to +1 (bottom), one unit is half
the image (about 18 cm); rays run along z. A body that is an interval along every ray has its path length in closed
form, and bodies that share the mid-plane z = 0 have their union's path length as the maximum of theirs.

Source: Beer-Lambert line integrals as in Hubbell and Seltzer 1995, NISTIR 5632 (attenuation of tissue and bone).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Window = tuple[slice, slice]

#: Half-width of the window in which a Gaussian tube is drawn, in standard deviations (what is cut off is 1%).
_TUBE_REACH = 2.6


class Grid:
    """The patient coordinates of every pixel of a square image, for one positioning of the patient.

    Args:
        size_px: Width and height of the image.
        rotation: In-plane rotation of the patient, radians, anticlockwise as seen in the image.
        shift: Displacement of the patient's centre, (x, y) in units of half the image.
        zoom: Magnification (1 is the nominal size).
    """

    def __init__(
        self, size_px: int, *, rotation: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0
    ) -> None:
        self.size_px = size_px
        self.zoom = zoom
        self.shift = shift
        self._cos, self._sin = math.cos(rotation), math.sin(rotation)
        centres = ((np.arange(size_px, dtype=np.float64) + 0.5) * 2 / size_px - 1).astype(np.float32)
        x = (centres[None, :] - np.float32(shift[0])) / np.float32(zoom)
        y = (centres[:, None] - np.float32(shift[1])) / np.float32(zoom)
        cos, sin = np.float32(self._cos), np.float32(self._sin)
        self.x: Field = cos * x - sin * y
        self.y: Field = sin * x + cos * y

    @property
    def px(self) -> float:
        """Pixels per unit of patient length."""
        return self.zoom * self.size_px / 2

    def zeros(self) -> Field:
        """An empty field of the image's size."""
        return np.zeros((self.size_px, self.size_px), dtype=np.float32)

    def to_pixels(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray, NDArray]:
        """Pixel coordinates (column, row; centres at integers) of patient positions."""
        image_x = (self._cos * x + self._sin * y) * self.zoom + self.shift[0]
        image_y = (-self._sin * x + self._cos * y) * self.zoom + self.shift[1]
        return (image_x + 1) * self.size_px / 2 - 0.5, (image_y + 1) * self.size_px / 2 - 0.5

    def window(self, x_low: float, x_high: float, y_low: float, y_high: float) -> Window:
        """The smallest pixel window that holds a box of patient coordinates (cut at the image's border)."""
        half = self.size_px / 2
        columns, rows = [], []
        for x in (x_low, x_high):
            for y in (y_low, y_high):
                columns.append(((self._cos * x + self._sin * y) * self.zoom + self.shift[0] + 1) * half - 0.5)
                rows.append(((self._cos * y - self._sin * x) * self.zoom + self.shift[1] + 1) * half - 0.5)
        return self._slice(rows), self._slice(columns)

    def _slice(self, positions: list[float]) -> slice:
        low = min(max(math.floor(min(positions)), 0), self.size_px)
        return slice(low, min(max(math.ceil(max(positions)) + 1, low), self.size_px))

    def tubes(
        self, x: NDArray[np.floating], y: NDArray[np.floating], radius: NDArray[np.floating] | float, spacing: float
    ) -> Field:
        """Path length through tubes with a Gaussian radial profile, given by points along their centre lines.

        The line integral of an isotropic Gaussian is a Gaussian again: a tube of radius r (2 standard deviations)
        has the central path length of a cylinder of that radius, and path lengths of crossing tubes add. A tube
        thinner than the pixel is widened to it, its cross-section kept, as a detector element would see it.

        Args:
            x: Points, patient coordinates.
            y: Points, patient coordinates.
            radius: Tube radius, patient units (one, or one a point).
            spacing: Distance between neighbouring points, patient units; at most the radius for a smooth tube.
        """
        columns, rows = self.to_pixels(np.asarray(x, np.float32), np.asarray(y, np.float32))
        wanted = np.broadcast_to(np.asarray(radius, np.float32), columns.shape) * np.float32(self.px / 2)
        sigma = np.maximum(wanted, np.float32(0.55))
        reach = math.ceil(_TUBE_REACH * float(sigma.max(initial=0.55)))
        offsets = np.arange(-reach, reach + 1, dtype=np.float32)
        column, row = np.rint(columns).astype(np.int64), np.rint(rows).astype(np.int64)
        across = np.exp(-(((offsets + (column - columns)[:, None]) / sigma[:, None]) ** 2) / 2)
        down = np.exp(-(((offsets + (row - rows)[:, None]) / sigma[:, None]) ** 2) / 2)
        peak = 4 * wanted * wanted / sigma * np.float32(spacing / math.sqrt(2 * math.pi)) / sigma
        values = (down * peak[:, None])[:, :, None] * across[:, None, :]
        return self._scatter(values, row, column, reach)

    def _scatter(self, values: NDArray, row: NDArray, column: NDArray, reach: int) -> Field:
        size = self.size_px + 2 * reach
        step = np.arange(2 * reach + 1)
        inside = (row >= 0) & (row < self.size_px) & (column >= 0) & (column < self.size_px)
        row, column = row[inside], column[inside]
        index = (row[:, None, None] + step[None, :, None]) * size + column[:, None, None] + step[None, None, :]
        flat = np.bincount(index.ravel(), weights=values[inside].ravel(), minlength=size * size)
        return flat.reshape(size, size)[reach : size - reach, reach : size - reach].astype(np.float32)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid about the mid-plane: centre (x, y), semi-axes a, b in the image and `depth` along the ray.

    `tilt` turns it in the image plane, radians, positive lowers the end on the image's right. `boxy_u` and `boxy_v`
    take the fourth power of that coordinate instead of the square (a fuller outline, still one interval a ray);
    `open_below` continues the widest section downwards for ever (a diaphragm with the abdomen under it).
    """

    x: float
    y: float
    a: float
    b: float
    depth: float
    tilt: float = 0.0
    boxy_u: bool = False
    boxy_v: bool = False
    open_below: bool = False

    def inside(self, x: Field, y: Field) -> Field:
        """1 - |u|^p - |v|^q: positive inside the outline, 1 at the centre (p, q = 2, or 4 where boxy)."""
        cos, sin = np.float32(math.cos(self.tilt)), np.float32(math.sin(self.tilt))
        right, down = x - np.float32(self.x), y - np.float32(self.y)
        u = (cos * right + sin * down) * np.float32(1 / self.a)
        v = (cos * down - sin * right) * np.float32(1 / self.b)
        if self.open_below:
            v = np.minimum(v, np.float32(0))
        u *= u
        v = v * v
        if self.boxy_u:
            u *= u
        if self.boxy_v:
            v *= v
        return 1 - u - v

    def window(self, grid: Grid) -> Window:
        """The pixel window that holds the outline."""
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        wide, high = math.hypot(self.a * cos, self.b * sin), math.hypot(self.a * sin, self.b * cos)
        if self.boxy_u or self.boxy_v:
            wide, high = abs(self.a * cos) + abs(self.b * sin), abs(self.a * sin) + abs(self.b * cos)
        return grid.window(self.x - wide, self.x + wide, self.y - high, 3.0 if self.open_below else self.y + high)

    def path(self, grid: Grid) -> Field:
        """Path length 2 c sqrt(1 - u^2 - v^2) on the whole image, in patient units."""
        result = grid.zeros()
        window = self.window(grid)
        result[window] = chord(self.inside(grid.x[window], grid.y[window]), self.depth)
        return result


def chord(inside: Field, depth: float) -> Field:
    """Path length through a body whose half-thickness is depth * sqrt(inside) where inside > 0."""
    return np.float32(2 * depth) * np.sqrt(np.maximum(inside, np.float32(0)))


def union(bodies: tuple[Ellipsoid, ...], grid: Grid) -> Field:
    """Path length through the union of ellipsoids that share the mid-plane: the maximum of theirs."""
    result = grid.zeros()
    for body in bodies:
        window = body.window(grid)
        np.maximum(result[window], chord(body.inside(grid.x[window], grid.y[window]), body.depth), out=result[window])
    return result


def smoothstep(values: Field, low: float, high: float) -> Field:
    """0 below low, 1 above high, a cubic between (low > high turns it round)."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), np.float32(0), np.float32(1))
    return t * t * (3 - 2 * t)


def bump(values: Field, centre: float, width: float) -> Field:
    """A Gaussian of unit height; `width` is its standard deviation."""
    t = (values - np.float32(centre)) * np.float32(1 / width)
    return np.exp(np.float32(-0.5) * t * t)


def smooth_noise(rng: np.random.Generator, size_px: int, cells: int) -> Field:
    """A smooth random field of about zero mean and unit variance with `cells` independent values along each axis."""
    knots = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    position = (np.arange(size_px, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size_px)
    weights = np.exp(-1.5 * (position[:, None] - (np.arange(cells + 3, dtype=np.float32) - 1)[None, :]) ** 2)
    weights /= np.sqrt((weights * weights).sum(axis=1, keepdims=True))
    return np.asarray(weights @ knots @ weights.T, dtype=np.float32)


def blur(field: Field, sigma_px: float) -> Field:
    """Gaussian blur, cut at three standard deviations (so that what is far apart stays bit for bit apart)."""
    steps = np.arange(field.shape[0], dtype=np.float32)
    distance = (steps[:, None] - steps[None, :]) / np.float32(sigma_px)
    kernel = np.exp(-distance * distance / 2) * (np.abs(distance) <= 3)
    weights: Field = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(weights @ field @ weights.T, dtype=np.float32)


def point_spread(field: Field, weight: float = 0.12) -> Field:
    """The detector's own blur: three taps (weight, 1 - 2 weight, weight) along both axes; borders repeat."""
    side, middle = np.float32(weight), np.float32(1 - 2 * weight)
    padded = np.pad(field, 1, mode="edge")
    rows = side * (padded[:-2] + padded[2:]) + middle * padded[1:-1]
    return np.asarray(side * (rows[:, :-2] + rows[:, 2:]) + middle * rows[:, 1:-1], dtype=np.float32)


def random_paths(
    rng: np.random.Generator, x: NDArray, y: NDArray, angle: NDArray, length: NDArray, steps: int, wander: float
) -> tuple[NDArray, NDArray]:
    """Meandering lines, one a row: `steps` points from each start, directions drifting by `wander` radians in all."""
    turns = angle[:, None] + np.cumsum(rng.standard_normal((len(x), steps)), axis=1) * (wander / math.sqrt(steps))
    pace = length[:, None] / steps
    return x[:, None] + np.cumsum(np.cos(turns) * pace, axis=1), y[:, None] + np.cumsum(np.sin(turns) * pace, axis=1)
