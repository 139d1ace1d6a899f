from __future__ import annotations

import itertools

import numpy as np
import pytest

from kdistill.observations import OBSERVATIONS
from kdistill.sites import SITES, boxes, region_mask

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
