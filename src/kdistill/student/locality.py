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


def receptive_field(look: Callable[[Tensor], Tensor], image_size_px: int, *, num_images: int = 4) -> Field:
    """The smallest rectangle of pixels outside of which nothing has a gradient.

    A unit of the encoder that happens to be off in all images hides what it sees, so this is a lower bound; it equals
    the field of the architecture in practice (Luo et al. 2016, arXiv:1701.04128, call it the theoretical one: gradients
    near its edge are small, and counted here all the same).

    Args:
        look: Images [N, 1, S, S] -> what is asked about, of any shape: for example one patch's channels.
        image_size_px: S.
        num_images: Random images that are looked at together.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, 1, image_size_px, image_size_px, generator=generator, requires_grad=True)
    seen = look(images)
    seen.backward(torch.randn(seen.shape, generator=generator))
    assert images.grad is not None
    touched = images.grad.abs().sum((0, 1)) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    return Field(int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max()))
