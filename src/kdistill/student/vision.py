"""Vision encoders: image -> patch features on a grid."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from kdistill.errors import WeightsError
from kdistill.student.config import CnnVisionConfig


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [B, C, H, W]: no statistics of the batch, so its cut changes nothing.

    It also takes away how dense a patch is, which on a radiograph is much of what there is to see: after 12,000 images
    the micro-AUC on validation labels was .91 with batch statistics, after 18,000 it was .90 with these (LOG.md). Not
    GroupNorm: with channels_last and bfloat16 on a CPU it took the encoder from 213 to 191 (or 200 to 151) images/s.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias)
        return y.permute(0, 3, 1, 2)


NormKind = Literal["batch", "channel"]


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The normalisation layer of a kind (see CnnVisionConfig.norm)."""
    return nn.BatchNorm2d(channels) if kind == "batch" else ChannelNorm(channels)


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(x))): one 3x3 convolution, so that the receptive field grows by one patch each way."""

    def __init__(self, channels: int, norm: NormKind) -> None:
        super().__init__()
        self.norm = make_norm(norm, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x + self.conv(functional.relu(self.norm(x)))


class SmallCnn(nn.Module):
    """The embedded encoder: [B, 1, S, S] -> [B, C, S/8, S/8], local receptive fields (see CnnVisionConfig).

    Attributes:
        out_channels: C.
        context_channels: How many of them, at the end, are not of the patch itself but of a coarser grid.
    """

    context_channels: int = 0

    def __init__(self, config: CnnVisionConfig) -> None:
        super().__init__()
        self.norm: NormKind = config.norm
        self.out_channels = config.channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, config.stem_channels, 7, stride=4, padding=3),
            make_norm(config.norm, config.stem_channels),
            nn.ReLU(),
            nn.Conv2d(config.stem_channels, config.middle_channels, 3, padding=1),
            make_norm(config.norm, config.middle_channels),
            nn.ReLU(),
            nn.Conv2d(config.middle_channels, config.channels, 3, stride=2, padding=1),
            *(ResidualBlock(config.channels, config.norm) for _ in range(config.num_blocks)),
            make_norm(config.norm, config.channels),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 1, S, S] -> [B, C, H, W]."""
        return self.layers(pixel_values)


class PatchPrefix(nn.Module):
    """What an end-to-end decoder reads: patch tokens brought down to a coarse grid by strided convolutions.

    Convolutions and not an average: each token sees a large part of the image, as in the encoders that report
    generators are trained end to end with. They normalise as the encoder does: with LayerNorm here the decoder of
    `report_only` hardly looked at the image (LOG.md, 2026-11-24).
    """

    def __init__(
        self,
        width: int,
        language_width: int,
        side: int,
        grid: int,
        norm: NormKind = "channel",
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = width + context_channels
        while side > grid:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), make_norm(norm, width), nn.ReLU()]
            side, channels = (side + 1) // 2, width
        self.reduce = nn.Sequential(*layers)
        self.project = nn.Linear(channels, language_width)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, H*H, D + C] -> [B, G*G, language width], G the first of H, H/2, H/4, ... that is at most `grid`."""
        side = int(patches.shape[1] ** 0.5)
        square = patches.transpose(1, 2).unflatten(2, (side, side))
        return self.project(self.reduce(square).flatten(2).transpose(1, 2))


@torch.no_grad()
def grid_side(vision: nn.Module, image_size_px: int) -> int:
    """Patches along one side of a square image (asked of the encoder itself: every architecture rounds its own way)."""
    was_training = vision.training
    vision.eval()
    side = int(vision(torch.zeros(1, 1, image_size_px, image_size_px)).shape[-1])
    vision.train(was_training)
    return side


class TransformersVision(nn.Module):
    """Any transformers vision model: grey is repeated to its channels, class and register tokens are dropped.

    Position encodings are interpolated where the image is not of the checkpoint's size, by the model itself. With
    `normalisation`, each channel is what the checkpoint was trained on:

        x_c = (grey - mean_c) / std_c,   grey = pixel_std x + pixel_mean in 0..1

    Args:
        model: The encoder.
        trainable: False freezes it.
        normalisation: Of each channel, scale and shift of the student's own input x; None leaves it as it is.
    """

    context_channels: int = 0

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        trainable: bool = True,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.norm: NormKind = "channel"  # for what stands after it; inside, the model normalises as it always does
        self.model = model
        self.out_channels = feature_channels(model.config)
        self.num_channels = int(model.config.num_channels)
        self.normalisation = normalisation
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.image_size_px = first(model.config.to_dict().get("image_size"))
        if not trainable:
            model.requires_grad_(False)

    def train(self, mode: bool = True) -> TransformersVision:
        """Set the mode; what is frozen keeps still in both: no dropout there, no statistics of the batch."""
        super().train(mode)
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 1, S, S] -> [B, C, H, W]."""
        return last_grid(self.look(pixel_values), self.model.config, int(pixel_values.shape[-1]))

    def look(self, pixel_values: Tensor, **options: Any) -> ModelOutput:
        """The model's own output for images [B, 1, S, S]."""
        values = pixel_values.expand(-1, self.num_channels, -1, -1)
        if self.normalisation is not None:
            scale, shift = (values.new_tensor(part).view(1, -1, 1, 1) for part in self.normalisation)
            values = values * scale + shift
        if self.interpolates and int(values.shape[-1]) != self.image_size_px:
            options["interpolate_pos_encoding"] = True
        return self.model(pixel_values=values, **options)


