"""The where term: an observation's query must look where the literature says that the observation shows itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdistill.distillation.augment import moved_masks
from kdistill.observations import OBSERVATIONS
from kdistill.records import Place, RationaleEntry, Side, Zone
from kdistill.sites import boxes, rasterise, to_frame

#: Of a region that was moved at least this share has to be on the film still, or nobody is asked to look there.
MIN_VISIBLE: Final = 0.5


class Region(NamedTuple):
    """A place: an observation's canonical site, cut by side and zone where they are stated."""

    observation: str
    side: Side | None
    zone: Zone | None


def region_of(entry: RationaleEntry) -> Region:
    """Where to look for what an entry states; to deny an observation one has to look at its whole site, both sides."""
    if entry.state == "absent":
        return Region(entry.observation, None, None)
    return Region(entry.observation, entry.side, entry.zone)


class RegionTable:
    """The distinct regions of a training set, numbered.

    Attributes:
        regions: The regions in their order.
        boxes: float64 [R, 2, 4], the boxes of each on the standard film; zeros in place of a missing second one.
    """

    def __init__(self, regions: Iterable[Region], *, place: Place = "stated") -> None:
        """Number the regions.

        Args:
            regions: In any order, repeats allowed.
            place: Where they are put; a region that has no displaced place is left out.
        """
        placed = {region: found for region in set(regions) if (found := boxes(*region, place=place))}
        self.regions = tuple(sorted(placed, key=lambda r: (OBSERVATIONS.index(r[0]), r[1] or "", r[2] or "")))
        self._rows = {region: row for row, region in enumerate(self.regions)}
        self.boxes = np.zeros((len(self.regions), 2, 4))
        for row, region in enumerate(self.regions):
            self.boxes[row, : len(placed[region])] = placed[region]

    def row(self, region: Region) -> int:
        """The number of a region; -1 where it was left out."""
        return self._rows.get(region, -1)

    def masks(self, num_patches: int) -> Tensor:
        """float32 [R, P]: share of each patch that lies inside each region of the standard film; the grid is square."""
        return _masks(self.boxes, int(num_patches**0.5))

    def alike_on_both_sides(self) -> np.ndarray:
        """Bool [R]: the region is its own mirror image, so that a mirrored control leaves it where it is."""
        masks = rasterise(self.boxes, 64)
        return np.isclose(masks, masks[..., ::-1], atol=1e-4).all(axis=(-1, -2))


class RegionMasks:
    """Masks of numbered regions on a model's patch grid, each on the film that it was stated for."""

    def __init__(self, table: RegionTable, num_patches: int, frames: np.ndarray | None = None) -> None:
        """Prepare the masks.

        Args:
            table: The regions.
            num_patches: P of the model; the patch grid is square.
            frames: float64 [F, 5], each film's frame (see `sites.Frame`); None: the standard film's for all.
        """
        self._boxes, self._grid_size, self._frames = table.boxes, int(num_patches**0.5), frames
        self._standard = table.masks(num_patches)

    def __call__(self, films: np.ndarray, regions: np.ndarray) -> Tensor:
        """float32 [E, P]: share of each patch inside region `regions[e]` on film `films[e]`."""
        if self._frames is None:
            return self._standard[torch.from_numpy(regions)]
        return _masks(self._placed(films, regions), self._grid_size)

    def moved(self, films: np.ndarray, regions: np.ndarray, forward: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same on films that were moved.

        Args:
            films: int64 [E].
            regions: int64 [E].
            forward: float64 [E, 2, 3], where the points of each film went (see `augment.affine`).

        Returns:
            float32 [E, P], and bool [E]: enough of the region is on the film (`MIN_VISIBLE`).
        """
        boxes = self._placed(films, regions)
        masks = moved_masks(boxes, forward, self._grid_size).reshape(len(regions), self._grid_size**2)
        sides = boxes[..., 2:] - boxes[..., :2]
        area = sides.prod(-1).sum(-1) * np.linalg.det(forward[:, :, :2]) * self._grid_size**2
        return torch.from_numpy(masks), torch.from_numpy(masks.sum(-1) >= MIN_VISIBLE * area)

    def _placed(self, films: np.ndarray, regions: np.ndarray) -> np.ndarray:
        boxes = self._boxes[regions]
        return boxes if self._frames is None else to_frame(boxes, self._frames[films, None])


def _masks(regions: np.ndarray, grid_size: int) -> Tensor:
    return torch.from_numpy(rasterise(regions, grid_size).reshape(len(regions), grid_size * grid_size))


def outside_loss(log_attention: Tensor, masks: Tensor) -> Tensor:
    """-log of the attention mass inside a region.

        loss_n = -log sum_p m_np a_np

    Args:
        log_attention: [n, P], logarithm of attention that sums to one over the patches.
        masks: [n, P], share of each patch inside the region, some of it above zero.

    Returns:
        [n] in nats, zero when all attention lies inside.
    """
    return -torch.logsumexp(log_attention + masks.log(), dim=-1)
