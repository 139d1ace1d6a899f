"""FAULTS 9: every compressed syntax is decoded exactly, or the package to install is named; never wrong pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from kdistill.errors import InputError
from kdistill.studies.codecs import SYNTAXES
from kdistill.studies.images import decode_in_process

from .dicom_files import dicom, ramp, raster, rle, streams

EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
#: Largest error of the stored value of 4095: near-lossless JPEG-LS was written with 3, 12-bit JPEG at quality 95.
TOLERANCE = {"1.2.840.10008.1.2.4.81": 3, "1.2.840.10008.1.2.4.51": 40}


def windowed(values):
    """The default window of 12 bits: 0 -> 0, 4095 -> 1."""
    return values / 4095


@pytest.mark.parametrize("syntax", sorted(streams()))
def test_row_9_a_syntax_is_decoded_to_the_encoded_values_or_the_package_is_named(syntax):
    data = dicom(ramp(), syntax=syntax, stream=streams()[syntax])
    wanted = ("pylibjpeg",) if syntax.endswith(".51") else SYNTAXES[syntax].plugins
    if set(wanted) & set(get_decoder(UID(syntax)).available_plugins):
        error = np.abs(decode_in_process(data).pixels - windowed(ramp())).max()
        assert error <= TOLERANCE.get(syntax, 0) / 4095 + 1e-6
    else:
        package = "pylibjpeg-libjpeg" if syntax.endswith(".51") else "kdistill\\[dicom\\]"
        with pytest.raises(InputError, match=f"{SYNTAXES[syntax].name.split()[0]}.*cannot be decoded(?s:.*){package}"):
            decode_in_process(data)


def test_row_9_rle_and_jpeg_2000_are_exact():
    assert decode_in_process(dicom(ramp(), syntax=RLELossless, stream=rle(ramp()))).pixels == pytest.approx(
        windowed(ramp()), abs=1e-6
    )
    for top, bits in ((255, 8), (65535, 16)):
        values = ramp(0, top).astype(np.uint8 if bits == 8 else np.uint16)
        stream = raster(values, "JPEG2000", irreversible=False, no_jp2=True)
        tags = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        data = dicom(
            values, syntax=JPEG2000Lossless, stream=stream, WindowCenter=(top + 1) / 2, WindowWidth=top + 1, **tags
        )
        assert decode_in_process(data).pixels == pytest.approx(values / top, abs=1e-6)


def test_row_9_jpeg_gives_what_pillow_gives():
    stream = raster(ramp(0, 255).astype(np.uint8), "JPEG", quality=90)
    import io

    expected = np.asarray(Image.open(io.BytesIO(stream))) / 255
    shown = decode_in_process(dicom(ramp(), syntax=JPEGBaseline8Bit, stream=stream, **EIGHT)).pixels
    assert shown == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_row_9_a_stream_of_another_shape_than_the_tags_is_refused_not_sheared(kind):
    """Rows and columns swapped have the same number of pixels: pydicom shears such a picture without a word."""
    values = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    syntax = JPEGBaseline8Bit if kind == "JPEG" else JPEG2000Lossless
    stream = raster(values, kind, **({} if kind == "JPEG" else {"no_jp2": True}))
    whole = dicom(values, syntax=syntax, stream=stream, **EIGHT)
    assert decode_in_process(whole).pixels.shape == (48, 64)
    with pytest.raises(InputError, match="claim 48 x 64 pixels .* holds 64 x 48"):
        decode_in_process(dicom(values, syntax=syntax, stream=stream, Rows=64, Columns=48, **EIGHT))


def test_row_9_another_depth_than_the_tags_is_refused():
    stream = raster(ramp(0, 255).astype(np.uint8), "JPEG")
    with pytest.raises(InputError, match="BitsStored is 12, its JPEG baseline stream has 8 bits"):
        decode_in_process(dicom(ramp(), syntax=JPEGBaseline8Bit, stream=stream))
    deep = raster(ramp(0, 65535).astype(np.uint16), "JPEG2000", no_jp2=True)
    with pytest.raises(InputError, match="do not fit BitsStored \\(12\\)"):
        decode_in_process(dicom(ramp(), syntax=JPEG2000Lossless, stream=deep))


def test_row_9_another_process_than_the_syntax_is_refused():
    lossless = streams()["1.2.840.10008.1.2.4.70"]
    with pytest.raises(InputError, match="another kind of JPEG"):
        decode_in_process(dicom(ramp(), syntax=JPEGBaseline8Bit, stream=lossless))
    with pytest.raises(InputError, match="no JPEG 2000 lossless stream"):
        decode_in_process(dicom(ramp(), syntax=JPEG2000Lossless, stream=lossless))


def test_row_9_uncompressed_pixels_under_a_compressed_syntax_and_the_reverse_are_refused():
    data = dicom(ramp())
    for syntax, other in ((b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.5\x00"),):
        assert syntax in data
        with pytest.raises(InputError, match="stand uncompressed"):
            decode_in_process(data.replace(syntax, other, 1))
        back = dicom(ramp(), syntax=RLELossless, stream=rle(ramp())).replace(other, syntax, 1)
        with pytest.raises(InputError, match="compressed but its transfer syntax"):
            decode_in_process(back)


def test_row_9_two_frames_where_one_is_claimed_are_refused():
    from pydicom.encaps import encapsulate

    frame = rle(ramp())
    data = dicom(ramp(), syntax=RLELossless, stream=frame)
    two = encapsulate([frame, frame])
    at = data.index(b"\xe0\x7f\x10\x00OB")
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    with pytest.raises(InputError):
        decode_in_process(data[: at + 12] + two + end)


@pytest.mark.parametrize("at", [4, 8, 64, 65, 700, 1700])
@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
def test_row_15_damaged_runs_are_an_image_or_our_error(at, value):
    """The decoder of pylibjpeg-rle panics on some of these (found by mutation): no `Exception` reaches Python then."""
    stream = bytearray(rle(ramp()))
    stream[at] = value
    try:
        film = decode_in_process(dicom(ramp(), syntax=RLELossless, stream=bytes(stream)))
    except InputError:
        return
    assert film.pixels.shape == (40, 40)


def test_row_9_high_bit_off_in_a_code_stream_is_not_guessed():
    stream = raster(ramp(0, 4095).astype(np.uint16), "JPEG2000", no_jp2=True)
    with pytest.raises(InputError, match="HighBit is off"):
        decode_in_process(dicom(ramp(), syntax=JPEG2000Lossless, stream=stream, BitsStored=12, HighBit=15))


def test_row_9_a_compressed_colour_capture_is_used_where_it_is_grey():
    grey = ramp(0, 255).astype(np.uint8)
    tags = {
        **EIGHT,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_FULL_422",
        "SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.7"),
        "Modality": "OT",
    }
    stream = raster(np.dstack([grey] * 3), "JPEG", quality=95)
    shown = decode_in_process(dicom(grey, syntax=JPEGBaseline8Bit, stream=stream, **tags)).pixels
    assert np.abs(shown - grey / 255).max() < 4 / 255  # measured: 2 / 255
    colours = raster(np.dstack([grey, grey[::-1], grey]), "JPEG", quality=95)
    with pytest.raises(InputError, match="colour"):
        decode_in_process(dicom(grey, syntax=JPEGBaseline8Bit, stream=colours, **tags))


def test_every_syntax_has_a_decoder_that_pydicom_knows():
    for uid, syntax in SYNTAXES.items():
        known = {"gdcm", "pillow", "pydicom", "pyjpegls", "pylibjpeg"}
        assert get_decoder(UID(uid)) is not None and set(syntax.plugins) <= known
