"""Inpainting: what was removed is gone, what is far away stays, whatever the size of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.inpainting import inpaint

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
