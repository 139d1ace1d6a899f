"""Inpainting: what was removed is gone, what is far away stays, whatever the size of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.counterfactual import top_mass, without
from kdistill.distillation.inpainting import inpaint
from kdistill.sites import Box, rasterise
from kdistill.studies.boxes import read_nih_boxes
from kdistill.studies.images import read_image

from . import checks


def case(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three images of noise with a box each."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 1, height, width, generator=random)
    masks = torch.zeros(3, height, width)
    for n in range(3):
        masks[n, height // 4 : height // 2, n * width // 5 : n * width // 5 + width // 4] = 1
    return images, masks


def test_removed_pixels_are_gone() -> None:
    checks.check_removed_pixels_are_gone()


@pytest.mark.parametrize(("height", "width"), [(17, 17), (32, 32), (57, 91), (128, 128), (384, 320)])
def test_pixels_under_the_mask_have_no_influence(height: int, width: int) -> None:
    """Bit for bit, at any size; pixels more than two feathers away stay as they are, bit for bit."""
    images, masks = case(height, width)
    other = torch.where(masks.unsqueeze(1) > 0, images + 100.0, images)
    changed = inpaint(images, masks)
    assert torch.equal(changed, inpaint(other, masks))
    assert changed.shape == images.shape and bool(changed.isfinite().all())
    reach = 4 * max(1, round(max(height, width) / 64)) + 1
    near = torch.nn.functional.max_pool2d(masks.unsqueeze(1), reach, stride=1, padding=reach // 2) > 0
    assert torch.equal(changed[~near], images[~near]) and bool((~near).any())


def test_an_empty_mask_changes_nothing_and_a_full_one_makes_no_nan() -> None:
    images, masks = case(32, 32)
    assert torch.equal(inpaint(images, torch.zeros_like(masks)), images)
    assert torch.equal(inpaint(images, torch.ones_like(masks)), torch.zeros_like(images))


def test_fill_goes_on_from_its_surroundings() -> None:
    """On a ramp the fill is a ramp again: a flat fill would be wrong by 0.12 at the mask's edges."""
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 24:40] = 1
    np.testing.assert_allclose(inpaint(ramp, mask).numpy(), ramp.numpy(), atol=0.09)


def test_fill_is_smooth() -> None:
    """Under the mask noise of unit size gives way to differences between neighbours far below it."""
    images, masks = case(128, 128)
    changed = inpaint(images, masks)[0, 0]
    inside = changed[36:60, 4:28]
    assert float(inside.diff(dim=0).abs().max()) < 0.2 < float(images[0, 0].diff(dim=0).abs().mean())


@given(st.permutations(range(3)), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_each_image_by_itself(order: list[int], seed: int) -> None:
    images, masks = case(24, 24, seed)
    together = inpaint(images, masks)[order]
    alone = torch.cat([inpaint(images[n : n + 1], masks[n : n + 1]) for n in order])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)  # 5e-7 seen: matrix products of other shapes


def test_a_boxed_finding_goes_from_a_real_film_and_the_rest_of_the_film_stays(shared_data: Path) -> None:
    """What the counterfactual term does where nobody can draw the film without its finding: radiologists' boxes."""
    folder = shared_data / "nih_cxr14_subset"

    def area(box: Box) -> float:
        return (box.right - box.left) * (box.bottom - box.top)

    boxed = [item for item in read_nih_boxes(folder / "bbox.csv") if 0.01 < area(item.box) < 0.12][:8]
    films = np.stack([read_image(folder / "images" / f"{item.stem}.jpg", 128) for item in boxed])
    before = torch.from_numpy(films).unsqueeze(1).float() / 255
    inside = torch.from_numpy(np.stack([rasterise(np.array([item.box]), 16) for item in boxed])).flatten(1).float()
    patches = top_mass(inside / inside.sum(1, keepdim=True), mass=0.95, max_area=0.2)
    after = without(before, patches)
    gone = patches.unflatten(1, (16, 16)).repeat_interleave(8, 1).repeat_interleave(8, 2).unsqueeze(1)
    reach = 4 * 2 + 1  # two feathers of 128 / 64 pixels on either side
    near = torch.nn.functional.max_pool2d(gone.float(), reach, stride=1, padding=reach // 2) > 0
    assert torch.equal(after[~near], before[~near]) and float((~near).float().mean()) > 0.7
    detail = [film.diff(n=2, dim=-1).abs()[gone[..., 2:] & gone[..., :-2]].mean() for film in (before, after)]
    assert float(detail[1]) < 0.3 * float(detail[0])  # vessels, ribs and opacities give way to a smooth fill
    assert float(after.min()) >= -0.05 and float(after.max()) <= 1.05
