"""Encoders with two grids: fine and local for evidence, coarse for context.

Their output is one tensor on the fine grid, local channels first, then those of the coarse patch that each fine patch
lies in: whatever takes patch features (queries, saliency, probes) takes these. `queries.ContextGate` keeps them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from kdistill.errors import WeightsError
from kdistill.student.config import CnnVisionConfig, CoarseAndFinePatches
from kdistill.student.vision import (
    ChannelNorm,
    ResidualBlock,
    SmallCnn,
    TransformersVision,
    last_grid,
    make_norm,
)

#: Layers of `SmallCnn` at stride 4; the next one brings the grid to stride 8.
_MIDDLE: Final = 6


class CoarseAndFineCnn(SmallCnn):
    """The embedded encoder with a second way out: [B, 1, S, S] -> [B, F + C, S/4, S/4].

    The first F channels are local: residual blocks on the stride 4 grid, 15 + 8 x fine_blocks pixels. Behind them stand
    the C channels of the stride 8 grid, each fine patch with those of the coarse one in which it lies. Two stages of
    one encoder as in feature pyramids (Lin et al. 2017, arXiv:1612.03144), without their top-down sum: in it a fine
    feature would hold what the coarse receptive field shows.
    """

    def __init__(self, config: CnnVisionConfig, patches: CoarseAndFinePatches) -> None:
        super().__init__(config)
        self.context_channels = config.channels
        self.out_channels = patches.fine_channels + config.channels
        #: Pixels that a fine patch sees to each side of its own first one's centre (7 after the two convolutions).
        self.reach_px = 7 + 4 * patches.fine_blocks
        self.fine = nn.Sequential(
            nn.Conv2d(config.middle_channels, patches.fine_channels, 1),
            *(ResidualBlock(patches.fine_channels, config.norm) for _ in range(patches.fine_blocks)),
            make_norm(config.norm, patches.fine_channels),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 1, S, S] -> [B, F + C, H, W]."""
        middle = self.layers[:_MIDDLE](pixel_values)
        return beside(self.fine(middle), self.layers[_MIDDLE:](middle))


def beside(local: Tensor, coarse: Tensor) -> Tensor:
    """[B, F, k H, k W] and [B, C, H, W] -> [B, F + C, k H, k W]: each fine patch with the coarse one it lies in."""
    times = local.shape[-1] // coarse.shape[-1]
    return torch.cat([local, functional.interpolate(coarse, scale_factor=times, mode="nearest")], dim=1)


class StagedVision(TransformersVision):
    """A staged encoder (ConvNeXt, ResNet, Swin) on two of its grids, as `CoarseAndFineCnn`: local, then context.

    How much of the image a fine patch sees is up to the architecture: `locality.receptive_field` measures it. Both
    grids are normalised patch by patch, since what comes out between two stages has any scale.

    Args:
        model: The encoder.
        fine_stage: Which of its grids is the fine one, counted from the last (-1).
        image_size_px: Edge of the images that it will see.
        trainable: False freezes it.
        normalisation: See `TransformersVision`.

    Raises:
        WeightsError: It has no such grid, or its patches do not lie in the coarse ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        fine_stage: int,
        image_size_px: int,
        *,
        trainable: bool = True,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__(model, trainable=trainable, normalisation=normalisation)
        found = self._shapes(image_size_px)
        sides = [side for _, side in found]
        if len(found) < -fine_stage or sides[fine_stage] % sides[-1]:
            raise WeightsError(
                f"{model.config.model_type} has grids of {sides} patches a side for {image_size_px} px: "
                f"number {fine_stage} from the end is not there, or its patches do not lie in the last one's",
                where="student.patches.fine_stage",
                remedy="Take a staged encoder (ConvNeXt, ResNet, Swin), an image_size_px that every stage halves "
                "without rest, or patches: {kind: single}.",
            )
        self.fine_stage = fine_stage
        local, self.context_channels = found[fine_stage][0], found[-1][0]
        self.out_channels = local + self.context_channels
        self.local_norm, self.context_norm = ChannelNorm(local), ChannelNorm(self.context_channels)

    @torch.no_grad()
    def _shapes(self, image_size_px: int) -> list[tuple[int, int]]:
        """Channels and side of each grid, asked of the encoder itself."""
        was_training = self.training
        self.eval()
        grids = self._grids(torch.zeros(1, 1, image_size_px, image_size_px))
        self.train(was_training)
        return [(int(grid.shape[1]), int(grid.shape[-1])) for grid in grids]

    def _grids(self, pixel_values: Tensor) -> list[Tensor]:
        size = int(pixel_values.shape[-1])
        output = self.look(pixel_values, output_hidden_states=True)
        return stage_grids(output, last_grid(output, self.model.config, size))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 1, S, S] -> [B, F + C, H, W]."""
        grids = self._grids(pixel_values)
        return beside(self.local_norm(grids[self.fine_stage]), self.context_norm(grids[-1]))


def stage_grids(output: ModelOutput, last: Tensor) -> list[Tensor]:
    """The grids that an encoder passes through, finest first: of each resolution the last one, then `last`.

    Args:
        output: With its hidden states; Swin and its kin give them as grids in `reshaped_hidden_states`.
        last: The last hidden state as a grid.
    """
    states = output.get("reshaped_hidden_states") or output.get("hidden_states") or ()
    square = [state for state in states if state.ndim == 4 and state.shape[-1] == state.shape[-2]]
    by_side = {int(state.shape[-1]): state for state in square if state.shape[-1] > last.shape[-1]}
    return [by_side[side] for side in sorted(by_side, reverse=True)] + [last]
