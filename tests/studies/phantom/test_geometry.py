"""Closed-form path lengths against numeric integration along the rays; the pixel grid; smoothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.studies.phantom.anatomy import Lung, thorax_of
from kdistill.studies.phantom.shapes import Ellipsoid, Grid, blur, point_spread, smooth_noise, union
from kdistill.studies.phantom.skeleton import ribs_of

_STEPS = 4000


def _integrate(member, half: float) -> float:
    """Length of the ray's part for which member(z) holds, by the midpoint rule."""
    z = (np.arange(_STEPS) + 0.5) / _STEPS * 2 * half - half
    return float(np.mean(member(z)) * 2 * half)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
    st.floats(0.1, 0.9),
    st.floats(0.1, 0.9),
    st.floats(0.1, 0.8),
    st.floats(-1.5, 1.5),
    st.booleans(),
    st.booleans(),
)
def test_ellipsoid_path_equals_the_numeric_integral(x, y, a, b, depth, tilt, boxy_u, boxy_v) -> None:
    body = Ellipsoid(x, y, a, b, depth, tilt, boxy_u, boxy_v)
    grid = Grid(24, rotation=0.1, shift=(0.05, -0.02), zoom=0.95)
    path = body.path(grid)
    p, q = (4 if boxy_u else 2), (4 if boxy_v else 2)
    for row, column in ((4, 7), (12, 12), (15, 9), (20, 18)):
        right, down = float(grid.x[row, column]) - x, float(grid.y[row, column]) - y
        u = (math.cos(tilt) * right + math.sin(tilt) * down) / a
        v = (math.cos(tilt) * down - math.sin(tilt) * right) / b

        def member(z, u=u, v=v):
            return abs(u) ** p + abs(v) ** q + (z / depth) ** 2 <= 1

        # the midpoint rule is off by at most two steps of 2 * depth / 4000; measured worst 4.0e-4
        assert path[row, column] == pytest.approx(_integrate(member, depth * 1.001), abs=8e-4)


def test_union_counts_shared_stretches_once() -> None:
    grid = Grid(32)
    bodies = (Ellipsoid(-0.1, 0.0, 0.5, 0.4, 0.3), Ellipsoid(0.2, 0.1, 0.4, 0.5, 0.5))
    path = union(bodies, grid)
    row, column = 17, 17
    x, y = float(grid.x[row, column]), float(grid.y[row, column])

    def member(z):
        inside = [((x - e.x) / e.a) ** 2 + ((y - e.y) / e.b) ** 2 + (z / e.depth) ** 2 <= 1 for e in bodies]
        return inside[0] | inside[1]

    assert path[row, column] == pytest.approx(_integrate(member, 0.51), abs=8e-4)
    assert path[row, column] < sum(e.path(grid)[row, column] for e in bodies) - 0.1


def test_lung_path_equals_the_numeric_integral() -> None:
    lung = Lung(sign=1, x=0.4, y=0.26, a=0.36, b=1.05, depth=0.43, taper=0.1, lean=0.05)
    grid = Grid(64)
    path = lung.path(grid)
    for row, column in ((20, 42), (32, 45), (40, 50)):
        x, y = float(grid.x[row, column]), float(grid.y[row, column])
        v = (y - lung.y) / lung.b
        u = (x - lung.x - lung.lean * v) / (lung.a * (1 + lung.taper * v))

        def member(z, u=u, v=v):
            return u * u + abs(v) ** 3 + (z / lung.depth) ** 2 <= 1

        assert path[row, column] == pytest.approx(_integrate(member, 0.431), abs=8e-4)


