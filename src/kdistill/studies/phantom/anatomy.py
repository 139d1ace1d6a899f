"""The normal thorax of one patient: every length drawn from the patient's seed, every tissue a closed-form path length.

Sizes follow the frontal chest film: transverse cardiac diameter below half the thoracic width (Danzer 1919, Am J Med
Sci 157:513), right hemidiaphragm a little higher than the left, the right lung wider and shorter than the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kdistill.studies.phantom.shapes import Ellipsoid, Field, Grid, Window, chord, random_paths, union

#: Streams of random numbers that belong to the patient; findings have seeds of their own.
_ANATOMY, _VESSELS, _NOISE, _MARKS = 1, 2, 3, 4


@dataclass(frozen=True)
class Lung:
    """One lung: half-thickness depth * sqrt(1 - u^2 - |v|^3), u across and v along, leaning inwards to a narrow apex.

    `sign` is -1 for the right lung (image left) and +1 for the left.
    """

    sign: int
    x: float
    y: float
    a: float
    b: float
    depth: float
    taper: float
    lean: float

    def frame(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Lung coordinates: u from -1 (medial) to +1 (lateral), v from -1 (apex) to +1."""
        v = (y - np.float32(self.y)) * np.float32(1 / self.b)
        centre = np.float32(self.x) + np.float32(self.lean) * v
        u = (np.float32(self.sign) * x - centre) / (np.float32(self.a) * (1 + np.float32(self.taper) * v))
        return u, v

    def inside(self, x: Field, y: Field) -> Field:
        """1 - u^2 - |v|^3: positive inside the outline."""
        u, v = self.frame(x, y)
        return 1 - u * u - np.abs(v * v * v)

    def window(self, grid: Grid) -> Window:
        """The pixel window of this half of the chest."""
        reach = self.x + abs(self.lean) + self.a * (1 + abs(self.taper)) + 0.02
        x_low, x_high = sorted((self.sign * reach, self.sign * (self.x - self.a - 0.1)))
        return grid.window(x_low, x_high, self.y - self.b, 1.1)

    def lateral(self, y: float) -> float:
        """Distance of the lateral border from the midline at height y, in patient units."""
        v = min(max((y - self.y) / self.b, -1.0), 1.0)
        return self.x + self.lean * v + self.a * (1 + self.taper * v) * math.sqrt(max(1 - abs(v) ** 3, 0.0))

    def path(self, grid: Grid) -> Field:
        """Path length through the lung's envelope on the whole image."""
        result = grid.zeros()
        window = self.window(grid)
        result[window] = chord(self.inside(grid.x[window], grid.y[window]), self.depth)
        return result


@dataclass(frozen=True)
class Mediastinum:
    """The central column of soft tissue: half-widths to the right and left, the aortic knob and the trachea."""

    x: float
    right: float
    left: float
    knob: Ellipsoid
    trachea: float
    carina_y: float

    def path(self, grid: Grid) -> Field:
        """Path length through the column and the knob."""
        result = union((self.knob,), grid)
        window = grid.window(self.x - 0.6, self.x + 0.6, -1.4, 0.75)
        x, y = grid.x[window] - np.float32(self.x), grid.y[window]
        waist = 1 + np.float32(0.35) * (y + np.float32(0.3)) ** 2
        half = np.where(x < 0, np.float32(self.right), np.float32(self.left)) * waist
        fade = np.minimum(np.float32(1), (np.float32(0.75) - y) * 2)
        np.maximum(result[window], chord((1 - (x / half) ** 2) * fade, 0.42), out=result[window])
        return result

    def airway(self, grid: Grid) -> Field:
        """Path length through trachea and main bronchi."""
        y = np.linspace(-1.05, self.carina_y, 60)
        result = grid.tubes(self.x + self.trachea + 0.0 * y, y, 0.045, float(y[1] - y[0]))
        t = np.linspace(0, 1, 14)
        for sign, slope in ((-1, 0.2), (1, 0.14)):
            x = self.x + self.trachea + sign * 0.19 * t
            result += grid.tubes(x, self.carina_y + slope * t, 0.034, math.hypot(0.19, slope) / 13)
        return result


