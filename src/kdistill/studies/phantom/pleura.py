"""Signs at the chest wall: pneumothorax, effusion, pleural thickening and plaques, rib fractures.

`level` is 0, 1 or 2 for mild, moderate and severe. Signs follow Hansell et al. 2008, Radiology 246:697-722.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdistill.studies.phantom.anatomy import Thorax, shifted
from kdistill.studies.phantom.scene import MU_BONE, Effect, LungView, Scene
from kdistill.studies.phantom.shapes import Ellipsoid, Field, bump, smooth_noise, smoothstep
from kdistill.studies.phantom.skeleton import Rib, ribs_of


def visceral_line(level: int, sides: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Effect:
    """Pneumothorax: the lung shrunk towards its hilum, a thin line at its edge, free air without vessels beyond."""
    shrink = (0.915, 0.82, 0.65)[level] + float(rng.uniform(-0.03, 0.03))
    lower = shrink + (0.10, 0.07, 0.03)[level]
    fields = {}

    def draw(view: LungView) -> Field:
        hilum_u, hilum_v = np.float32(-0.75), np.float32(0.0)
        v = hilum_v + (view.v - hilum_v) * np.float32(1 / lower)
        u = hilum_u + (view.u - hilum_u) * np.float32(1 / shrink)
        retracted = 1 - u * u - np.abs(v * v * v)
        fields["line"] = bump(retracted, 0.0, 3.2 / scene.grid.px) * smoothstep(view.inside, 0.02, 0.12)
        fields["dense"] = smoothstep(retracted, -0.05, 0.1) * (view.inside > 0)
        return smoothstep(retracted, 0.03, -0.03)

    free = scene.on_both(sides, draw)
    add = scene.grid.zeros()
    window = scene.view(sides[0]).window
    add[window] = np.float32(0.12) * fields["line"]
    add *= scene.aerated()
    fill = scene.grid.zeros()
    fill[window] = np.float32((0.03, 0.06, 0.14)[level]) * fields["dense"]
    return Effect(lucency=free, add=add, fill=fill, geometry=_push(sides[0], 0.035) if level == 2 else None)


def _push(side: str, amount: float) -> Callable[[Thorax], Thorax]:
    """Mediastinum pushed away from a side."""
    return lambda thorax: shifted(thorax, -thorax.lung(side).sign * amount)


def _fluid(scene: Scene, sides: tuple[str, ...], lateral: float, medial: float) -> Effect:
    """Free fluid: its upper edge is concave, low in the middle and climbing the lateral wall."""

    def draw(view: LungView) -> Field:
        across = np.clip((1 - view.u) * np.float32(0.5), 0, 1)
        edge = np.float32(lateral) + np.float32(medial - lateral) * np.sqrt(across)
        return np.float32(0.93) * smoothstep(view.y - edge, -0.035, 0.06)

    return Effect(fill=scene.on_both(sides, draw))


def meniscus(level: int, sides: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Effect:
    """Pleural effusion with a meniscus."""
    lateral = (0.42, 0.20, -0.12)[level] + float(rng.uniform(-0.04, 0.04))
    effect = _fluid(scene, sides, lateral, lateral + (0.26, 0.24, 0.20)[level])
    return replace(effect, geometry=_push(sides[0], 0.03)) if level == 2 and len(sides) == 1 else effect


def blunting(level: int, sides: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Effect:
    """A small effusion: the lateral costophrenic angle is filled, nothing else."""
    lateral = (0.46, 0.40, 0.36)[level] + float(rng.uniform(-0.02, 0.02))
    return _fluid(scene, sides, lateral, lateral + 0.52)


def apical_cap(level: int, sides: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Effect:
    """Pleural thickening over the apex with an irregular lower edge."""
    thick = (0.065, 0.095, 0.14)[level] * float(rng.uniform(0.92, 1.1))
    noise = smooth_noise(rng, scene.grid.size_px, 22)

    def draw(view: LungView) -> Field:
        drop = np.float32(thick) * (1 + np.float32(0.22) * noise[view.window])
        shifted = view.lung.inside(np.float32(view.lung.sign) * view.x, view.y - drop)
        return np.float32(0.92) * smoothstep(shifted, 0.10, -0.03) * smoothstep(view.y, -0.36, -0.5)

    return Effect(fill=scene.on_both(sides, draw))


def plaque(level: int, sides: tuple[str, ...], scene: Scene, rng: np.random.Generator) -> Effect:
    """Calcified pleural plaques: dense flat patches along the chest wall and, seen en face, with a map-like edge."""
    noise = smooth_noise(rng, scene.grid.size_px, 26)
    number, y = (2, 3, 4)[level], float(rng.uniform(-0.05, 0.25))
    add = scene.grid.zeros()
    for side in sides:
        lung = scene.thorax.lung(side)
        for index in range(number):
            place = y + float(rng.normal(0, 0.13))
            depth = float(rng.uniform(0.03, 0.05)) if index % 2 == 0 else float(rng.uniform(0.12, 0.3))
            wide, high = (0.026, 0.10) if index % 2 == 0 else (0.06, 0.045)
            size = float(rng.uniform(0.9, 1.3))
            shape = Ellipsoid(
                lung.sign * (lung.lateral(place) - depth), place, wide * size, high * size, 1.0, lung.sign * -0.15
            )
            edge = shape.inside(scene.grid.x, scene.grid.y) + np.float32(0.62) * noise
            rim = smoothstep(edge, 0.0, 0.22) * (np.float32(0.6) + np.float32(0.4) * bump(edge, 0.15, 0.25))
            np.maximum(add, rim, out=add)
    return Effect(add=np.float32(0.30 + 0.06 * level) * add)


def rib_fracture(level: int, side: str, y: float, scene: Scene, rng: np.random.Generator) -> Effect:
    """Ribs broken in the lateral part: a step, a gap, overlapping ends, and the bruise of the pleura beneath."""
    ribs = [rib for rib in ribs_of(scene.thorax) if rib.sign == scene.thorax.lung(side).sign][1:8]
    angle = float(rng.uniform(-1.0, -0.35))
    heights = np.array([rib.y + rib.b * np.sin(angle) for rib in ribs])
    first = int(np.clip(np.argmin(np.abs(heights - y)) - level // 2, 0, len(ribs) - 1 - level))
    step = (1.7, 1.9, 2.1)[level] * float(rng.choice([-1, 1]))
    add = scene.grid.zeros()
    for rib in ribs[first : first + 1 + level]:
        _break(rib, angle + float(rng.normal(0, 0.06)), step * rib.half_height, scene, add)
    return Effect(add=add)


def _break(rib: Rib, angle: float, step: float, scene: Scene, add: Field) -> None:
    window = rib.window(scene.grid, margin=0.09)
    x, y = scene.grid.x[window], scene.grid.y[window]
    distance, along = rib.frame(x, y)
    from_break = (along - np.float32(angle)) * np.float32(rib.a)
    moved = np.float32(step) * smoothstep(from_break, -0.02, 0.01) * smoothstep(from_break, 0.30, 0.12)
    gap = 1 - np.float32(0.95) * bump(from_break, -0.006, 0.020)
    callus = np.float32(0.05) * bump(from_break, 0.045, 0.03) * bump(distance - moved, 0.0, 0.035)
    bone = rib.path(distance - moved, along) * gap - rib.path(distance, along) + callus
    add[window] += MU_BONE * np.float32(scene.thorax.bone) * bone
    bruise = Ellipsoid(
        rib.sign * (rib.x + rib.a * np.cos(angle) - 0.02), rib.y + rib.b * np.sin(angle), 0.075, 0.09, 0.05
    )
    add += bruise.path(scene.grid)