def last_grid(output: ModelOutput, config: PretrainedConfig, image_size_px: int) -> Tensor:
    """A model's last hidden state as a grid [B, C, H, W]."""
    features: Tensor = output["last_hidden_state"]
    return features if features.ndim == 4 else tokens_to_grid(features, patch_side(config, image_size_px))


def tokens_to_grid(tokens: Tensor, side: int | None = None) -> Tensor:
    """[B, extra + H*H, C] -> [B, C, H, H]; class and register tokens stand first and are dropped.

    Args:
        tokens: A model's last hidden state.
        side: H. Where it is not known the grid is the largest square that fits: right for n < 2 * H + 1 extra tokens.

    Raises:
        WeightsError: There are fewer tokens than patches: the model merged or dropped some.
    """
    side = int(tokens.shape[1] ** 0.5) if side is None else side
    if tokens.shape[1] < side * side:
        raise WeightsError(
            f"the encoder gives {tokens.shape[1]} tokens for {side} x {side} patches: they are no grid",
            where="student.vision",
            remedy="Take an encoder that keeps every patch (not, for example, a masked autoencoder).",
        )
    patches = tokens[:, tokens.shape[1] - side * side :]
    return patches.transpose(1, 2).unflatten(2, (side, side))


def patch_side(config: PretrainedConfig, image_size_px: int) -> int | None:
    """Patches along a side, where the configuration says it: a plain vision transformer cuts the image once.

    So the number of extra tokens is known, and needs no guess. None for staged encoders (Swin, ConvNeXt), which
    have at most one extra token: there the largest square is right.
    """
    settings = config.to_dict()
    patch_size = first(settings.get("patch_size"))
    return None if patch_size is None or settings.get("depths") else image_size_px // patch_size


def first(size: int | Sequence[int] | None) -> int | None:
    """An edge that a configuration gives as one number, as a pair, or not at all."""
    return size if size is None or isinstance(size, int) else int(size[0])


def feature_channels(config: PretrainedConfig) -> int:
    """Width of a vision model's last hidden state: hidden_size, or the last of hidden_sizes for convolutional ones."""
    settings = config.to_dict()
    if settings.get("hidden_sizes"):
        return int(settings["hidden_sizes"][-1])
    return int(settings["hidden_size"])


def position_encoding(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Fixed two-dimensional sine-cosine encoding, one half of the channels for the row, one for the column.

    Coordinates are fractions of the image, so the same place has the same code on every grid. Wavelengths run from the
    whole image to a sixteenth of it (the transformer's frequencies, Vaswani et al. 2017, arXiv:1706.03762, for lengths
    up to one).

    Returns:
        [height * width, channels], type and device of `like`; `channels` must be divisible by 4.
    """
    frequencies = 2 * torch.pi * torch.logspace(-1, 4, channels // 4, base=2.0, device=like.device)
    rows = (torch.arange(height, device=like.device) + 0.5) / height
    columns = (torch.arange(width, device=like.device) + 0.5) / width
    by_row = torch.outer(rows, frequencies)[:, None].expand(-1, width, -1)
    by_column = torch.outer(columns, frequencies)[None].expand(height, -1, -1)
    code = torch.cat([by_row.sin(), by_row.cos(), by_column.sin(), by_column.cos()], dim=-1)
    return code.flatten(0, 1).to(like.dtype)
