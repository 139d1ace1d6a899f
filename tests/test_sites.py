from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.observations import OBSERVATIONS
from kdistill.sites import (
    MAX_AREA_CHANGE,
    MAX_OVERLAP,
    REFERENCE,
    SITES,
    Box,
    Frame,
    boxes,
    displaced,
    rasterise,
    region_mask,
    to_frame,
)

SIDES = (None, "left", "right", "bilateral")
ZONES = (None, "upper", "middle", "lower")


def test_every_observation_has_a_site():
    assert set(SITES) == set(OBSERVATIONS)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_boxes_lie_in_the_image_and_masks_in_the_boxes(observation):
    for side, zone in itertools.product(SIDES, ZONES):
        for box in boxes(observation, side, zone):
            assert 0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1
        mask = region_mask(observation, side, zone, grid_size=16)
        assert mask.shape == (16, 16) and mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1 and mask.sum() > 2


def test_the_patients_left_is_on_the_images_right():
    left = region_mask("Pleural Effusion", "left", grid_size=8)
    assert left[:, :4].sum() == 0 and left[:, 4:].sum() > 0
    assert np.allclose(left[:, ::-1], region_mask("Pleural Effusion", "right", grid_size=8), atol=1e-6)


def test_both_sides_are_the_union_and_no_side_means_both():
    both = region_mask("Pneumonia", "bilateral")
    union = np.maximum(region_mask("Pneumonia", "left"), region_mask("Pneumonia", "right"))
    assert np.array_equal(both, union) and np.array_equal(both, region_mask("Pneumonia"))


def test_zones_cut_and_a_zone_outside_the_site_leaves_it_whole():
    whole, upper = region_mask("Lung Opacity"), region_mask("Lung Opacity", None, "upper")
    assert upper.sum() < whole.sum() and np.all(upper <= whole + 1e-6)
    assert np.array_equal(region_mask("Pleural Effusion", None, "upper"), region_mask("Pleural Effusion"))


def test_midline_sites_ignore_side_and_zone():
    assert boxes("Cardiomegaly", "left", "upper") == boxes("Cardiomegaly")


def test_a_cell_counts_by_its_share():
    # One box from 0.48 to 0.95 of the height: of 2 rows the lower holds 0.45 of 0.5.
    assert region_mask("Pleural Effusion", "left", grid_size=2)[1, 1] == pytest.approx(0.9 * 0.96, abs=0.01)


def test_unknown_observation_is_an_error():
    with pytest.raises(KeyError):
        boxes("Hernia")


SHIFTED = Frame(left=0.16, top=0.08, right=0.84, bottom=0.47, midline=0.60)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_standard_frame_leaves_boxes_and_masks_bit_for_bit(observation):
    """Against the rows and columns as they are written down, drawn by one outer product a box."""
    site, edges = SITES[observation], np.linspace(0.0, 1.0, 15)
    columns = (site.right, site.left) if site.lateralised else (site.right,)
    assert boxes(observation) == tuple((c[0], site.rows[0], c[1], site.rows[1]) for c in columns)
    expected = np.zeros((14, 14), dtype=np.float32)
    for left, top, right, bottom in boxes(observation):
        across = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None) * 14
        down = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None) * 14
        expected = np.maximum(expected, np.outer(down, across).astype(np.float32))
    assert region_mask(observation, grid_size=14).tobytes() == expected.tobytes()
    assert region_mask(observation, grid_size=14, frame=REFERENCE).tobytes() == expected.tobytes()


def test_a_box_is_carried_into_a_frame_by_hand():
    # The right lung's half is as wide as the standard one (0.44), the left one 0.24; the height is half of 0.78.
    right, left = boxes("Lung Lesion", frame=SHIFTED)
    assert right == pytest.approx((0.16, 0.08, 0.60, 0.47)) and left == pytest.approx((0.60, 0.08, 0.84, 0.47))
    (heart,) = boxes("Cardiomegaly", frame=SHIFTED)
    assert heart == pytest.approx((0.60 - 0.28, 0.08 + 0.34 / 2, 0.60 + 0.36 * 0.24 / 0.44, 0.08 + 0.80 / 2))


def test_boxes_are_cut_at_the_edge_of_the_film():
    (box,) = boxes("Lung Opacity", "left", frame=REFERENCE._replace(right=1.3, bottom=1.2))
    assert box.right == 1.0 and box.bottom == 1.0 and box.left == 0.5


WIDEST = list(itertools.product((-0.08, 0.4), (-0.08, 0.46), (0.8, 1.08), (0.79, 1.12), (0.2, 0.8)))


