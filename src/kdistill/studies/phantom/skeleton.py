"""The bones of the thorax: ribs with cortex and marrow, clavicles, scapulae, humeral heads, vertebral column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kdistill.studies.phantom.anatomy import Thorax
from kdistill.studies.phantom.shapes import Ellipsoid, Field, Grid, Window, bump, chord, smoothstep

NUM_RIBS = 10


@dataclass(frozen=True)
class Rib:
    """One rib as the lateral half of an ellipse: its upper arc is the posterior part, its lower arc the anterior."""

    sign: int
    x: float
    y: float
    a: float
    b: float
    half_height: float
    front_end: float

    def window(self, grid: Grid, margin: float = 0.0) -> Window:
        """The pixel window of the rib."""
        reach = self.half_height + margin
        x_low, x_high = sorted((self.sign * self.x, self.sign * (self.x + self.a + reach)))
        return grid.window(x_low, x_high, self.y - self.b - reach, self.y + self.b + reach)

    def frame(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Signed distance from the rib's centre line (first order), and the angle along it (-pi/2 posterior end)."""
        right = np.maximum(np.float32(self.sign) * x - np.float32(self.x), np.float32(1e-4))
        down = y - np.float32(self.y)
        u, v = right * np.float32(1 / self.a), down * np.float32(1 / self.b)
        radius = np.sqrt(u * u + v * v) + np.float32(1e-4)
        slope = np.sqrt((u * np.float32(1 / self.a)) ** 2 + (v * np.float32(1 / self.b)) ** 2) / radius
        return (radius - 1) / np.maximum(slope, np.float32(0.3)), np.arctan2(v, u)

    def path(self, distance: Field, angle: Field) -> Field:
        """Bone path length: a cortical shell round marrow, thinner in front, cartilage near the sternum left out."""
        q = distance * np.float32(1 / self.half_height)
        q *= q
        tube = chord(1 - q, self.half_height) - np.float32(0.55) * chord(np.float32(0.5) - q, self.half_height)
        front = smoothstep(angle, -0.2, 0.5)
        weight = (1 - np.float32(0.28) * front) * smoothstep(angle, self.front_end, self.front_end - 0.27)
        return tube * weight


def ribs_of(thorax: Thorax) -> tuple[Rib, ...]:
    """The visible ribs, right then left, from the first downwards."""
    ribs = []
    for lung in thorax.lungs:
        for number in range(NUM_RIBS):
            posterior_y = -0.80 + 0.142 * number + thorax.rib_shift
            b = 0.17 + 0.016 * number
            lateral = lung.lateral(min(posterior_y + 0.55 * b, lung.y)) + 0.012
            x = 0.045 + lung.sign * thorax.film.turn * 0.5
            half_height = thorax.rib_half_height * (1 + 0.012 * number)
            front_end = 1.22 if number < 6 else 1.22 - 0.32 * (number - 5)
            ribs.append(Rib(lung.sign, x, posterior_y + b, lateral - x, b, half_height, front_end))
    return tuple(ribs)


def ribcage(thorax: Thorax, grid: Grid) -> Field:
    """Path length through all ribs."""
    result = grid.zeros()
    for rib in ribs_of(thorax):
        window = rib.window(grid)
        distance, angle = rib.frame(grid.x[window], grid.y[window])
        result[window] += rib.path(distance, angle)
    return result


def spine(thorax: Thorax, grid: Grid) -> Field:
    """Path length through the vertebral column: bodies, paler discs, pedicles and spinous processes."""
    result = grid.zeros()
    window = grid.window(-0.2, 0.2, -1.2, 1.2)
    x, y = grid.x[window] - np.float32(thorax.mediastinum.x * 0.3), grid.y[window]
    phase = (y - np.float32(thorax.rib_shift)) * np.float32(1 / 0.142)
    phase = phase - np.floor(phase)
    level = np.float32(0.105) + np.float32(0.012) * y
    disc = smoothstep(np.abs(phase - np.float32(0.5)), 0.5, 0.34)
    body = chord(1 - (x / level) ** 2, 0.024) * (np.float32(0.55) + np.float32(0.45) * disc)
    pedicle = bump(np.abs(x), 0.068, 0.016) * bump(phase, 0.38, 0.11)
    process = bump(x - np.float32(thorax.film.turn), 0.0, 0.014) * bump(phase, 0.62, 0.16)
    result[window] = body + np.float32(0.03) * pedicle + np.float32(0.03) * process
    return result


def _clavicle(sign: int, thorax: Thorax, grid: Grid) -> Field:
    t = np.linspace(0, 1, 70)
    x = 0.075 + 0.72 * t
    y = -0.555 + 0.5 * thorax.rib_shift - 0.13 * t - 0.035 * np.sin(2 * math.pi * t)
    radius = 0.038 - 0.008 * np.sin(math.pi * t)
    drop = 0.25 * thorax.film.turn * sign
    return grid.tubes(sign * x + thorax.film.turn, y + drop, radius, 0.0109)


def _scapula(sign: int, thorax: Thorax, grid: Grid) -> Field:
    """Blade with a dense lateral border, spine and acromion, head and shaft of the humerus."""
    result = Ellipsoid(sign * 1.03, -0.46, 0.125, 0.135, 0.065).path(grid)
    np.maximum(result, Ellipsoid(sign * 1.12, 0.12, 0.075, 0.62, 0.05).path(grid), out=result)
    x_low, x_high = sorted((sign * 0.58, sign * 1.0))
    window = grid.window(x_low, x_high, -0.6, 0.2)
    x, y = np.float32(sign) * grid.x[window], grid.y[window]
    medial = x - np.float32(0.60) - np.float32(0.19) * (y + np.float32(0.5))
    lateral = np.float32(0.95) - np.float32(0.33) * (y + np.float32(0.45)) - x
    blade = smoothstep(medial, 0.0, 0.03) * smoothstep(lateral, 0.0, 0.03) * smoothstep(y, -0.52, -0.44)
    blade *= smoothstep(y, 0.16, 0.06)
    result[window] += np.float32(0.022) * blade * (1 + np.float32(1.2) * bump(lateral, 0.03, 0.02))
    spine_x = np.linspace(0.66, 0.99, 24)
    result += grid.tubes(sign * spine_x, np.linspace(-0.42, -0.60, 24), 0.026, 0.0163)
    return result


def skeleton(thorax: Thorax, grid: Grid) -> Field:
    """Path length through bone, in patient units."""
    result = ribcage(thorax, grid)
    result += spine(thorax, grid)
    for sign in (-1, 1):
        result += _clavicle(sign, thorax, grid)
        result += _scapula(sign, thorax, grid)
    return result
