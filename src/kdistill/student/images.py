"""uint8 pixels -> the student's input, in one place for training, prediction, audit and serving."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kdistill.student.configuration import KDistillConfig


def pixel_values(images: np.ndarray, config: KDistillConfig) -> Tensor:
    """Normalise canonical images (MONOCHROME2, patient's right on the image's left).

        x = (image / 255 - pixel_mean) / pixel_std

    Args:
        images: uint8 [B, S, S], 0..255. Another size than the student's is resampled (antialiased, bilinear).
        config: Holds image_size_px, pixel_mean and pixel_std.

    Returns:
        float32 [B, 1, S', S'] in channels_last memory.

    Raises:
        ValueError: Not a uint8 array of that shape.
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise ValueError(f"expected uint8 [B, S, S], got {images.dtype} {list(images.shape)}")
    values = torch.from_numpy(np.array(images, copy=True)).unsqueeze(1).float().div_(255.0)
    size = config.image_size_px
    if values.shape[-2:] != (size, size):
        values = torch.nn.functional.interpolate(
            values, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    values = values.sub_(config.pixel_mean).div_(config.pixel_std)
    return values.contiguous(memory_format=torch.channels_last)


def mean_grey(config: KDistillConfig) -> int:
    """The grey value, 0..255, that the student's normalisation brings nearest to zero."""
    return round(config.pixel_mean * 255)


def blank(images: np.ndarray, config: KDistillConfig) -> np.ndarray:
    """Images that hold the mean grey alone: uint8 of the same shape (the blank-image control)."""
    return np.full_like(images, mean_grey(config))
