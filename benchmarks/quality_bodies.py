"""Drawn radiographs of what is no frontal chest: attenuation added up along rays through simple bodies.

Real laterals and films of other parts are missing from the data at hand (docs/quality.md), so the gate learns from
these that a film with bones and soft tissue need not be a chest. They are crude on purpose and never a test of their
own worth: laterals are measured on projections of a CT.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np

Rng = np.random.Generator
Grey = np.ndarray
_SIZE: Final = 160


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:_SIZE, :_SIZE]
    return (x + 0.5) / _SIZE * 2 - 1, (y + 0.5) / _SIZE * 2 - 1


def _ellipsoid(centre: np.ndarray, axes: np.ndarray, angle: float) -> Grey:
    """Path length (0..1) through an ellipsoid seen from the front."""
    x, y = _grid()
    x, y = x - centre[0], y - centre[1]
    u = (np.cos(angle) * x + np.sin(angle) * y) / axes[0]
    v = (np.cos(angle) * y - np.sin(angle) * x) / axes[1]
    return np.sqrt(np.clip(1 - u * u - v * v, 0, None))


def _bone(start: np.ndarray, end: np.ndarray, radius: float, flare: float) -> Grey:
    """A tube with a bright cortex that widens at both ends."""
    x, y = _grid()
    along = end - start
    length = max(float(np.hypot(*along)), 1e-3)
    s = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length**2
    off = abs((x - start[0]) * along[1] - (y - start[1]) * along[0]) / length
    r = radius * (1 + flare * abs(2 * np.clip(s, 0, 1) - 1) ** 4)
    inside = (s > -0.02) & (s < 1.02)
    outer, inner = np.clip(1 - (off / r) ** 2, 0, None), np.clip(1 - (off / (0.65 * r)) ** 2, 0, None)
    return np.where(inside, np.sqrt(outer) - 0.6 * np.sqrt(inner), 0)


def _exposed(thickness: Grey, rng: Rng) -> Grey:
    """Attenuation to grey, with noise and a slope; bright = dense."""
    x, y = _grid()
    image = 1 - np.exp(-rng.uniform(0.8, 2.5) * thickness)
    image = image + rng.uniform(-0.08, 0.08) * x + rng.uniform(-0.08, 0.08) * y
    image = (image - image.min()) / (np.ptp(image) + 1e-9)
    return np.clip(image ** rng.uniform(0.6, 1.5) + rng.normal(0, 0.012, image.shape), 0, 1).astype(np.float32)


def limb(rng: Rng) -> Grey:
    """An arm, a leg, a knee, or a hand with fingers."""
    angle, number = rng.uniform(0, 2 * np.pi), int(rng.choice([1, 2, 2, 5]))
    direction = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-direction[1], direction[0]])
    spread = rng.uniform(0.12, 0.3)
    thickness = 0.9 * _ellipsoid(rng.normal(0, 0.1, 2), np.array([rng.uniform(0.9, 2), rng.uniform(0.3, 0.75)]), angle)
    for n in range(number):
        offset = across * spread * (n - (number - 1) / 2) + rng.normal(0, 0.03, 2)
        joints = np.sort(rng.uniform(-1.1, 1.1, int(rng.integers(2, 5))))
        fan = direction + across * 0.15 * (n - (number - 1) / 2)
        for low, high in pairwise(joints):
            ends = offset + fan * (low + 0.02), offset + fan * (high - 0.02)
            thickness = thickness + rng.uniform(0.4, 0.9) * _bone(*ends, rng.uniform(0.05, 0.16), rng.uniform(0.2, 0.9))
    return _exposed(thickness, rng)


def trunk(rng: Rng) -> Grey:
    """A skull, a pelvis or an abdomen: shells, a spine or none, gas bubbles."""
    centre = rng.normal(0, 0.08, 2)
    axes, angle = rng.uniform(0.6, 1.3, 2), rng.normal(0, 0.3)
    shell = rng.uniform(0, 0.8)
    thickness = _ellipsoid(centre, axes, angle) + shell * (
        _ellipsoid(centre, axes * 0.95, angle) - _ellipsoid(centre, axes * 0.88, angle)
    )
    if rng.random() < 0.6:
        thickness = thickness + 0.5 * _bone(np.array([centre[0], -1.2]), np.array([centre[0], 1.2]), 0.12, 0.0)
    for _ in range(int(rng.integers(2, 12))):
        place, small = rng.uniform(-0.7, 0.7, 2), rng.uniform(0.05, 0.35, 2)
        thickness = thickness + rng.choice([-0.5, 0.4]) * _ellipsoid(place, small, rng.uniform(0, 3))
    return _exposed(np.clip(thickness, 0, None), rng)


def lateral(rng: Rng) -> Grey:
    """A chest from the side: one dark field between spine and sternum, heart in front, domes below, arms above."""
    x, y = _grid()
    lean = rng.normal(0, 0.08)
    shift, width = rng.normal(0, 0.06), rng.uniform(0.5, 0.72)
    u = (x - shift - lean * y) / width
    back = 0.75 + 0.2 * np.cos(1.6 * (y + 0.1))
    front = -0.55 - rng.uniform(0.2, 0.45) * np.clip(y + 0.9, 0, 1.5) / 1.5
    inside = 1 / (1 + np.exp(-18 * (u - front))) * (1 / (1 + np.exp(18 * (u - back - 0.25))))
    thickness = rng.uniform(0.9, 1.2) * inside
    top, base = rng.uniform(-0.95, -0.75), rng.uniform(0.35, 0.7)
    dome = base + 0.35 * np.clip(u, -0.4, 1) ** 2 * np.sign(u) + 0.05 * rng.normal()
    lung = 1 / (1 + np.exp(-14 * (y - top))) / (1 + np.exp(18 * (y - dome)))
    lung = lung / (1 + np.exp(-14 * (u - front - 0.12))) / (1 + np.exp(14 * (u - back)))
    thickness = thickness - rng.uniform(0.55, 0.8) * lung
    heart = np.array([shift + width * rng.uniform(-0.45, -0.1), base - rng.uniform(0.2, 0.4)])
    thickness = thickness + rng.uniform(0.3, 0.6) * _ellipsoid(heart, rng.uniform([0.2, 0.2], [0.4, 0.4]), -0.6)
    spine = (u - back + 0.1) / rng.uniform(0.12, 0.2)
    vertebrae = 1 + 0.25 * np.sin(2 * np.pi * rng.uniform(3.5, 6) * y)
    thickness = thickness + rng.uniform(0.3, 0.6) * np.exp(-(spine**2)) * vertebrae
    thickness = thickness + rng.uniform(0.05, 0.3) * np.exp(-(((u - front) / 0.06) ** 2))
    arms = rng.uniform(0.2, 0.6) / (1 + np.exp(14 * (y - top - rng.uniform(-0.05, 0.25))))
    for _ in range(int(rng.integers(4, 10))):
        height, drop = rng.uniform(-0.8, 0.6), rng.uniform(0.2, 0.6)
        rib = abs(y - height - drop * (back - u) * 0.4) < 0.02
        thickness = thickness + 0.08 * rib * inside
    image = _exposed(np.clip(thickness + arms * inside, 0, None), rng)
    return image[:, ::-1] if rng.random() < 0.5 else image
