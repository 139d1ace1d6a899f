"""FAULTS 4, 5, 7 (and 6, 8 in part): pixel-exact against hand-computed arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from kdistill.errors import InputError
from kdistill.studies.images import decode, read_image

SIZE = 40


def dicom(values, *, drop=(), **tags):
    """Bytes of a small DICOM file; `tags` add to or replace the defaults."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    settings = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CR",
        "PatientName": "SECRET^NAME",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 2048.0,
        "WindowWidth": 4096.0,
        **tags,
    }
    for name, value in settings.items():
        if name not in drop and value is not None:
            setattr(dataset, name, value)
    kind = "<i2" if settings["PixelRepresentation"] else "<u2"
    dataset.PixelData = values.astype(kind).tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ramp(low=0, high=4095):
    return np.linspace(low, high, SIZE * SIZE).reshape(SIZE, SIZE).round().astype(np.int64)


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


def test_12_bits_in_16_are_windowed_as_the_standard_says():
    assert decode(dicom(ramp())) == pytest.approx(windowed(ramp()), abs=1e-6)


def test_monochrome1_equals_its_monochrome2_twin():
    one = decode(dicom(4095 - ramp(), PhotometricInterpretation="MONOCHROME1"))
    # Worst case measured: 6e-8; the window is symmetric about 2047.5.
    assert one == pytest.approx(decode(dicom(ramp())), abs=1e-6)


def test_inverse_presentation_inverts_once_also_beside_monochrome1():
    plain = decode(dicom(ramp()))
    assert decode(dicom(ramp(), PresentationLUTShape="INVERSE")) == pytest.approx(1 - plain, abs=1e-6)
    both = dicom(ramp(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert decode(both) == pytest.approx(1 - plain, abs=1e-6)


def test_signed_values_and_rescale():
    signed = ramp(-2048, 2047)
    data = dicom(
        signed, PixelRepresentation=1, RescaleSlope=2.0, RescaleIntercept=100.0, WindowCenter=1500, WindowWidth=3000
    )
    assert decode(data) == pytest.approx(windowed(signed * 2 + 100, 1500, 3000), abs=1e-6)


def test_a_high_bit_that_is_off_is_shifted_back():
    data = dicom(ramp() << 4, BitsStored=12, HighBit=15)
    assert decode(data) == pytest.approx(windowed(ramp()), abs=1e-6)


def test_padding_is_black_and_outside_the_percentiles():
    values = ramp(1000, 2000)
    values[:5] = 4095
    shown = decode(dicom(values, PixelPaddingValue=4095, WindowCenter=None, WindowWidth=None))
    assert shown[:5].max() == 0 and shown[5:].max() == 1.0 and shown[20, 20] == pytest.approx(0.44, abs=0.05)


@pytest.mark.parametrize("width", [0, None])
def test_an_unusable_window_falls_back_to_percentiles(width):
    shown = decode(dicom(ramp(1000, 2000), WindowWidth=width))
    assert shown.min() == 0 and shown.max() == 1


def test_the_first_of_several_windows_counts():
    data = dicom(ramp(), WindowCenter=[2048.0, 10.0], WindowWidth=[4096.0, 20.0])
    assert decode(data) == pytest.approx(windowed(ramp()), abs=1e-6)


@pytest.mark.parametrize(
    "tag", ["PhotometricInterpretation", "Rows", "Columns", "BitsStored", "BitsAllocated", "PixelRepresentation"]
)
def test_a_missing_tag_is_named_and_never_guessed(tag):
    with pytest.raises(InputError, match=tag):
        decode(dicom(ramp(), drop=(tag,)))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE"),
        ({"NumberOfFrames": 7}, "multi-frame"),
        ({"Rows": 65535, "Columns": 65535}, "pixels"),
    ],
)
def test_what_is_no_grey_radiograph_is_refused(tags, message):
    with pytest.raises(InputError, match=message):
        decode(dicom(ramp(), **tags))


def test_a_dicom_cut_short_is_refused():
    data = dicom(ramp())
    for end in (200, len(data) // 2, len(data) - 10):
        with pytest.raises(InputError):
            decode(data[:end])


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
    with pytest.raises(InputError, match="PixelData|missing"):
        read_image(folder / "chrJapMulti.dcm", 128)
