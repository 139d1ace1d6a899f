"""Attribution maps to compare evidence maps with: Grad-CAM, HiResCAM, integrated gradients, random, centre Gaussian.

Each is a non-negative map on the patch grid that sums to 1, so that all are scored alike. Axes: N images, C channels,
G x G patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Images in one gradient step.
BATCH: Final = 32

Score = Callable[[Tensor], Tensor]
#: (last feature maps [N, C, G, G], score of features) -> maps [N, G, G].
ActivationMap = Callable[[Tensor, Score], Tensor]


def grad_cam(features: Tensor, score: Score) -> Tensor:
    """Grad-CAM: relu(sum_c alpha_c A_c), alpha_c = mean over space of d score / d A_c.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.

    Args:
        features: A, the last convolutional feature maps [N, C, G, G].
        score: Features -> one score per image [N]. Images must not influence one another.

    Returns:
        [N, G, G], not normalised.
    """
    features, gradient = _with_gradient(features, score)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weights * features).sum(dim=1))


def hires_cam(features: Tensor, score: Score) -> Tensor:
    """HiResCAM: relu(sum_c (d score / d A_c) * A_c), each gradient kept at its place.

    Draelos and Carin 2020, arXiv:2011.08891, section 3.2. Grad-CAM's mean over space loses what a head that attends to
    places knows, so for such a head this is the stronger baseline. Arguments and result as for `grad_cam`.
    """
    features, gradient = _with_gradient(features, score)
    return torch.relu((gradient * features).sum(dim=1))


def _with_gradient(features: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    features = features.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(score(features).sum(), features)
    return features.detach(), gradient


def integrated_gradients(images: Tensor, baseline: Tensor, score: Score, steps: int) -> Tensor:
    """Integrated gradients: (x - x') * mean over the path of d score / d x, by the midpoint rule.

    Sundararajan et al. 2017, arXiv:1703.01365, equation 1.

    Args:
        images: x, [N, 1, S, S].
        baseline: x', broadcast to `images`.
        score: Images -> one score per image [N].
        steps: Points on the path.

    Returns:
        Attributions [N, 1, S, S]; they sum to score(x) - score(x') as `steps` grows (exactly for a linear score).
    """
    total = torch.zeros_like(images)
    for step in range(steps):
        point = (baseline + (step + 0.5) / steps * (images - baseline)).detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(point).sum(), point)
        total += gradient
    return (images - baseline) * total / steps


def to_grid(attribution: Tensor, grid: int) -> NDArray[np.float64]:
    """Sum absolute attributions [N, 1, S, S] within each patch: [N, G, G], each summing to 1."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(attribution.abs(), grid)[:, 0]
    return normalise(pooled.double().numpy())


def normalise(maps: NDArray) -> NDArray[np.float64]:
    """Scale each map [N, G, G] to sum 1; a map that is zero everywhere becomes even (it points nowhere)."""
    maps = np.maximum(np.asarray(maps, dtype=np.float64), 0.0)
    totals = maps.sum(axis=(1, 2), keepdims=True)
    even = np.full_like(maps, 1.0 / (maps.shape[1] * maps.shape[2]))
    return np.where(totals > 0, maps / np.where(totals > 0, totals, 1.0), even)


def random_maps(num: int, grid: int, seed: int) -> NDArray[np.float64]:
    """Independent uniform values in each patch."""
    return normalise(np.random.default_rng(seed).random((num, grid, grid)))


def centre_gaussian(num: int, grid: int) -> NDArray[np.float64]:
    """The prior that something is in the middle: a Gaussian with a standard deviation of a quarter of the image."""
    axis = (np.arange(grid) + 0.5) / grid - 0.5
    one = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 0.25**2))
    return normalise(np.repeat(one[None], num, axis=0))
