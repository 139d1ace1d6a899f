"""How much of an image a patch sees: measured by gradients, for any encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Field(NamedTuple):
    """The rows and columns of pixels that something depends on, first and last included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size_px(self) -> int:
        """The longer edge in pixels."""
        return max(self.bottom - self.top, self.right - self.left) + 1


def receptive_field(
    look: Callable[[Tensor], Tensor], image_size_px: int, *, num_images: int = 4, dtype: torch.dtype = torch.float32
) -> Field:
    """The smallest rectangle of pixels outside of which nothing has a gradient.

    The theoretical field of Luo et al. 2017 (arXiv:1701.04128), not their effective one: gradients near its edge are
    small, and counted all the same. A unit that is off in all images hides what it sees, and products of small numbers
    vanish: six ConvNeXt blocks with their layer scale of 1e-6 do in float32 (200 px in place of 224), hence `dtype`.

    Args:
        look: Images [N, 1, S, S] -> what is asked about, of any shape: for example one patch's channels.
        image_size_px: S.
        num_images: Random images that are looked at together.
        dtype: Of the images; float64 for a deep encoder, which has to be of that type then.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, 1, image_size_px, image_size_px)
    images = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    seen = look(images)
    seen.backward(torch.randn(seen.shape, generator=generator, dtype=seen.dtype))
    assert images.grad is not None
    touched = images.grad.abs().sum((0, 1)) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    return Field(int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max()))
