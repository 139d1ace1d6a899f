"""FAULTS 4, 5, 6, 7, 8: pixel-exact against hand-computed arrays. Rows are named in the tests."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from kdistill.errors import InputError
from kdistill.studies.dicom import decode_dicom
from kdistill.studies.images import decode, read_image

from .dicom_files import NATIVE, SIZE, dicom, ramp


def windowed(values, centre=2048.0, width=4096.0):
    """PS3.3 C.11.2.1.2.1, written again as the standard has it."""
    result = np.empty(values.shape)
    for index, x in np.ndenumerate(values):
        if x <= centre - 0.5 - (width - 1) / 2:
            result[index] = 0
        elif x > centre - 0.5 + (width - 1) / 2:
            result[index] = 1
        else:
            result[index] = (x - (centre - 0.5)) / (width - 1) + 0.5
    return result


@pytest.mark.parametrize("syntax", NATIVE)
def test_every_native_syntax_gives_the_same_pixels(syntax):
    assert np.array_equal(decode(dicom(ramp(), syntax=syntax)), decode(dicom(ramp())))


def test_row_7_12_bits_in_16_are_windowed_as_the_standard_says():
    assert decode(dicom(ramp())) == pytest.approx(windowed(ramp()), abs=1e-6)


def test_row_5_monochrome1_equals_its_monochrome2_twin():
    one = decode(dicom(4095 - ramp(), PhotometricInterpretation="MONOCHROME1"))
    # Worst case measured: 6e-8; the window is symmetric about 2047.5.
    assert one == pytest.approx(decode(dicom(ramp())), abs=1e-6)


def test_row_5_inverse_presentation_inverts_once_also_beside_monochrome1():
    plain = decode(dicom(ramp()))
    assert decode(dicom(ramp(), PresentationLUTShape="INVERSE")) == pytest.approx(1 - plain, abs=1e-6)
    both = dicom(ramp(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert decode(both) == pytest.approx(1 - plain, abs=1e-6)


def test_row_7_signed_values_and_rescale():
    signed = ramp(-2048, 2047)
    data = dicom(
        signed, PixelRepresentation=1, RescaleSlope=2.0, RescaleIntercept=100.0, WindowCenter=1500, WindowWidth=3000
    )
    assert decode(data) == pytest.approx(windowed(signed * 2 + 100, 1500, 3000), abs=1e-6)


def test_row_7_a_high_bit_that_is_off_is_shifted_back():
    data = dicom(ramp() << 4, BitsStored=12, HighBit=15)
    assert decode(data) == pytest.approx(windowed(ramp()), abs=1e-6)


def test_row_7_padding_is_black_and_outside_the_percentiles():
    values = ramp(1000, 2000)
    values[:5] = 4095
    shown = decode(dicom(values, PixelPaddingValue=4095, WindowCenter=None, WindowWidth=None))
    assert shown[:5].max() == 0 and shown[5:].max() == 1.0 and shown[20, 20] == pytest.approx(0.44, abs=0.05)


def test_row_7_a_padding_range_is_black_also_where_it_is_written_unsigned_or_inverted():
    values = ramp(1000, 2000)
    values[:5], values[5:7] = 0, 30
    shown = decode(
        dicom(values, PixelPaddingValue=0, PixelPaddingRangeLimit=40, PhotometricInterpretation="MONOCHROME1")
    )
    assert shown[:7].max() == 0 and shown[7:].min() > 0.5
    signed = ramp(-1000, 1000)
    signed[:5] = -2000
    data = dicom(signed, PixelRepresentation=1, PixelPaddingValue=-2000, WindowCenter=0, WindowWidth=2000)
    assert decode(data)[:5].max() == 0 and decode(data)[5:] == pytest.approx(windowed(signed, 0, 2000)[5:], abs=1e-6)
    unsigned = data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US")
    assert unsigned != data and np.array_equal(decode(unsigned), decode(data))


def test_row_7_unused_high_bits_are_no_part_of_the_value():
    overlay = ramp() | 0xF000
    assert decode(dicom(overlay)) == pytest.approx(windowed(ramp()), abs=1e-6)
    negative = ramp(-2048, 2047)
    one = dicom(negative & 0x0FFF, PixelRepresentation=1, WindowCenter=0)
    assert decode(one) == pytest.approx(windowed(negative, 0), abs=1e-6)


def test_row_7_8_bits():
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    assert decode(dicom(ramp(0, 255), **eight)) == pytest.approx(ramp(0, 255) / 255, abs=1e-6)


@pytest.mark.parametrize("width", [0, -5, "NaN", None])
def test_row_8_an_unusable_window_falls_back_to_percentiles_and_is_said(width):
    data = dicom(ramp(1000, 2000), WindowWidth=1)
    if width is None:
        data = dicom(ramp(1000, 2000), WindowWidth=None)
    else:
        text = str(width).encode().ljust(4)
        data = data.replace(b"\x28\x00\x51\x10DS\x04\x001.0 ", b"\x28\x00\x51\x10DS\x04\x00" + text)
        assert text in data
    film = decode_dicom(data)
    low, high = np.percentile(ramp(1000, 2000), [0.5, 99.5])
    expected = np.clip((ramp(1000, 2000) - low) / (high - low), 0, 1)
    assert film.pixels == pytest.approx(expected, abs=1e-6) and film.notes == ("window_unusable",)


def test_row_8_no_window_at_all_is_nothing_to_tell():
    assert decode_dicom(dicom(ramp(), WindowCenter=None, WindowWidth=None)).notes == ()


def test_row_8_percentiles_are_those_of_numpy_without_the_padding():
    values = np.random.default_rng(0).integers(0, 4096, (SIZE, SIZE))
    values[:3] = 4095
    shown = decode(dicom(values, PixelPaddingValue=4095, WindowCenter=None, WindowWidth=None))
    low, high = np.percentile(values[values != 4095], [0.5, 99.5])
    expected = np.clip((values - low) / (high - low), 0, 1) * (values != 4095)
    assert shown == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("slope", [0, "NaN"])
def test_row_8_a_slope_that_erases_the_image_is_not_applied_and_said(slope):
    data = dicom(ramp(1000, 2000), RescaleSlope=7, RescaleIntercept=100)
    old = b"\x28\x00\x53\x10DS\x04\x007.0 "
    new = old.replace(b"7.0 ", b"0.0 " if slope == 0 else b"NaN ")
    assert old in data
    film = decode_dicom(data.replace(old, new))
    assert film.notes == ("rescale_unusable",) and film.pixels.min() == 0 and film.pixels.max() == 1


def test_row_8_the_first_of_several_windows_counts():
    data = dicom(ramp(), WindowCenter=[2048.0, 10.0], WindowWidth=[4096.0, 20.0])
    assert decode(data) == pytest.approx(windowed(ramp()), abs=1e-6)


def test_linear_exact_and_sigmoid_windows():
    """PS3.3 C.11.2.1.3.1 and C.11.2.1.3.2, written again as the standard has them."""
    values = ramp()
    exact = decode(dicom(values, VOILUTFunction="LINEAR_EXACT", WindowCenter=2000, WindowWidth=1000))
    by_hand = np.where(values <= 1500, 0.0, np.where(values > 2500, 1.0, (values - 2000) / 1000 + 0.5))
    assert exact == pytest.approx(by_hand, abs=1e-6)
    sigmoid = decode(dicom(values, VOILUTFunction="SIGMOID", WindowCenter=2000, WindowWidth=1000))
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-4 * (values - 2000) / 1000)), abs=1e-6)
    with_unknown = decode_dicom(dicom(values, VOILUTFunction="CUBIC"))
    assert with_unknown.notes == ("window_unusable",)


def test_a_window_of_width_one_is_a_step():
    shown = decode(dicom(ramp(), WindowCenter=2000, WindowWidth=1))
    assert np.array_equal(shown, (ramp() > 1999.5).astype(np.float32))


def lut(first, entries, bits, *, packed=False):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries, dtype=np.uint8 if packed else "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


def test_a_modality_lut_comes_before_the_window():
    """Values below the first entry take the first output, values above the last the last (C.11.1.1.1)."""
    entries = (np.arange(3000) * 13) % 60000
    data = dicom(ramp(), ModalityLUTSequence=lut(500, entries, 16), WindowCenter=30000, WindowWidth=60000)
    modal = entries[np.clip(ramp() - 500, 0, 2999)]
    assert decode(data) == pytest.approx(windowed(modal, 30000, 60000), abs=1e-6)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_a_voi_lut_beats_the_window_and_spans_its_own_bits(syntax):
    entries = np.round(4095 * np.linspace(0, 1, 4096) ** 2).astype(int)
    more = {"syntax": syntax} if syntax else {}
    shown = decode(dicom(ramp(), VOILUTSequence=lut(0, entries, 12), **more))
    assert shown == pytest.approx(entries[ramp()] / 4095, abs=1e-6)


def test_a_voi_lut_of_8_bit_entries_packed_two_a_word():
    entries = np.arange(256)[::-1]
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    data = dicom(ramp(0, 255), VOILUTSequence=lut(0, entries, 8, packed=True), **eight)
    assert decode(data) == pytest.approx((255 - ramp(0, 255)) / 255, abs=1e-6)


def test_a_voi_lut_after_a_rescale_to_negative_values():
    entries = np.arange(4096)
    data = dicom(ramp(), RescaleSlope=1, RescaleIntercept=-1000, VOILUTSequence=lut(64536, entries, 12))
    assert decode(data) == pytest.approx(ramp() / 4095, abs=1e-6)


def test_polarity_comes_after_every_lut():
    entries = np.round(4095 * np.linspace(0, 1, 4096) ** 2).astype(int)
    data = dicom(ramp(), VOILUTSequence=lut(0, entries, 12), PhotometricInterpretation="MONOCHROME1")
    assert decode(data) == pytest.approx(1 - entries[ramp()] / 4095, abs=1e-6)


def test_a_lut_that_contradicts_itself_is_refused():
    item = lut(0, np.arange(100), 12)
    item[0].LUTDescriptor = [4096, 0, 12]
    with pytest.raises(InputError, match="VOILUTSequence claims 4096 entries"):
        decode(dicom(ramp(), VOILUTSequence=item))


@pytest.mark.parametrize(
    "tag",
    [
        "PhotometricInterpretation",
        "SamplesPerPixel",
        "Rows",
        "Columns",
        "BitsStored",
        "BitsAllocated",
        "PixelRepresentation",
    ],
)
def test_row_4_a_missing_tag_is_named_and_never_guessed(tag):
    with pytest.raises(InputError, match=tag):
        decode(dicom(ramp(), drop=(tag,)))


EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
CAPTURE = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT", **EIGHT}


def palette(red, green, blue, **more):
    tags = {}
    for name, entries in {"Red": red, "Green": green, "Blue": blue}.items():
        if entries is not None:
            tags[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), 0, 16]
            tags[f"{name}PaletteColorLookupTableData"] = np.asarray(entries, dtype="<u2").tobytes()
    return dicom(ramp(0, 255), PhotometricInterpretation="PALETTE COLOR", **CAPTURE, **tags, **more)


def test_row_6_a_palette_is_looked_up_where_it_is_grey():
    entries = np.arange(256) ** 2
    assert decode(palette(entries, entries, entries)) == pytest.approx(ramp(0, 255) ** 2 / 65535, abs=1e-6)
    with pytest.raises(InputError, match="colour"):
        decode(palette(entries, entries[::-1], entries))
    with pytest.raises(InputError, match="GreenPaletteColorLookupTable"):
        decode(palette(entries, None, entries))


def test_row_6_rgb_is_used_where_its_channels_are_equal():
    grey = ramp(0, 255)
    colours = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0, **CAPTURE}
    assert decode(dicom(np.dstack([grey] * 3), **colours)) == pytest.approx(grey / 255, abs=1e-6)
    colours["PlanarConfiguration"] = 1
    planes = dicom(np.stack([grey] * 3), **{**colours, "Rows": SIZE, "Columns": SIZE})
    assert decode(planes) == pytest.approx(grey / 255, abs=1e-6)
    off_by_one = np.dstack([grey, grey, np.minimum(grey + 1, 255)])
    with pytest.raises(InputError, match="colour"):
        decode(dicom(off_by_one, **{**colours, "PlanarConfiguration": 0}))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "RedPaletteColorLookupTable"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel 1"),
        ({"NumberOfFrames": 7}, "multi-frame"),
        ({"NumberOfFrames": 1_000_000_000}, "multi-frame object \\(1000000000"),
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
        ({"Rows": 0}, "Rows is 0"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored is 17"),
        ({"BitsAllocated": 32}, "BitsAllocated is 32"),
        ({"HighBit": 3}, "HighBit is 3"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"Columns": SIZE - 4}, "promise 2880 bytes of pixels, there are 3200"),
        ({"Rows": SIZE + 1}, "promise 3280 bytes of pixels, there are 3200"),
    ],
)
def test_rows_6_and_12_what_is_no_grey_radiograph_or_contradicts_itself_is_refused(tags, message):
    with pytest.raises(InputError, match=message):
        decode(dicom(ramp(), **tags))


def test_8_bit_pixels_written_as_big_endian_words():
    eight = {**EIGHT, "WindowCenter": 128, "WindowWidth": 256, "syntax": ExplicitVRBigEndian}
    swapped = ramp(0, 255).reshape(-1, 2)[:, ::-1].reshape(SIZE, SIZE)
    assert decode(dicom(swapped, **eight)) == pytest.approx(ramp(0, 255) / 255, abs=1e-6)


def test_errors_hold_no_patient_name():
    with pytest.raises(InputError) as caught:
        decode(dicom(ramp(), drop=("Rows",)))
    assert "SECRET" not in str(caught.value)


def test_real_files(shared_data):
    folder = shared_data / "cxr_dicom"
    good = folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
    image = read_image(good, 128)
    assert image.shape == (128, 128) and image.std() > 20
    twin = read_image(folder / "Fake_MONOHR1.dcm", 128)
    # Same stored pixels, other polarity tag: exactly inverted inside the frame.
    assert np.abs(twin.astype(int) + image.astype(int) - 255).max() <= 1
    with pytest.raises(InputError, match="has no PixelData"):
        read_image(folder / "chrJapMulti.dcm", 128)
    with pytest.raises(InputError, match="BodyPartExamined is EXTREMITY"):
        read_image(folder / "RG3_J2KI.dcm", 128)
