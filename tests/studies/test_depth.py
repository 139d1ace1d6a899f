"""The values behind a film: with the film's own window they show what the student was given, pixel for pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest

from kdistill.studies.decoding import DecoderPool
from kdistill.studies.depth import Depth, depth_of_grey, shrunk
from kdistill.studies.dicom import decode_dicom

from ..explain.test_exports import film


def dicom(stored: np.ndarray, **tags: object) -> bytes:
    dataset = film(*stored.shape, PixelData=stored.astype("<u2").tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shown(depth: Depth) -> np.ndarray:
    return np.clip((depth.values - depth.low) / (depth.high - depth.low), 0, 1)


STORED = np.random.default_rng(0).integers(100, 3000, (64, 48))
CASES: dict[str, dict[str, object]] = {
    "no window": {},
    "window": {"WindowCenter": 1500, "WindowWidth": 1800},
    "wider than the pixels": {"WindowCenter": 1500, "WindowWidth": 6000},
    "rescaled": {"RescaleSlope": 0.5, "RescaleIntercept": -200, "WindowCenter": 600, "WindowWidth": 900},
    "inverted": {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1500, "WindowWidth": 1800},
    "padded": {"WindowCenter": 400, "WindowWidth": 2400, "PixelPaddingValue": 2048},
    "sigmoid": {"WindowCenter": 1500, "WindowWidth": 1800, "VOILUTFunction": "SIGMOID"},
}


@pytest.mark.parametrize("tags", CASES.values(), ids=CASES.keys())
def test_its_own_window_shows_the_decoded_film(tags: dict[str, object]) -> None:
    stored = STORED.copy()
    stored[:8] = 2048
    found = decode_dicom(dicom(stored, **tags), keep_depth=True)
    assert found.depth is not None and found.depth.values.dtype == np.uint16
    assert np.abs(shown(found.depth) - found.pixels).max() < 1e-5  # measured: 7.7e-6, a 16-bit step behind a curve
    assert found.depth.is_linear == ("VOILUTFunction" not in tags)


def test_what_the_window_cuts_off_is_still_there() -> None:
    found = decode_dicom(dicom(STORED, WindowCenter=1500, WindowWidth=200), keep_depth=True)
    assert len(np.unique(found.pixels)) < 210 < 1000 < len(np.unique(found.depth.values))  # type: ignore[union-attr]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_values_carry_the_unit_of_the_file(photometric: str) -> None:
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": -200, "PhotometricInterpretation": photometric}
    depth = decode_dicom(dicom(STORED, **tags), keep_depth=True).depth
    assert depth is not None
    assert np.allclose(depth.values * depth.slope + depth.intercept, STORED * 0.5 - 200)


def test_eight_and_sixteen_bits_are_told_apart() -> None:
    grey = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(depth_of_grey(grey).values.ravel(), np.arange(256))
    fine = (np.arange(256 * 16, dtype=np.float32) * 16 / 65535).reshape(64, 64)
    assert np.array_equal(depth_of_grey(fine).values.ravel(), np.arange(256 * 16) * 16)


def test_a_large_film_is_reduced_to_means() -> None:
    depth = depth_of_grey(np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (8, 10)))
    small = shrunk(depth, 10)
    assert small.values.shape == (4, 10) and set(small.values.ravel()) == {128} and small.shape == (8, 20)
    assert shrunk(depth, 20) is depth


def test_a_pool_gives_depth_only_where_it_is_asked() -> None:
    data = dicom(STORED, WindowCenter=1500, WindowWidth=1800)
    with DecoderPool(1, 32, display_px=40, depth_px=32) as pool:
        found = pool.read(data)
    assert found.display is not None and found.display.shape == (40, 40)
    assert found.depth is not None and found.depth.values.shape == (32, 24) and found.depth.shape == (64, 48)
    with DecoderPool(1, 32) as pool:
        assert pool.read(data).depth is None