def test_tube_has_the_cross_section_of_a_cylinder_and_crossing_tubes_add() -> None:
    grid = Grid(128)
    t = np.linspace(-0.6, 0.6, 241)
    still = 0 * t + 1 / 128  # the centre of pixel 64
    level = grid.tubes(t, still, 0.06, 0.005)
    upright = grid.tubes(still, t, 0.06, 0.005)
    # peak = diameter; the Gaussian's window is cut at 2.6 standard deviations: 1% of its weight
    assert level[:, 64].max() == pytest.approx(0.12, rel=0.02)
    both = grid.tubes(np.concatenate([t, still]), np.concatenate([still, t]), 0.06, 0.005)
    np.testing.assert_allclose(both, level + upright, atol=1e-6)


def test_a_tube_thinner_than_a_pixel_keeps_its_cross_section() -> None:
    grid = Grid(64)
    t = np.linspace(-0.6, 0.6, 481)
    thin = grid.tubes(t, 0.0 * t + 0.01, 0.004, 0.0025)[:, 32].sum() / grid.px
    assert thin == pytest.approx(2 * 0.004**2 * math.sqrt(math.pi / 2), rel=0.05)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.06, 0.06), st.floats(-0.05, 0.05), st.floats(0.94, 1.07), st.floats(-0.8, 0.8), st.floats(-0.8, 0.8)
)
def test_grid_and_pixels_are_inverse(rotation, shift, zoom, x, y) -> None:
    grid = Grid(128, rotation=rotation, shift=(shift, -shift), zoom=zoom)
    column, row = grid.to_pixels(np.array([x]), np.array([y]))
    if 0 <= round(float(column[0])) < 128 and 0 <= round(float(row[0])) < 128:
        here = round(float(row[0])), round(float(column[0]))
        assert abs(float(grid.x[here]) - x) <= 1.1 / grid.px
        assert abs(float(grid.y[here]) - y) <= 1.1 / grid.px
    rows, columns = grid.window(x - 0.1, x + 0.1, y - 0.1, y + 0.1)
    box = (np.abs(grid.x - x) < 0.1) & (np.abs(grid.y - y) < 0.1)
    outside = box.copy()
    outside[rows, columns] = False
    assert not outside.any()


def test_blur_keeps_sums_and_reaches_no_further_than_three_sigma() -> None:
    field = np.zeros((64, 64), dtype=np.float32)
    field[32, 32] = 1
    smooth = blur(field, 2.0)
    assert smooth.sum() == pytest.approx(1, abs=1e-5)
    assert smooth[32, 32 + 7] == 0 and smooth[32, 32 + 6] > 0
    assert point_spread(field).sum() == pytest.approx(1, abs=1e-6)


def test_smooth_noise_is_smooth_and_of_unit_variance() -> None:
    fields = [smooth_noise(np.random.default_rng(seed), 128, 10) for seed in range(20)]
    assert np.std(fields) == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(fields[0], axis=1)).max() < 0.5


def test_normal_hearts_are_not_enlarged() -> None:
    ratios = []
    for seed in range(9000, 9060):
        thorax = thorax_of(seed, "M", "PA")
        grid = replace(thorax, film=replace(thorax.film, rotation=0.0, shift=(0.0, 0.0), zoom=1.0)).grid(256)
        heart = union(thorax.heart, grid).max(axis=0) > 0
        ratios.append(heart.sum() / 128 / (thorax.lungs[0].lateral(0.3) + thorax.lungs[1].lateral(0.3)))
    # cardiothoracic ratio below one half (Danzer 1919); measured 0.37 to 0.47
    assert min(ratios) > 0.34 and max(ratios) < 0.5


def test_lungs_and_domes_are_asymmetric_as_in_patients() -> None:
    chests = [thorax_of(seed, "F", "PA") for seed in range(9000, 9040)]
    assert np.mean([c.lungs[0].a for c in chests]) > np.mean([c.lungs[1].a for c in chests])
    assert np.mean([c.domes[0].y - c.domes[0].b for c in chests]) < np.mean(
        [c.domes[1].y - c.domes[1].b for c in chests]
    )
    assert all(len(ribs_of(c)) == 20 for c in chests[:3])
