"""Remove a part of an image: masked pixels become a smooth continuation of what surrounds them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: The fill is computed on at most this many cells a side: it is smooth, so more would only cost time.
_CELLS = 32
#: Half the width of the soft border, as a share of the image's edge.
_FEATHER = 1 / 64


def inpaint(images: Tensor, masks: Tensor) -> Tensor:
    """Replace masked pixels by a low-pass fill from outside the mask, with a soft border.

        fill(x) = sum_y a(x - y) c(y) I(y) / sum_y a(x - y) c(y)      a(d) = (1 + |d|^2)^-2
        out     = f fill + (1 - f) I

    Normalised convolution (Knutsson and Westin 1993, doi 10.1109/CVPR.1993.341081) with certainty c, zero in the mask
    and within r of it (what was removed must not colour its own fill), and an applicability a whose tail reaches the
    middle of any mask. f is 1 in the mask and falls to 0 over 2 r outside, r = 1/64 of the edge. Pixels further away
    stay as they are, bit for bit. An image that is masked in whole becomes 0.

    Args:
        images: float [N, C, H, W] of any size.
        masks: [N, H, W], 1 (or True) where a pixel goes, else 0.

    Returns:
        float32 [N, C, H, W]; differentiable in `images`.
    """
    radius = max(1, round(_FEATHER * max(images.shape[-2:])))
    mask = masks.unsqueeze(1).to(torch.float32)
    spread = functional.max_pool2d(mask, 2 * radius + 1, stride=1, padding=radius)
    with torch.autocast(images.device.type, enabled=False):  # three digits are too few for a weighted mean
        fill = _fill(images.float(), 1.0 - spread)
    soft = functional.avg_pool2d(spread, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    return torch.where(soft > 0, soft * fill + (1.0 - soft) * images, images)


def _fill(images: Tensor, certainty: Tensor) -> Tensor:
    """The normalised convolution on a coarse grid, brought back to the size of the images."""
    height, width = images.shape[-2:]
    cells = (min(_CELLS, height), min(_CELLS, width))
    applicability = _applicability(*cells, like=images)
    known = functional.adaptive_avg_pool2d(images * certainty, cells).flatten(2) @ applicability
    weight = functional.adaptive_avg_pool2d(certainty, cells).flatten(2) @ applicability
    coarse = (known / weight.clamp_min(1e-12)).unflatten(2, cells)
    return functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


def _applicability(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows * columns, rows * columns], a(d) between the cells, d in cells."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(like)
    squared = (grid[:, None] - grid[None]).square().sum(-1)
    return (1.0 + squared) ** -2
