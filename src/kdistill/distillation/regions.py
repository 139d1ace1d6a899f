"""The where term: an observation's query must look where the literature says that the observation shows itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdistill.observations import OBSERVATIONS
from kdistill.records import RationaleEntry, Side, Zone
from kdistill.sites import region_mask


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
    """The distinct regions of a training set, numbered; their masks on a model's patch grid come from `masks`."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self.regions = tuple(sorted(set(regions), key=lambda r: (OBSERVATIONS.index(r[0]), r[1] or "", r[2] or "")))
        self._rows = {region: row for row, region in enumerate(self.regions)}

    def row(self, region: Region) -> int:
        """The number of a region."""
        return self._rows[region]

    def masks(self, num_patches: int) -> Tensor:
        """float32 [R, P]: share of each patch that lies inside each region; the patch grid is square."""
        grid = int(num_patches**0.5)
        rows = [region_mask(r.observation, r.side, r.zone, grid_size=grid).ravel() for r in self.regions]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, num_patches)


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
