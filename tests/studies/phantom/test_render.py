"""The picture: counterfactual locality, masks, seeds, tone, markers, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.errors import InputError
from kdistill.studies.phantom.marks import lead_markers
from kdistill.studies.phantom.plan import VARIANTS, FindingPlan, StudyPlan
from kdistill.studies.phantom.render import render, render_many, render_uint8
from kdistill.studies.phantom.world import draw_finding_plan, sample_plans

from .image_cases import GEOMETRIC, SIDED, SIZE, finding, study

ALL_LOOKS = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


@pytest.mark.parametrize(("observation", "variant"), ALL_LOOKS)
def test_removing_a_finding_changes_nothing_far_from_it(observation: str, variant: str) -> None:
    plan = study(9001, finding(observation, variant, "right"), finding("Lung Opacity", "ground_glass", "left"))
    if observation == "Lung Opacity":
        plan = study(9001, finding(observation, variant, "right"))
    before, after = render(plan, SIZE).image, render(plan.without(observation), SIZE).image
    changed = before != after
    assert changed.any()
    reach = np.argwhere(changed)
    share = changed.mean()
    # the detector blur reaches one pixel; the widest local sign (interstitial edema) fills both lungs
    assert share < (0.55 if observation == "Edema" or variant in GEOMETRIC else 0.3), share
    moves_trachea = observation == "Support Devices" or variant in GEOMETRIC
    assert not changed[:8].any() or moves_trachea, reach.min(axis=0)
    if observation in SIDED and variant not in GEOMETRIC and observation != "Support Devices":
        assert not changed[:, SIZE // 2 + 6 :].any(), "a finding of the patient's right changed image right"


@pytest.mark.parametrize("variant", ["large_heart", "wide_mediastinum"])
def test_geometry_changes_only_around_the_organ(variant: str) -> None:
    name = next(key for key, variants in VARIANTS.items() if variant in variants)
    plan = study(9002, finding(name, variant))
    changed = render(plan, SIZE).image != render(plan.without(name), SIZE).image
    columns = np.flatnonzero(changed.any(axis=0))
    assert columns.min() > 0.14 * SIZE and columns.max() < 0.95 * SIZE
    rows = np.flatnonzero(changed.any(axis=1))
    assert (rows.min() > 0.25 * SIZE) if variant == "large_heart" else (rows.max() < 0.92 * SIZE)


@pytest.mark.parametrize(("observation", "variant"), ALL_LOOKS)
def test_mask_covers_the_change_on_the_right_side(observation: str, variant: str) -> None:
    for side in ("left",) if variant == "pacemaker" else ("right", "left"):
        plan = study(9003, finding(observation, variant, side))
        mask = render(plan, SIZE).masks[observation]
        assert mask.dtype == bool and 0.0008 < mask.mean() < 0.4
        clean = np.abs(render(plan, SIZE).image - render(plan.without(observation), SIZE).image)
        assert clean[mask].mean() > 4 * clean[~mask].mean()
        if observation in SIDED:
            centre = np.argwhere(mask).mean(axis=0)[1]
            middle = SIZE / 2 + (0.1 * SIZE if observation == "Support Devices" and side == "right" else 0)
            assert centre < middle if side == "right" else centre > SIZE / 2 - 0.12 * SIZE


@pytest.mark.parametrize(("observation", "variant"), [look for look in ALL_LOOKS if look[0] != "Support Devices"])
def test_severity_changes_the_picture(observation: str, variant: str) -> None:
    normal = render(study(9004), SIZE).image
    change = [
        float(np.abs(render(study(9004, finding(observation, variant, "left", severity)), SIZE).image - normal).sum())
        for severity in ("mild", "moderate", "severe")
    ]
    assert change[0] < change[1] < change[2]


@settings(max_examples=12, deadline=None)
@given(st.integers(9000, 9999), st.sampled_from(ALL_LOOKS), st.sampled_from(ALL_LOOKS))
def test_findings_do_not_reshuffle_each_other(seed: int, first: tuple[str, str], second: tuple[str, str]) -> None:
    if first[0] == second[0]:
        return
    plan = study(seed, finding(*first, "left"), finding(*second, "right"))
    swapped = study(seed, finding(*second, "right"), finding(*first, "left"))
    np.testing.assert_array_equal(render(plan, 64).image, render(swapped, 64).image)
    alone = study(seed, finding(*second, "right"))
    np.testing.assert_array_equal(render(plan.without(first[0]), 64).image, render(alone, 64).image)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**62), st.sampled_from(sorted(VARIANTS)))
def test_a_finding_plan_depends_on_its_study_and_observation_alone(seed: int, observation: str) -> None:
    assert draw_finding_plan(seed, observation) == draw_finding_plan(seed, observation)
    assert draw_finding_plan(seed, observation) != draw_finding_plan(seed + 1, observation)


def test_rendering_is_deterministic_and_independent_of_processes() -> None:
    from kdistill.studies.phantom.config import PhantomConfig

    plans = sample_plans(PhantomConfig(num_train=6, num_validate=0, num_test=0, seed=9000))["train"]
    done = []
    one = list(render_many(plans, 64, 1, lambda *at: done.append(at)))
    two = list(render_many(plans, 64, 2))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left.image, right.image)
        assert left.masks.keys() == right.masks.keys()
        assert all((left.masks[name] == right.masks[name]).all() for name in left.masks)
    assert done == [(i, 6) for i in range(1, 7)]


def test_tone_does_not_follow_the_findings() -> None:
    severe = study(9005, finding("Pneumonia", "patchy", "left", "severe"))
    before, after = render(severe, SIZE).image, render(study(9005), SIZE).image
    np.testing.assert_array_equal(before[: SIZE // 8], after[: SIZE // 8])


def test_picture_is_a_film_and_not_saturated() -> None:
    for seed in range(9010, 9020):
        image = render(study(seed), SIZE).image
        assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
        lung, heart = image[50:70, 28:40].mean(), image[80:90, 66:76].mean()
        abdomen, spine = image[112:126, 30:50], image[60:100, 60:66]
        assert lung + 0.2 < heart and image[2:8, 30:34].mean() < lung
        assert abdomen.mean() < 0.93 and spine.mean() < 0.95


def test_the_letter_stands_on_the_image_left_and_reads_as_an_r() -> None:
    stem, legs = 0.0, 0.0
    for seed in range(9000, 9020):
        plain = lead_markers(seed, 512, False)
        rows, columns = np.nonzero(plain > 0.8)
        assert columns.max() < 512 // 4 and rows.max() < 512 // 3
        letter = plain[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        quarter = letter.shape[1] // 4
        stem += letter[:, :quarter].sum()
        legs += letter[:, -quarter:].sum()
    assert stem > 1.2 * legs, "the upright stroke of an R that is not mirrored stands on its left"


def test_the_tag_hides_no_anatomy() -> None:
    for seed in range(9000, 9030):
        with_tag, without = render(study(seed, shortcut=True), SIZE).image, render(study(seed), SIZE).image
        changed = with_tag != without
        assert changed.any()
        assert not changed[SIZE // 4 :].any(), "below the shoulders"
        assert not changed[14:, SIZE // 4 : 3 * SIZE // 4].any(), "over the lungs or the neck"
    assert lead_markers(9000, SIZE, True).sum() > lead_markers(9000, SIZE, False).sum()


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(InputError, match="no drawing for the variant 'moon'"):
        render(study(9000, FindingPlan("Fracture", "moon", "mild", 1)), 32)


def test_bytes_are_rounded() -> None:
    plan = study(9000)
    image, masks = render_uint8(plan, 64)
    assert image.dtype == np.uint8 and masks == {}
    assert np.abs(image / 255 - render(plan, 64).image).max() <= 0.5 / 255 + 1e-6


@pytest.mark.slow
def test_speed_with_masks_on_one_core() -> None:
    from kdistill.studies.phantom.config import PhantomConfig

    plans: list[StudyPlan] = sample_plans(PhantomConfig(num_train=150, num_validate=0, num_test=0, seed=9002))["train"]
    start = time.process_time()
    assert len(list(render_many(plans, 128))) == 150
    assert 150 / (time.process_time() - start) >= 60
