"""Tissues put together: attenuation along every ray, and what a finding may change of it.

Beer-Lambert: L = sum of (attenuation coefficient x path length); the film shows a sigmoid of L, as a digital detector's
logarithm and look-up table do. Coefficients are relative to soft tissue = 1 per unit (half an image, about 18 cm, at
about 70 keV effective: 0.19 per cm; lung at a quarter of its density, Hubbell and Seltzer 1995, NISTIR 5632).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from kdistill.studies.phantom.anatomy import Film, Lung, Thorax, noise_of, vessels
from kdistill.studies.phantom.shapes import Field, Grid, Window, point_spread, union
from kdistill.studies.phantom.skeleton import skeleton

MU_BONE = np.float32(3.4)
MU_VESSEL = np.float32(2.8)
_MU_BLOOD = np.float32(0.04)
_MU_AIRWAY = np.float32(1.7)


@dataclass(frozen=True, eq=False)
class Effect:
    """What one finding changes.

    Attributes:
        fill: Share of the air-filled lung along each ray that turned into soft tissue or fluid, 0..1.
        lucency: Share of the lung along each ray that is free air, without parenchyma and vessels, 0..1.
        add: Attenuation on top (calcium, metal, displaced bone; negative for air in airways).
        geometry: Replaces parts of the thorax (heart, mediastinum, domes).
    """

    fill: Field | None = None
    lucency: Field | None = None
    add: Field | None = None
    geometry: Callable[[Thorax], Thorax] | None = None


@dataclass(frozen=True, eq=False)
class LungView:
    """One lung's coordinates in its pixel window: x towards the patient's side, y, u, v and 1 - u^2 - |v|^3."""

    lung: Lung
    window: Window
    x: Field
    y: Field
    u: Field
    v: Field
    inside: Field


class Scene:
    """One patient on one pixel grid; layers are drawn once and again only where a finding changes their geometry."""

    def __init__(self, thorax: Thorax, size_px: int) -> None:
        self.thorax = thorax
        self.grid: Grid = thorax.grid(size_px)
        self._layers: dict[Hashable, Field] = {}
        self._views: dict[int, LungView] = {}
        self._parts: tuple[Field, Field, Field] | None = None

    def view(self, side: str) -> LungView:
        """Coordinates of the patient's right or left lung."""
        lung = self.thorax.lung(side)
        if lung.sign not in self._views:
            window = lung.window(self.grid)
            x, y = self.grid.x[window], self.grid.y[window]
            u, v = lung.frame(x, y)
            inside = 1 - u * u - np.abs(v * v * v)
            self._views[lung.sign] = LungView(lung, window, np.float32(lung.sign) * x, y, u, v, inside)
        return self._views[lung.sign]

    def aerated(self) -> Field:
        """1 where the patient's own lung is seen through, falling to 0 at heart, diaphragm and chest wall."""
        return self._layer("aerated", lambda: np.minimum(self._air(self.thorax) * 6, np.float32(1)))

    def _air(self, thorax: Thorax) -> Field:
        return np.maximum(self._fixed()[1] - self._organs(thorax), np.float32(0))

    def _layer(self, key: Hashable, draw: Callable[[], Field]) -> Field:
        if key not in self._layers:
            self._layers[key] = draw()
        return self._layers[key]

    def _fixed(self) -> tuple[Field, Field, Field]:
        """(attenuation of what no finding moves, path through the lungs, attenuation of vessels)."""
        if self._parts is None:
            thorax, grid = self.thorax, self.grid
            lungs = thorax.lungs[0].path(grid) + thorax.lungs[1].path(grid)
            bone = MU_BONE * np.float32(thorax.bone) * skeleton(thorax, grid)
            solid = _melted(thorax, grid) + bone
            inner = np.minimum(lungs * 4, np.float32(1))
            self._parts = solid, lungs, MU_VESSEL * np.float32(thorax.vascularity) * vessels(thorax, grid) * inner
        return self._parts

    def _organs(self, thorax: Thorax) -> Field:
        heart = self._layer(thorax.heart, lambda: union(thorax.heart, self.grid))
        middle = self._layer(thorax.mediastinum, lambda: thorax.mediastinum.path(self.grid))
        domes = self._layer(thorax.domes, lambda: union(thorax.domes, self.grid))
        return self._layer(
            (thorax.heart, thorax.mediastinum, thorax.domes), lambda: np.maximum(np.maximum(heart, middle), domes)
        )

    def attenuation(self, effects: Sequence[Effect]) -> Field:
        """Attenuation along every ray with these findings, before noise and lead markers."""
        thorax = self.thorax
        for effect in effects:
            if effect.geometry is not None:
                thorax = effect.geometry(thorax)
        solid, _, vessel = self._fixed()
        lung = np.float32(thorax.parenchyma)
        air = self._air(thorax)
        aerated = np.minimum(air * 6, np.float32(1))
        for effect in effects:
            if effect.fill is not None:
                air = air * (1 - effect.fill)
                aerated = aerated * (1 - effect.fill)
        free = None
        for effect in effects:
            if effect.lucency is not None:
                free = effect.lucency if free is None else np.maximum(free, effect.lucency)
        total = solid - (1 - lung) * air + self._middle(thorax)
        total += vessel * aerated if free is None else vessel * aerated * (1 - free) - lung * free * air
        for effect in effects:
            if effect.add is not None:
                total += effect.add
        return point_spread(total)

    def _middle(self, thorax: Thorax) -> Field:
        """Blood in the heart, air in the airways and the stomach."""

        def draw() -> Field:
            blood = _MU_BLOOD * self._layer(thorax.heart, lambda: union(thorax.heart, self.grid))
            airway = _MU_AIRWAY * thorax.mediastinum.airway(self.grid)
            return blood - airway - thorax.stomach.path(self.grid)

        return self._layer((thorax.heart, thorax.mediastinum, thorax.stomach, "middle"), draw)

    def on_both(self, sides: Sequence[str], draw: Callable[[LungView], Field]) -> Field:
        """A field that is drawn in the windows of the named lungs and is zero elsewhere."""
        result = self.grid.zeros()
        for side in sides:
            view = self.view(side)
            target = result[view.window]
            np.maximum(target, draw(view) * (view.inside > 0), out=target)
        return result


def _melted(thorax: Thorax, grid: Grid) -> Field:
    """Path through torso, neck, shoulders and arms, joined without creases (an 8-norm of their path lengths)."""
    total = grid.zeros()
    for body in thorax.body:
        window = body.window(grid)
        t = body.inside(grid.x[window], grid.y[window])
        t = np.maximum(t, np.float32(0)) * np.float32(4 * body.depth * body.depth)
        t *= t
        total[window] += t * t
    result = np.sqrt(np.sqrt(np.sqrt(total)))
    for breast in thorax.breasts:
        result += breast.path(grid)
    return result


def develop(attenuation: Field, film: Film) -> Field:
    """The film's look-up table: a sigmoid of attenuation, 0..1, brighter where less radiation came through."""
    return 1 / (1 + np.exp((np.float32(film.centre) - attenuation) * np.float32(1 / film.width)))


def expose(attenuation: Field, film: Film, seed: int) -> Field:
    """The noisy film: quantum noise grows as the square root of the attenuation factor, pixel by pixel."""
    noise = noise_of(seed, attenuation.shape[0])
    grain = np.float32(film.noise) * np.exp(np.minimum(attenuation, np.float32(2.4)) * np.float32(0.5))
    return develop(attenuation + noise * grain, film)
