"""Support devices: endotracheal tube, central venous line, pacemaker."""

from __future__ import annotations

import numpy as np

from kdistill.studies.phantom.scene import Effect, Scene
from kdistill.studies.phantom.shapes import Field, smoothstep

_MU_PLASTIC = np.float32(11.0)


def _curve(points: list[tuple[float, float]], scene: Scene, radius: float) -> Field:
    """A smooth line through control points (Catmull-Rom), drawn as a tube."""
    p = np.array([points[0], *points, points[-1]], dtype=np.float64)
    t = np.linspace(0, 1, 40, endpoint=False)[:, None]
    parts = []
    for i in range(len(p) - 3):
        a, b, c, d = p[i : i + 4]
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    line = np.concatenate(parts)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    num = max(int(length[-1] / 0.01), 8)
    even = np.linspace(0, length[-1], num)
    x, y = np.interp(even, length, line[:, 0]), np.interp(even, length, line[:, 1])
    return scene.grid.tubes(x, y, radius, float(length[-1]) / num)


def endotracheal_tube(scene: Scene, rng: np.random.Generator) -> Effect:
    """Two walls and a radiopaque thread in the trachea, the tip a few centimetres above the carina."""
    middle = scene.thorax.mediastinum
    x, tip = middle.x + middle.trachea + float(rng.normal(0, 0.004)), middle.carina_y - float(rng.uniform(0.10, 0.26))
    bend = float(rng.normal(0, 0.02))
    add = scene.grid.zeros()
    for offset, radius in ((-0.026, 0.0115), (0.026, 0.0115), (0.012, 0.009)):
        end = tip + (0.02 if offset < 0 else 0.0)
        add += _curve([(x + offset + bend, -1.08), (x + offset + bend / 2, -0.8), (x + offset, end)], scene, radius)
    return Effect(add=_MU_PLASTIC * np.float32(1.4) * add)


def central_line(side: str, scene: Scene, rng: np.random.Generator) -> Effect:
    """A catheter from the neck or beneath the clavicle into the superior vena cava."""
    x, jitter = scene.thorax.mediastinum.x, rng.normal(0, 0.015, 4)
    tip = (x - 0.115 + jitter[0], 0.02 + float(rng.uniform(-0.12, 0.14)))
    cava = (x - 0.125 + jitter[1], -0.28)
    if rng.random() < 0.5:  # jugular
        sign = -1 if side == "right" else 1
        points = [(x + sign * 0.22 + jitter[2], -1.05), (x + sign * 0.18, -0.72 + jitter[3])]
    else:  # subclavian
        sign = -1 if side == "right" else 1
        points = [(sign * (0.66 + jitter[2]), -0.42), (sign * 0.45, -0.62), (sign * 0.22 + x, -0.58 + jitter[3])]
    crossing = [] if side == "right" else [(x + 0.02, -0.46)]
    return Effect(add=_MU_PLASTIC * _curve([*points, *crossing, cava, tip], scene, 0.0145))


def pacemaker(side: str, scene: Scene, rng: np.random.Generator) -> Effect:
    """A generator below the clavicle and one or two leads to the right heart."""
    sign = -1 if side == "right" else 1
    x, y = sign * float(rng.uniform(0.52, 0.64)), float(rng.uniform(-0.46, -0.36))
    size, turn = float(rng.uniform(0.085, 0.105)), float(rng.uniform(-0.4, 0.4))
    right, down = scene.grid.x - np.float32(x), scene.grid.y - np.float32(y)
    u = (np.cos(turn) * right + np.sin(turn) * down) / np.float32(size)
    v = (np.cos(turn) * down - np.sin(turn) * right) / np.float32(0.85 * size)
    add = np.float32(1.1) * smoothstep(u**4 + v**4, 1.25, 0.8).astype(np.float32)
    middle = scene.thorax.mediastinum.x
    for tip in [(middle + 0.20, 0.46), (middle - 0.10, 0.22)][: 1 + int(rng.random() < 0.6)]:
        points = [
            (x, y),
            (sign * 0.30, -0.56),
            (middle + sign * 0.05, -0.48),
            (middle - 0.12, -0.25),
            (middle - 0.13, 0.1),
            tip,
        ]
        add = add + _MU_PLASTIC * _curve(points, scene, 0.0115)
    return Effect(add=add.astype(np.float32))
