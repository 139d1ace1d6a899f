"""The observations drawn as their radiographic signs: heart, mediastinum, lung parenchyma.

Every random draw comes from the finding's own seed, and every drawing depends only on the patient's anatomy, never on
the other findings: removing one leaves the others as they were. Signs follow Hansell et al. 2008, "Fleischner Society:
Glossary of Terms for Thoracic Imaging", Radiology 246:697-722.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdistill.errors import InputError
from kdistill.records import Severity
from kdistill.studies.phantom.anatomy import Thorax, shifted
from kdistill.studies.phantom.devices import central_line, endotracheal_tube, pacemaker
from kdistill.studies.phantom.plan import FindingPlan
from kdistill.studies.phantom.pleura import apical_cap, blunting, meniscus, plaque, rib_fracture, visceral_line
from kdistill.studies.phantom.scene import Effect, LungView, Scene
from kdistill.studies.phantom.shapes import Ellipsoid, Field, bump, smooth_noise, smoothstep

_LEVEL = {"mild": 0, "moderate": 1, "severe": 2}
#: Height of the middle of each zone, patient units.
_ZONE_Y = {"upper": -0.42, "middle": -0.07, "lower": 0.26}


def graded(severity: Severity, low: float, middle: float, high: float, rng: np.random.Generator) -> float:
    """A size for a severity, varying by a tenth so that grades are not three fixed pictures."""
    return (low, middle, high)[_LEVEL[severity]] * float(rng.uniform(0.9, 1.1))


def sides_of(finding: FindingPlan) -> tuple[str, ...]:
    """The lungs that a finding concerns; a finding without side concerns both."""
    return ("right", "left") if finding.side in (None, "bilateral") else (str(finding.side),)


def draw_finding(finding: FindingPlan, scene: Scene) -> Effect:
    """What one finding changes in one patient.

    Raises:
        InputError: The variant is not one of plan.VARIANTS.
    """
    rng = np.random.default_rng((finding.seed, 7))
    match finding.variant:
        case "large_heart":
            return Effect(geometry=_large_heart(finding, rng))
        case "wide_mediastinum":
            return Effect(geometry=_wide_mediastinum(finding, rng))
        case "ground_glass":
            return _ground_glass(finding, scene, rng)
        case "bat_wing":
            return _bat_wing(finding, scene, rng)
        case "interstitial":
            return _interstitial(finding, scene, rng)
        case "lobar":
            return _lobar(finding, scene, rng)
        case "patchy":
            return _patchy(finding, scene, rng)
        case "nodule" | "mass":
            return _lesion(finding, scene, rng)
        case "band":
            return _band(finding, scene, rng)
        case "volume_loss":
            return _volume_loss(finding, scene, rng)
    return _draw_outside_lung(finding, scene, rng)


def _draw_outside_lung(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    level, sides = _LEVEL[finding.severity], sides_of(finding)
    match finding.variant:
        case "visceral_line":
            return visceral_line(level, sides, scene, rng)
        case "meniscus":
            return meniscus(level, sides, scene, rng)
        case "blunting":
            return blunting(level, sides, scene, rng)
        case "apical_cap":
            return apical_cap(level, sides, scene, rng)
        case "plaque":
            return plaque(level, sides, scene, rng)
        case "rib":
            return rib_fracture(level, sides[0], _ZONE_Y[finding.zone or "middle"], scene, rng)
        case "endotracheal_tube":
            return endotracheal_tube(scene, rng)
        case "central_line":
            return central_line(sides[0], scene, rng)
        case "pacemaker":
            return pacemaker(sides[-1], scene, rng)
    raise InputError(f"no drawing for the variant {finding.variant!r}", remedy="Use one of plan.VARIANTS.")


def _large_heart(finding: FindingPlan, rng: np.random.Generator) -> Callable[[Thorax], Thorax]:
    target = (0.53, 0.58, 0.65)[_LEVEL[finding.severity]] + float(rng.uniform(-0.015, 0.02))
    globular = float(rng.uniform(0.55, 0.9))

    def enlarge(thorax: Thorax) -> Thorax:
        chest = thorax.lungs[0].lateral(0.3) + thorax.lungs[1].lateral(0.3)
        right = min(part.x - part.a for part in thorax.heart)
        left = max(
            part.x + math.hypot(part.a * math.cos(part.tilt), part.b * math.sin(part.tilt)) for part in thorax.heart
        )
        scale = max(target * chest / (left - right), 1.05)
        tall = 1 + (scale - 1) * globular
        centre_x, bottom = thorax.mediastinum.x + 0.05, 0.56
        parts = []
        for index, part in enumerate(thorax.heart):
            wide, high = (1 + 0.3 * (scale - 1), 1.0) if index == 2 else (scale, tall)  # the conus hardly grows
            parts.append(
                replace(
                    part,
                    x=centre_x + (part.x - centre_x) * wide,
                    y=bottom + (part.y - bottom) * high,
                    a=part.a * wide,
                    b=part.b * high,
                )
            )
        return replace(thorax, heart=tuple(parts))

    return enlarge


def _wide_mediastinum(finding: FindingPlan, rng: np.random.Generator) -> Callable[[Thorax], Thorax]:
    right = graded(finding.severity, 1.14, 1.32, 1.62, rng)
    left = graded(finding.severity, 1.16, 1.38, 1.72, rng)
    unfolded = graded(finding.severity, 1.02, 1.08, 1.20, rng)

    def widen(thorax: Thorax) -> Thorax:
        middle = thorax.mediastinum
        knob = replace(
            middle.knob, a=middle.knob.a * unfolded, b=middle.knob.b * unfolded, x=middle.knob.x + 0.05 * left
        )
        return replace(
            thorax, mediastinum=replace(middle, right=middle.right * right, left=middle.left * left, knob=knob)
        )

    return widen


def _patch(view: LungView, u: float, y: float, wide: float, high: float, soft: float, noise: Field) -> Field:
    """A soft-edged irregular patch: 1 in its middle, its edge moved in and out by the noise."""
    radius = np.sqrt(
        ((view.u - np.float32(u)) / np.float32(wide)) ** 2 + ((view.y - np.float32(y)) / np.float32(high)) ** 2
    )
    return smoothstep(radius + np.float32(0.16) * noise[view.window], 1 + soft, 1 - soft)


def _ground_glass(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    noise = smooth_noise(rng, scene.grid.size_px, 9)
    strength = graded(finding.severity, 0.29, 0.40, 0.52, rng)
    y = _ZONE_Y[finding.zone or "middle"] + float(rng.uniform(-0.05, 0.05))
    wide, high = graded(finding.severity, 0.62, 0.78, 0.95, rng), graded(finding.severity, 0.25, 0.30, 0.36, rng)

    def draw(view: LungView) -> Field:
        u = float(rng.uniform(-0.15, 0.3))
        return (
            np.float32(strength)
            * _patch(view, u, y, wide, high, 0.4, noise)
            * (1 + np.float32(0.13) * noise[view.window])
        )

    return Effect(fill=np.clip(scene.on_both(sides_of(finding), draw), 0, 0.9))


def _bat_wing(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    noise, fine = smooth_noise(rng, scene.grid.size_px, 10), smooth_noise(rng, scene.grid.size_px, 28)
    strength = graded(finding.severity, 0.18, 0.30, 0.46, rng)
    reach = graded(finding.severity, 0.42, 0.50, 0.60, rng)

    def draw(view: LungView) -> Field:
        share = float(rng.uniform(0.85, 1.1))
        wing = bump(view.u, -0.45, reach * 1.25) * bump(view.y, 0.03, reach * 0.75)
        spared = smoothstep(view.u, 1.0, 0.5)
        mottle = 1 + np.float32(0.16) * noise[view.window] + np.float32(0.16) * fine[view.window]
        return np.float32(strength * share) * wing * spared * mottle

    return Effect(fill=np.clip(scene.on_both(("right", "left"), draw), 0, 0.9))


def _interstitial(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    fine = smooth_noise(rng, scene.grid.size_px, 34)
    haze = graded(finding.severity, 0.045, 0.08, 0.135, rng)

    def draw(view: LungView) -> Field:
        low = np.float32(0.55) + np.float32(0.45) * smoothstep(view.y, -0.5, 0.3)
        return np.float32(haze) * low * (1 + np.float32(0.55) * fine[view.window])

    lines = scene.grid.zeros()
    for side in ("right", "left"):
        lines += _septal_lines(finding, scene, side, rng)
    return Effect(
        fill=np.clip(scene.on_both(("right", "left"), draw), 0, 0.8), add=np.float32(2.2) * lines * scene.aerated()
    )


def _septal_lines(finding: FindingPlan, scene: Scene, side: str, rng: np.random.Generator) -> Field:
    """Kerley A lines from the hila and B lines at the lateral bases; every line is 12 points long."""
    lung = scene.thorax.lung(side)
    num_b, num_a = ((6, 4), (10, 6), (15, 10))[_LEVEL[finding.severity]]
    t = np.linspace(0, 1, 12)
    y = rng.uniform(0.08, 0.52, num_b)
    edge = np.array([lung.lateral(value) for value in y]) - 0.01
    basal_x = edge[:, None] - rng.uniform(0.09, 0.15, num_b)[:, None] * t
    basal_y = y[:, None] + rng.normal(0, 0.012, num_b)[:, None] * t
    angle, start = rng.uniform(-1.1, 1.1, num_a), lung.x - 0.3 * lung.a
    length = rng.uniform(0.14, 0.24, num_a)
    hilar_x = start + rng.normal(0, 0.04, num_a)[:, None] + (length * np.cos(angle))[:, None] * t
    hilar_y = rng.normal(-0.02, 0.12, num_a)[:, None] + (length * np.sin(angle))[:, None] * t
    x, y_all = np.concatenate([basal_x, hilar_x]).ravel(), np.concatenate([basal_y, hilar_y]).ravel()
    return scene.grid.tubes(lung.sign * x, y_all, 0.0135, 0.013)


def _lobar(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    noise = smooth_noise(rng, scene.grid.size_px, 8)
    strength = graded(finding.severity, 0.55, 0.72, 0.86, rng)
    wide, high = graded(finding.severity, 0.62, 0.95, 1.5, rng), graded(finding.severity, 0.19, 0.30, 0.45, rng)
    zone = finding.zone or "lower"
    tilt, fissure = float(rng.uniform(-0.12, 0.02)), float(rng.uniform(-0.03, 0.03))

    def draw(view: LungView) -> Field:
        y = view.y + np.float32(tilt) * (view.x - np.float32(view.lung.x))
        u = float(rng.uniform(-0.25, 0.3))
        patch = _patch(view, u, _ZONE_Y[zone], wide, high, 0.22, noise)
        if zone == "upper":  # the horizontal (or oblique) fissure bounds it below, sharply
            return patch * smoothstep(y, -0.20 + fissure, -0.235 + fissure)
        if zone == "middle":
            return patch * smoothstep(y, -0.185 + fissure, -0.15 + fissure)
        return patch * smoothstep(y, 0.02 + fissure, 0.14 + fissure)

    region = scene.on_both(sides_of(finding), draw)
    tubes = _bronchogram(scene, sides_of(finding), _ZONE_Y[zone], rng)
    return Effect(
        fill=np.minimum(np.float32(strength) * region, np.float32(0.95)), add=np.float32(-1.6) * tubes * region * region
    )


def _bronchogram(scene: Scene, sides: tuple[str, ...], y: float, rng: np.random.Generator) -> Field:
    """Air-filled bronchi fanning out from the hilum into the region."""
    result = scene.grid.zeros()
    t = np.linspace(0, 1, 26)
    for side in sides:
        lung = scene.thorax.lung(side)
        for spread in np.array([-0.16, 0.0, 0.16]) + rng.normal(0, 0.03, 3):
            x = lung.x - 0.75 * lung.a + (1.15 * lung.a) * t
            line = 0.55 * y + (0.55 * y + spread) * t**0.8
            result += scene.grid.tubes(lung.sign * x, line, 0.026 - 0.010 * t, 0.019)
    return result


def _patchy(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    noise = smooth_noise(rng, scene.grid.size_px, 20)
    number = (5, 8, 12)[_LEVEL[finding.severity]]
    spread = graded(finding.severity, 0.13, 0.17, 0.22, rng)
    centre_y = _ZONE_Y[finding.zone or "lower"]

    def draw(view: LungView) -> Field:
        clear = np.ones_like(view.u)
        middle = float(rng.uniform(-0.2, 0.35))
        for _ in range(number):
            u, y = float(rng.normal(middle, 0.36)), float(rng.normal(centre_y, spread))
            size = float(rng.uniform(0.05, 0.11))
            share = float(rng.uniform(0.35, 0.62))
            clear *= 1 - np.float32(share) * _patch(view, np.clip(u, -0.85, 0.85), y, size / 0.36, size, 0.45, noise)
        return 1 - clear

    return Effect(fill=scene.on_both(sides_of(finding), draw))


def _lesion(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    """A round nodule, or a lobulated and spiculated mass: solid tissue that takes the place of air."""
    lung = scene.thorax.lung(sides_of(finding)[0])
    mass = finding.variant == "mass"
    radius = (
        graded(finding.severity, 0.11, 0.14, 0.18, rng) if mass else graded(finding.severity, 0.052, 0.066, 0.082, rng)
    )
    x, y = (
        lung.x + float(rng.uniform(-0.35, 0.55)) * lung.a,
        _ZONE_Y[finding.zone or "middle"] + float(rng.uniform(-0.1, 0.1)),
    )
    bodies = [Ellipsoid(lung.sign * x, y, radius, radius * float(rng.uniform(0.85, 1.1)), radius * 1.25)]
    for angle in rng.uniform(0, 2 * math.pi, 3 if mass else 0):
        size = radius * float(rng.uniform(0.5, 0.7))
        bodies.append(
            Ellipsoid(
                lung.sign * (x + 0.6 * radius * math.cos(angle)),
                y + 0.6 * radius * math.sin(angle),
                size,
                size,
                size * 1.2,
            )
        )
    solid = scene.grid.zeros()
    for body in bodies:
        np.maximum(solid, body.path(scene.grid), out=solid)
    add = np.float32(1.2 if mass else 2.4) * np.minimum(solid, np.float32(0.5))
    if mass:
        t = np.linspace(0.8, 1.75, 12)
        for angle in rng.uniform(0, 2 * math.pi, 9):
            reach = t * radius * float(rng.uniform(0.8, 1.0))
            add += scene.grid.tubes(
                lung.sign * (x + reach * math.cos(angle)), y + reach * math.sin(angle), 0.008, radius * 0.08
            )
    return Effect(add=add)


def _band(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    number = (1, 2, 3)[_LEVEL[finding.severity]]
    base = {"upper": -0.35, "middle": 0.05, "lower": 0.34}[finding.zone or "lower"]
    thick = graded(finding.severity, 0.017, 0.021, 0.025, rng)

    def draw(view: LungView) -> Field:
        clear = np.ones_like(view.u)
        for index in range(number):
            slope, bend = float(rng.normal(0.05, 0.16)), float(rng.normal(0, 0.12))
            middle, half = float(rng.uniform(-0.2, 0.3)), float(rng.uniform(0.5, 0.75))
            along = view.u - np.float32(middle)
            line = base - 0.085 * index + float(rng.uniform(-0.03, 0.03)) + np.float32(0.36 * slope) * along
            line = line + np.float32(0.36 * bend) * along * along
            ends = smoothstep(np.abs(along), half + 0.12, half - 0.12)
            clear *= 1 - np.float32(0.52) * ends * bump(view.y - line, 0.0, thick)
        return 1 - clear

    return Effect(fill=scene.on_both(sides_of(finding), draw))


def _volume_loss(finding: FindingPlan, scene: Scene, rng: np.random.Generator) -> Effect:
    """Lobar collapse: a wedge with a displaced fissure, mediastinum drawn to it, hemidiaphragm raised."""
    strength = graded(finding.severity, 0.50, 0.64, 0.78, rng)
    lift, pull = graded(finding.severity, 0.07, 0.11, 0.16, rng), graded(finding.severity, 0.025, 0.045, 0.07, rng)
    side, upper = sides_of(finding)[0], finding.zone == "upper"
    place, slope = float(rng.uniform(0.0, 0.08)), float(rng.uniform(0.85, 1.1))

    def draw(view: LungView) -> Field:
        medial = view.x - np.float32(view.lung.x - view.lung.a)
        if upper:
            edge = np.float32(place - 0.30) - np.float32(0.35 * slope) * medial - view.y
        else:
            edge = view.y - np.float32(place) - np.float32(slope) * (medial - np.float32(0.08))
        return np.float32(strength) * smoothstep(edge, -0.02, 0.05)

    def shrink(thorax: Thorax) -> Thorax:
        sign = thorax.lung(side).sign
        rise = 0.5 * lift if upper else lift
        domes = tuple(replace(d, y=d.y - rise) if d.x * sign > 0.1 else d for d in thorax.domes)
        return replace(shifted(thorax, sign * pull), domes=domes)

    return Effect(fill=scene.on_both((side,), draw), geometry=shrink)