@dataclass(frozen=True)
class Film:
    """How the film was taken: positioning, exposure from the patient's thickness, and noise."""

    rotation: float
    shift: tuple[float, float]
    zoom: float
    centre: float
    width: float
    noise: float
    turn: float


@dataclass(frozen=True)
class Thorax:
    """One patient's chest; findings that change geometry replace parts of it.

    `bone` and `vascularity` scale the attenuation of bone and vessels, `parenchyma` is the lung's share of soft tissue.
    """

    seed: int
    film: Film
    body: tuple[Ellipsoid, ...]
    breasts: tuple[Ellipsoid, ...]
    lungs: tuple[Lung, Lung]
    heart: tuple[Ellipsoid, ...]
    mediastinum: Mediastinum
    domes: tuple[Ellipsoid, ...]
    stomach: Ellipsoid
    rib_shift: float
    rib_half_height: float
    bone: float
    vascularity: float
    parenchyma: float

    def lung(self, side: str) -> Lung:
        """The patient's right or left lung."""
        return self.lungs[0] if side == "right" else self.lungs[1]

    def grid(self, size_px: int) -> Grid:
        """The pixel grid of this patient's film."""
        return Grid(size_px, rotation=self.film.rotation, shift=self.film.shift, zoom=self.film.zoom)


def shifted(thorax: Thorax, amount: float) -> Thorax:
    """Heart, great vessels and trachea displaced sideways (towards the image's right where positive)."""
    middle = thorax.mediastinum
    knob = replace(middle.knob, x=middle.knob.x + amount)
    heart = tuple(replace(part, x=part.x + amount) for part in thorax.heart)
    return replace(thorax, heart=heart, mediastinum=replace(middle, x=middle.x + amount, knob=knob))


def stream(seed: int, kind: int) -> np.random.Generator:
    """An independent generator for one purpose of one seed."""
    return np.random.default_rng((seed, kind))


def thorax_of(seed: int, sex: str, view_position: str) -> Thorax:
    """Draw a patient's chest and its positioning.

    Args:
        seed: The study's seed.
        sex: "F" adds breast shadows and a slightly narrower chest.
        view_position: "AP" magnifies the heart and lifts the diaphragm (supine, shallow breath); "PA" does not.
    """
    rng = stream(seed, _ANATOMY)
    thickness = float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.2))
    wide = float(rng.normal(1.0, 0.03)) * (0.97 if sex == "F" else 1.0)
    supine = 1.0 if view_position == "AP" else 0.0
    lungs = _draw_lungs(rng, wide)
    mediastinum_x = float(rng.normal(0.0, 0.012))
    return Thorax(
        seed=seed,
        film=_draw_film(rng, thickness),
        body=_draw_body(rng, thickness, wide),
        breasts=_draw_breasts(rng) if sex == "F" else (),
        lungs=lungs,
        heart=_draw_heart(rng, mediastinum_x, 1 + 0.05 * supine),
        mediastinum=_draw_mediastinum(rng, mediastinum_x, 1 + 0.08 * supine),
        domes=_draw_domes(rng, lungs, -0.05 * supine),
        stomach=Ellipsoid(0.36 + float(rng.normal(0, 0.05)), 0.8, 0.12, 0.05 + 0.03 * float(rng.random()), 0.16),
        rib_shift=float(rng.normal(0, 0.02)),
        rib_half_height=float(rng.uniform(0.026, 0.032)),
        bone=float(rng.uniform(0.85, 1.15)),
        vascularity=float(np.clip(np.exp(rng.normal(0, 0.22)), 0.6, 1.6)),
        parenchyma=float(np.clip(rng.normal(0.27, 0.03), 0.2, 0.36)),
    )


