"""Does a map point at the finding? Scores of maps on the patch grid against masks in pixels.

Axes: N cases (a study and an observation that it shows), G x G patches, S x S pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Region(NamedTuple):
    """Masks on the patch grid.

    Attributes:
        touched: bool [N, G, G], the patch holds some of the mask.
        covered: float64 [N, G, G], the share of the patch that is mask.
    """

    touched: NDArray[np.bool_]
    covered: NDArray[np.float64]


def regions(masks: NDArray[np.uint8], grid: int) -> Region:
    """Bring masks [N, S, S] (0 or 1) to the patch grid; S must be a multiple of the grid.

    Raises:
        ValueError: The grid does not divide the image.
    """
    num, size, _ = masks.shape
    if size % grid:
        raise ValueError(f"a grid of {grid} does not divide {size} pixels")
    cell = size // grid
    covered = masks.reshape(num, grid, cell, grid, cell).mean(axis=(2, 4), dtype=np.float64)
    return Region(covered > 0, covered)


def summed(maps: NDArray, grid: int) -> NDArray[np.float64]:
    """Maps [N, G, G] on a coarser grid: the mass of the patches that lie in each of its own.

    Raises:
        ValueError: The coarser grid does not divide theirs.
    """
    num, size, _ = maps.shape
    if size % grid:
        raise ValueError(f"a grid of {grid} does not divide one of {size} patches a side")
    cell = size // grid
    return np.asarray(maps.reshape(num, grid, cell, grid, cell).sum(axis=(2, 4)), dtype=np.float64)


def size_terciles(masks: NDArray[np.uint8]) -> tuple[NDArray[np.intp], tuple[float, float]]:
    """Which third of the masks [N, S, S] each belongs to by its area: 0 small, 1 medium, 2 large.

    Equal areas always share a third: the upper bounds are areas that occur, and a mask of that area is below them.

    Returns:
        The third of each mask [N], and the two upper bounds as shares of the image.
    """
    areas = masks.mean(axis=(1, 2), dtype=np.float64)
    bounds = np.quantile(areas, [1 / 3, 2 / 3], method="inverted_cdf")
    return np.searchsorted(bounds, areas, side="left"), (float(bounds[0]), float(bounds[1]))


def pointing_hits(maps: NDArray, region: Region) -> NDArray[np.float64]:
    """The pointing game: 1 where the map's strongest patch holds some of the mask (Zhang et al. 2018,
    arXiv:1608.00507; their tolerance of 15 pixels is here the patch itself). Equal maxima share the hit evenly."""
    flat = maps.reshape(len(maps), -1)
    best = flat == flat.max(axis=1, keepdims=True)
    return (best & region.touched.reshape(len(maps), -1)).sum(axis=1) / best.sum(axis=1)


def pointing_chance(region: Region) -> NDArray[np.float64]:
    """The hit rate of a patch drawn at random: the share of patches that hold some of the mask."""
    return region.touched.mean(axis=(1, 2))


def mask_mass(maps: NDArray, region: Region) -> NDArray[np.float64]:
    """Share of the map's mass inside the mask (a patch counts by the share of it that is mask)."""
    return (maps * region.covered).sum(axis=(1, 2))


def mass_chance(region: Region) -> NDArray[np.float64]:
    """The mass of an even map: the share of the image that is mask."""
    return region.covered.mean(axis=(1, 2))


def rank_correlation(first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """Spearman correlation of pairs of maps [N, G, G] (ties share ranks); 0 where one map is even."""
    left, right = (_centred_ranks(maps.reshape(len(maps), -1)) for maps in (first, second))
    norm = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.where(norm > 0, (left * right).sum(axis=1) / np.where(norm > 0, norm, 1.0), 0.0)


def _centred_ranks(rows: NDArray) -> NDArray[np.float64]:
    ranks = np.empty(rows.shape, dtype=np.float64)
    for index, row in enumerate(rows):
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        ranks[index] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks - ranks.mean(axis=1, keepdims=True)
