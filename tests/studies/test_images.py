"""FAULTS 1, 2, 7 and 13: what is used, what is refused, and how pixels are scaled."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from kdistill.errors import InputError
from kdistill.studies.images import decode, decode_in_process, read_grey, read_image, to_square

from .dicom_files import dicom, ramp


def film(height=64, width=64, dtype=np.uint8, top=255):
    ramp = np.linspace(0, top, height * width).reshape(height, width)
    return ramp.astype(dtype)


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def test_row_1_content_decides_not_the_name(tmp_path):
    for name, data in {"a.dcm": encode(film()), "b.dcm": encode(film(), "JPEG")}.items():
        (tmp_path / name).write_bytes(data)
        assert read_grey(tmp_path / name).shape == (64, 64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"FINDINGS: clear lungs", "no PNG, JPEG or DICOM"),
        (b"\x7fELF" + bytes(200), "7f 45 4c 46"),
        (b"MZ" + bytes(300), "no PNG"),
        (bytes(128) + b"DICM", "DICOM"),
    ],
)
def test_row_1_other_content_is_refused_whatever_its_name(tmp_path, data, message):
    path = tmp_path / "film.dcm"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path, 32)
    assert "film.dcm" in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_row_2_an_image_cut_at_any_point_is_refused_never_filled_with_grey(kind):
    rng = np.random.default_rng(0)
    data = encode(rng.integers(0, 255, (48, 48), dtype=np.uint8), kind)
    for end in range(1, len(data)):
        with pytest.raises(InputError):
            decode(data[:end])
    assert decode(data).shape == (48, 48)


def test_row_2_a_flipped_bit_in_a_png_is_refused():
    data = bytearray(encode(film()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(InputError, match="damaged"):
        decode(bytes(data))


def test_row_7_16_bit_png_is_scaled_by_its_type_not_clipped():
    pixels = film(dtype=np.uint16, top=65535)
    assert decode(encode(pixels)) == pytest.approx(pixels / 65535, abs=1e-6)
    bright = np.full((40, 40), 40000, dtype=np.uint16)
    bright[0, 0] = 20000
    assert decode(encode(bright))[5, 5] == pytest.approx(40000 / 65535, abs=1e-6)


def test_8_bit_png_is_scaled_by_255():
    assert decode(encode(film())) == pytest.approx(film() / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((64, 64), 7, np.uint8), "constant"),
        (film(1, 1), "too small"),
        (film(33, 1000), "too narrow"),
        (film(3, 10_000), "too narrow"),
        (np.dstack([film(), film()[::-1], film()]), "colour"),
    ],
)
def test_row_13_what_cannot_be_a_radiograph_is_refused(pixels, message):
    with pytest.raises(InputError, match=message):
        decode(encode(pixels))


def test_grey_stored_as_rgb_is_used():
    assert decode(encode(np.dstack([film()] * 3))) == pytest.approx(film() / 255, abs=1e-6)


def test_row_13_a_bomb_is_refused_before_it_is_decoded():
    header = encode(film())[8:33]
    claimed = bytearray(encode(film()))
    claimed[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    claimed[29:33] = zlib.crc32(bytes(claimed[12:29])).to_bytes(4, "big")
    assert header != bytes(claimed[8:33])
    with pytest.raises(InputError, match="pixels"):
        decode(bytes(claimed))


def test_resize_keeps_the_aspect_ratio_and_pads_both_sides():
    square = to_square(np.full((100, 50), 1.0, dtype=np.float32), 32)
    assert square.shape == (32, 32) and square.dtype == np.uint8
    assert (square[:, 8:24] == 255).all() and square[:, :8].max() == 0 and square[:, 24:].max() == 0


def test_an_image_of_the_right_size_keeps_its_bytes():
    pixels = film()
    assert np.array_equal(to_square(pixels.astype(np.float32) / 255, 64), pixels)


def test_shrinking_does_not_alias():
    stripes = np.tile([0.0, 1.0], (256, 128)).astype(np.float32)
    assert np.abs(to_square(stripes, 32).astype(float) - 127.5).max() < 8


def test_row_13_pixels_that_are_no_numbers_are_refused_without_a_warning():
    """A slope beyond what a float holds makes infinities, and their differences are NaN."""
    data = dicom(ramp(), RescaleSlope="1e308", RescaleIntercept=0, WindowCenter=None, WindowWidth=None)
    with pytest.raises(InputError, match="no numbers|constant"):
        decode(data)


def test_row_2_a_jpeg_inside_a_dicom_file_is_held_to_the_same_rule():
    stream = encode(film(40, 40), "JPEG")
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    for end in range(4, len(stream) - 20, 7):
        with pytest.raises(InputError):
            decode_in_process(dicom(film(40, 40), syntax=JPEGBaseline8Bit, stream=stream[:end], **eight))