@pytest.mark.parametrize("frame", WIDEST)
def test_no_region_leaves_the_film_in_the_widest_frames(frame):
    """-log of the mass inside an empty region would be infinite."""
    left, top, right, bottom, share = frame
    odd = Frame(left, top, right, bottom, left + share * (right - left))
    for observation, side, zone in itertools.product(OBSERVATIONS, SIDES, ZONES):
        assert region_mask(observation, side, zone, grid_size=8, frame=odd).sum() > 0


def test_mirrored_regions_lie_on_the_other_side():
    for frame in (REFERENCE, SHIFTED):
        for zone in ZONES:
            mirrored = region_mask("Pneumonia", "left", zone, frame=frame, place="mirrored")
            np.testing.assert_allclose(mirrored, region_mask("Pneumonia", "right", zone, frame=frame), atol=1e-6)
        np.testing.assert_allclose(
            region_mask("Edema", frame=frame, place="mirrored"), region_mask("Edema", frame=frame), atol=1e-6
        )
    heart, elsewhere = region_mask("Cardiomegaly"), region_mask("Cardiomegaly", place="mirrored")
    np.testing.assert_allclose(elsewhere, heart[:, ::-1], atol=1e-6)
    assert heart[:, 8:].sum() > heart[:, :8].sum() and elsewhere[:, 8:].sum() < elsewhere[:, :8].sum()


#: Sites end on whole hundredths of the film: on this grid each cell is inside or outside, and shares are exact.
HUNDREDTHS = 100


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_a_displaced_region_is_another_place_of_about_the_same_size(observation):
    """Every side and zone; only regions for which it is impossible have no other place."""
    for side, zone in itertools.product(SIDES, ZONES):
        stated = region_mask(observation, side, zone, grid_size=HUNDREDTHS)
        wrong = region_mask(observation, side, zone, grid_size=HUNDREDTHS, place="displaced")
        found = boxes(observation, side, zone, place="displaced")
        assert found == boxes(observation, side, zone, place="displaced")
        area = float(stated.mean())
        # 1e-4: float32 shares. Wherever it is put, it meets itself in area + (1 - 0.25) area - 1 of the film.
        if (2 - MAX_AREA_CHANGE) * area - 1 >= MAX_OVERLAP * area - 1e-4:
            assert found == () and wrong.sum() == 0
            continue
        assert 1 <= len(found) <= 2
        for box in found:
            assert 0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1
        assert float((stated * wrong).mean()) < MAX_OVERLAP * area
        assert abs(float(wrong.mean()) - area) <= MAX_AREA_CHANGE * area + 1e-4


def test_what_is_alike_on_both_sides_is_displaced_too():
    """Edema of both lungs, which a mirror leaves where it is, goes to the bands above and below."""
    np.testing.assert_allclose(region_mask("Edema", place="mirrored"), region_mask("Edema"), atol=1e-6)
    assert np.allclose(boxes("Edema", place="displaced"), [(0, 0, 1, 0.22), (0, 0.82, 1, 1)])
    assert np.allclose(boxes("Pleural Effusion", place="displaced"), [(0.02, 0.98, 0.98, 1), (0.02, 0, 0.98, 0.45)])
    assert np.allclose(boxes("Lung Lesion", "right", place="displaced"), [(0.56, 0.08, 1, 0.86)])
    assert boxes("Lung Opacity", place="displaced") == () and boxes("No Finding", place="displaced") == ()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(0, 100)] * 4).filter(lambda edges: edges[0] < edges[2] and edges[1] < edges[3]),
)
def test_any_box_is_displaced_within_the_bounds_or_not_at_all(edges):
    box = Box(*(edge / 100 for edge in edges))
    stated, found = rasterise(np.array([box]), HUNDREDTHS), displaced([box])
    if not found:
        assert box.right - box.left > 0.5 and box.bottom - box.top > 0.5
        return
    wrong = rasterise(np.array(found), HUNDREDTHS)
    assert float((stated * wrong).sum()) <= 1e-3, "in hundredths of hundredths of the film"
    assert abs(float(wrong.sum()) - float(stated.sum())) <= MAX_AREA_CHANGE * float(stated.sum()) + 1e-2


def test_many_boxes_in_many_frames_are_each_as_alone():
    several = to_frame(np.array([boxes("Pneumothorax"), boxes("Fracture")]), np.array([[SHIFTED], [REFERENCE]]))
    assert several[0].tolist() == np.array(boxes("Pneumothorax", frame=SHIFTED)).tolist()
    assert several[1].tolist() == np.array(boxes("Fracture")).tolist()
