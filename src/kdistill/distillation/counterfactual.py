"""The counterfactual term: with its evidence removed from the image, an observation must fall and the others stay."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdistill.distillation.config import CounterfactualConfig
from kdistill.distillation.inpainting import inpaint
from kdistill.observations import INDEX, NO_FINDING
from kdistill.student.queries import ObservationOutput


def evidence(before: ObservationOutput, observation: Tensor, settings: CounterfactualConfig) -> Tensor:
    """bool [n, P]: the patches that hold the top mass of each image's own observation; no gradient goes there.

    Args:
        before: n images as they are.
        observation: int64 [n], which observation of each image is to go.
        settings: `mass`, and `max_area` for maps that are still flat.
    """
    rows = torch.arange(len(observation), device=observation.device)
    return top_mass(before.attention[rows, observation].detach(), settings.mass, settings.max_area)


def top_mass(attention: Tensor, mass: float, max_area: float) -> Tensor:
    """The fewest patches whose attention adds up to `mass`, at most `max_area` of all (and at least one).

    Args:
        attention: [n, P], rows sum to one.
        mass: In (0, 1].
        max_area: Largest share of the P patches.

    Returns:
        bool [n, P].
    """
    values, order = attention.sort(dim=-1, descending=True, stable=True)
    reached_before = values.cumsum(-1) - values
    kept = reached_before < mass
    kept[:, max(1, int(max_area * attention.shape[-1])) :] = False
    return torch.zeros_like(kept).scatter(-1, order, kept)


def without(pixel_values: Tensor, patches: Tensor) -> Tensor:
    """The images with these patches inpainted from their surroundings.

    Args:
        pixel_values: [n, 1, S, S].
        patches: bool [n, P] on a square grid.
    """
    side = int(patches.shape[-1] ** 0.5)
    grid = patches.unflatten(-1, (side, side)).unsqueeze(1).float()
    masks = functional.interpolate(grid, size=pixel_values.shape[-2:], mode="nearest").squeeze(1)
    return inpaint(pixel_values, masks)


def counterfactual_loss(
    before: ObservationOutput, after: ObservationOutput, observation: Tensor, settings: CounterfactualConfig
) -> Tensor:
    """What is left of the removed observation, and how far the others drifted.

        loss = -log(1 - sigmoid(z'_o)) + stay * mean_k (z'_k - z_k)^2

    z before (no gradient), z' after. The first part is the attention mining of Li et al. 2018 (arXiv:1802.10171) as a
    log-likelihood: it vanishes once the observation is not seen any more, and presses evidence that lies elsewhere
    into the map. k runs over observations with at most `overlap` of their attention in the removed patches, "No
    Finding" left out, since removing a finding may well make a study normal.

    Args:
        before: n images as they were.
        after: The same images without the evidence.
        observation: int64 [n].
        settings: `overlap`, `stay`, and what `evidence` needs.

    Returns:
        [n] in nats (the drift in squared log-odds).
    """
    rows = torch.arange(len(observation), device=observation.device)
    removed = evidence(before, observation, settings).unsqueeze(1)
    others = torch.where(removed, before.attention, 0.0).sum(-1) <= settings.overlap
    others[rows, observation] = False
    others[:, INDEX[NO_FINDING]] = False
    drift = torch.where(others, after.logits - before.logits.detach(), 0.0).square().sum(-1)
    left = functional.softplus(after.logits[rows, observation])
    return left + settings.stay * drift / others.sum(-1).clamp_min(1)