def _draw_film(rng: np.random.Generator, thickness: float) -> Film:
    return Film(
        rotation=float(np.clip(rng.normal(0, 0.022), -0.06, 0.06)),
        shift=(float(np.clip(rng.normal(0, 0.022), -0.06, 0.06)), float(np.clip(rng.normal(0, 0.02), -0.05, 0.05))),
        zoom=float(np.clip(rng.normal(1.0, 0.025), 0.94, 1.07)),
        centre=0.34 + 0.62 * thickness + float(rng.normal(0, 0.025)),
        width=0.33 * float(rng.uniform(0.92, 1.12)),
        noise=0.017 * float(rng.uniform(0.8, 1.25)),
        turn=float(np.clip(rng.normal(0, 0.02), -0.05, 0.05)),
    )


def _draw_body(rng: np.random.Generator, thickness: float, wide: float) -> tuple[Ellipsoid, ...]:
    slope = float(rng.normal(0, 0.02))
    arm = 1.08 * wide + float(rng.uniform(-0.01, 0.07))
    return (
        Ellipsoid(0.0, 0.75, 0.97 * wide, 1.40, 0.63 * thickness, boxy_u=True, boxy_v=True),
        Ellipsoid(0.0, 1.25, 0.93 * wide, 0.85, 0.72 * thickness, boxy_u=True),
        Ellipsoid(0.0, 0.03 + slope, 1.27 * wide, 0.76, 0.52 * thickness, boxy_v=True),
        Ellipsoid(0.0, -1.0, 0.29, 0.60, 0.42 * thickness, boxy_v=True),
        Ellipsoid(0.0, -0.52, 0.66, 0.42, 0.46 * thickness),
        Ellipsoid(-arm, 0.15, 0.2, 0.8, 0.36 * thickness, 0.06),
        Ellipsoid(arm, 0.15, 0.2, 0.8, 0.36 * thickness, -0.06),
    )


