"""Training images turned, zoomed, shifted and re-exposed, anew at each visit; the where term's regions move along.

Off by default. What a visit does to its image is a function of seed, visit and study alone (see `streams`): neither the
cut of a batch, nor the number of workers, nor an interruption changes it.

There is no flip. A mirrored film is not the same chest seen otherwise: its heart, aortic knob and liver lie on the
wrong side, as in situs inversus. Side words would have to be swapped in free text, and the teacher's cached token
distributions belong to the words as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from PIL import Image

from kdistill.distillation.config import GeometricPhotometric
from kdistill.distillation.streams import Draw, generator

_IDENTITY: Final = np.eye(2, 3)
#: 256 equally likely values of a standard normal: one random byte a pixel is noise (sd 0.99), at a quarter of the time.
_QUANTILES: Final = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)])


@dataclass(frozen=True)
class Augmenter:
    """Changes the images of a batch.

    Attributes:
        settings: The bounds.
        seed: Seed of the run.
    """

    settings: GeometricPhotometric
    seed: int

    def __call__(
        self, images: np.ndarray, studies: Sequence[int], visits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change each image as its visit draws.

        Args:
            images: uint8 [B, S, S].
            studies: Number of each image's study.
            visits: Number of each visit in the run.

        Returns:
            The changed images, uint8 [B, S, S], and where their points went, float64 [B, 2, 3] (see `affine`).
        """
        changed, affines = np.empty_like(images), np.empty((len(images), 2, 3))
        for row, (study, visit) in enumerate(zip(studies, visits, strict=True)):
            random = generator(Draw.AUGMENTATION, self.seed, visit, study)
            # All drawn at once: a bound of zero switches its part off and leaves the others as they are.
            drawn = random.uniform(-1.0, 1.0, 8)
            affines[row] = affine(self.settings, drawn[:4])
            film = tone_curve(self.settings, drawn[4:7])[move(images[row], affines[row])]
            changed[row] = add_noise(film, self.settings.max_noise * (drawn[7] + 1) / 2, random)
        return changed, affines


def affine(settings: GeometricPhotometric, drawn: np.ndarray) -> np.ndarray:
    """Where each point of an image goes: turned and zoomed about the middle, then shifted.

        p' = c + z R (p - c) + t,  c = (1/2, 1/2)

    Args:
        settings: The bounds.
        drawn: [4] in [-1, 1]: rotation (positive is clockwise), zoom, shift to the image's right, shift down.

    Returns:
        float64 [2, 3], for points (x, y, 1) in fractions of the image.
    """
    angle = math.radians(settings.max_rotation_degrees * drawn[0])
    zoom = (1 + settings.max_scale) ** drawn[1]
    turned = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.full(2, 0.5)
    return np.column_stack([turned, middle - turned @ middle + settings.max_shift * drawn[2:]])


def move(image: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Move an image, bilinear; what comes in from outside is black, like the padding of `studies.images`.

    Pillow in float32 is the fastest of those tried (docs/data.md); in 8 bit it cuts fractions off instead of rounding.

    Args:
        image: uint8 [S, S].
        forward: [2, 3] as `affine` returns.
    """
    if np.array_equal(forward, _IDENTITY):
        return image
    size = len(image)
    back = np.linalg.inv(forward[:, :2])
    offset = -size * back @ forward[:, 2]
    rows = (*back[0], offset[0], *back[1], offset[1])
    film = Image.fromarray(image.astype(np.float32))
    moved = film.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return (np.asarray(moved) + np.float32(0.5)).astype(np.uint8)


def tone_curve(settings: GeometricPhotometric, drawn: np.ndarray) -> np.ndarray:
    """What becomes of each grey value: contrast about middle grey, brightness, then gamma.

        v' = clip((v - 1/2) k + 1/2 + b, 0, 1)^g

    Args:
        settings: The bounds.
        drawn: [3] in [-1, 1]: brightness, contrast, gamma.

    Returns:
        uint8 [256], never falling.
    """
    brightness = settings.max_brightness * drawn[0]
    contrast, gamma = (1 + settings.max_contrast) ** drawn[1], (1 + settings.max_gamma) ** drawn[2]
    grey = (np.arange(256) / 255 - 0.5) * contrast + 0.5 + brightness
    return np.rint(255 * np.clip(grey, 0, 1) ** gamma).astype(np.uint8)


def add_noise(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise, each pixel its own, rounded to whole grey values and cut at black and white.

    Args:
        image: uint8 [S, S].
        deviation: Standard deviation, a share of the range from black to white.
        random: Where the noise comes from; zero deviation draws none.
    """
    if deviation == 0:
        return image
    steps = np.rint(255 * deviation * _QUANTILES).astype(np.int16)
    noisy = steps[np.frombuffer(random.bytes(image.size), dtype=np.uint8)].reshape(image.shape)
    noisy += image
    return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


def moved_masks(regions: np.ndarray, forward: np.ndarray, grid_size: int) -> np.ndarray:
    """Rasterise regions of images that were moved, as `sites.rasterise` does for images as they are.

    A cell is carried back to the image as it was and kept upright there: exact without rotation; at 30 degrees a cell
    on a region's edge is off by at most 0.05 and a region's area by 1% (against 576 points a cell, all sites).

    Args:
        regions: [E, K, 4], K boxes a region as in `sites.Box`; one of zeros covers nothing.
        forward: [E, 2, 3], where the points of each region's image went.
        grid_size: Cells along a side.

    Returns:
        float32 [E, grid_size, grid_size]: the largest share of each cell that one of its region's boxes covers.
    """
    back = np.linalg.inv(forward[:, :, :2])
    zoom = np.sqrt(np.linalg.det(forward[:, :, :2]))
    centres = (np.arange(grid_size) + 0.5) / grid_size
    cells = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(1, -1, 2) - forward[:, None, :, 2]
    points = (cells @ back.transpose(0, 2, 1))[:, None]
    half = (0.5 / (grid_size * zoom))[:, None, None]
    inside = _overlap(points[..., 0], half, regions[..., 0, None], regions[..., 2, None])
    inside = inside * _overlap(points[..., 1], half, regions[..., 1, None], regions[..., 3, None])
    return inside.max(axis=1).reshape(-1, grid_size, grid_size).astype(np.float32)


def _overlap(middle: np.ndarray, half: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The share of an interval about `middle` that lies between `low` and `high`."""
    return np.clip(np.minimum(middle + half, high) - np.maximum(middle - half, low), 0, None) / (2 * half)