def _draw_breasts(rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
    size, y = float(rng.uniform(0.75, 1.15)), float(rng.uniform(0.38, 0.52))
    return tuple(Ellipsoid(sign * 0.45, y, 0.34 * size, 0.28 * size, 0.085 * size, sign * 0.15) for sign in (-1, 1))


def _draw_lungs(rng: np.random.Generator, wide: float) -> tuple[Lung, Lung]:
    apex = float(rng.normal(-0.80, 0.025))
    lungs = []
    for sign, broad in ((-1, 1.03), (1, 0.97)):
        top = apex + float(rng.normal(0, 0.012))
        y = 0.26 + float(rng.normal(0, 0.03))
        lungs.append(
            Lung(
                sign=sign,
                x=0.405 * wide * broad + float(rng.normal(0, 0.008)),
                y=y,
                a=0.36 * wide * broad * float(rng.normal(1, 0.02)),
                b=y - top,
                depth=0.43 * float(rng.normal(1, 0.02)),
                taper=0.10 + float(rng.normal(0, 0.03)),
                lean=0.045 + float(rng.normal(0, 0.012)),
            )
        )
    return lungs[0], lungs[1]


def _draw_heart(rng: np.random.Generator, x: float, scale: float) -> tuple[Ellipsoid, ...]:
    size = scale * float(np.clip(rng.normal(0.97, 0.06), 0.84, 1.06))
    jitter = rng.normal(1, 0.05, (4, 2))
    tilt = float(rng.normal(0.62, 0.10))
    base = float(rng.normal(0.36, 0.015))
    return (
        Ellipsoid(x - 0.03, base - 0.06, 0.185 * size * jitter[0, 0], 0.27 * size * jitter[0, 1], 0.42, -0.12),
        Ellipsoid(x + 0.17, base, 0.325 * size * jitter[1, 0], 0.215 * size * jitter[1, 1], 0.43, tilt),
        Ellipsoid(x + 0.10, base - 0.30, 0.14 * size * jitter[2, 0], 0.20 * size * jitter[2, 1], 0.36, 0.25),
        Ellipsoid(x + 0.06, base + 0.02, 0.25 * size * jitter[3, 0], 0.24 * size * jitter[3, 1], 0.42),
    )


def _draw_mediastinum(rng: np.random.Generator, x: float, scale: float) -> Mediastinum:
    knob = float(rng.uniform(0.075, 0.105))
    return Mediastinum(
        x=x,
        right=scale * float(np.clip(rng.normal(0.135, 0.014), 0.105, 0.165)),
        left=scale * float(np.clip(rng.normal(0.118, 0.013), 0.09, 0.145)),
        knob=Ellipsoid(
            x + 0.105 + float(rng.normal(0, 0.008)), -0.30 + float(rng.normal(0, 0.02)), knob, 1.1 * knob, 0.4
        ),
        trachea=float(rng.normal(-0.005, 0.008)),
        carina_y=float(rng.normal(-0.24, 0.02)),
    )


def _draw_domes(rng: np.random.Generator, lungs: tuple[Lung, Lung], lift: float) -> tuple[Ellipsoid, ...]:
    top = float(rng.normal(0.50, 0.035)) + lift
    tops = (top, top + float(rng.normal(0.055, 0.02)))
    domes = []
    for lung, high in zip(lungs, tops, strict=True):
        b = 0.42 + float(rng.normal(0, 0.03))
        domes.append(Ellipsoid(lung.sign * (lung.x - 0.005), high + b, lung.a + 0.10, b, 1.5, open_below=True))
    middle = Ellipsoid(0.04, top + 0.42, 0.36, 0.30, 1.5, open_below=True)
    return domes[0], domes[1], middle


def vessel_branches(rng: np.random.Generator, lung: Lung) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Pulmonary vessels of one lung from the hilum outwards, two divisions each.

    Returns:
        (x, y, radius, spacing) of points along the vessels, one tuple a generation, in patient units.
    """
    num = 9
    angle = np.linspace(-1.25, 1.35, num) + rng.normal(0, 0.09, num)
    x = np.full(num, lung.x - 0.52 * lung.a)
    y = (0.0 if lung.sign < 0 else -0.05) + 0.05 * np.sin(angle)
    length, radius = 0.31 * rng.uniform(0.8, 1.15, num), 0.0195
    generations = []
    for steps in (14, 11, 9):
        points_x, points_y = random_paths(rng, x, y, angle, length, steps, 0.5)
        taper = np.broadcast_to(np.linspace(radius, 0.72 * radius, steps), points_x.shape)
        spacing = float(length.mean()) / steps
        generations.append((lung.sign * points_x.ravel(), points_y.ravel(), taper.ravel(), spacing))
        x, y = np.repeat(points_x[:, -1], 2), np.repeat(points_y[:, -1], 2)
        spread = rng.uniform(0.2, 0.5, len(x)) * np.tile([-1, 1], len(x) // 2)
        angle, length = np.repeat(angle, 2) + spread, np.repeat(length, 2) * rng.uniform(0.55, 0.85, len(x))
        radius *= 0.62
    return generations


def vessels(thorax: Thorax, grid: Grid) -> Field:
    """Path length through the pulmonary vessels of both lungs (to be cut to the lungs by the caller)."""
    result = grid.zeros()
    for lung in thorax.lungs:
        rng = stream(thorax.seed, _VESSELS * 10 + lung.sign)
        for x, y, radius, spacing in vessel_branches(rng, lung):
            result += grid.tubes(x, y, radius, spacing)
        along = np.linspace(-0.10, 0.14, 9)
        x = lung.sign * (lung.x - 0.57 * lung.a + 0.35 * np.abs(along))
        result += grid.tubes(x, along - (0.05 if lung.sign > 0 else 0.0), 0.036 - 0.1 * np.abs(along), 0.03)
    return result


def noise_of(seed: int, size_px: int) -> Field:
    """Quantum noise of unit variance, a little correlated as a scintillator makes it."""
    white = stream(seed, _NOISE).standard_normal((size_px + 1, size_px + 1), dtype=np.float32)
    return np.float32(0.8) * white[1:, 1:] + np.float32(0.42) * white[:-1, 1:] + np.float32(0.42) * white[1:, :-1]


def marks_rng(seed: int) -> np.random.Generator:
    """The generator of the lead markers' positions."""
    return stream(seed, _MARKS)
