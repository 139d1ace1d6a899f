"""Small DICOM files for tests: any syntax, any tags. `codestreams.json` holds the 40 x 40 ramp of 12 bits, encoded once
with imagecodecs 2026.3.6 (JPEG lossless, 12-bit JPEG, HTJ2K) and pyjpegls 1.5.1 (JPEG-LS)."""

from __future__ import annotations

import base64
import io
import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

SIZE = 40
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
#: What every installation decodes.
DECODED_EVERYWHERE = (*NATIVE, JPEGBaseline8Bit, JPEG2000Lossless, RLELossless)


def ramp(low=0, high=4095):
    """40 x 40 whole numbers from low to high."""
    return np.linspace(low, high, SIZE * SIZE).reshape(SIZE, SIZE).round().astype(np.int64)


def dicom(values, *, drop=(), syntax=ExplicitVRLittleEndian, stream=None, **tags):
    """Bytes of a small DICOM file; `tags` add to or replace the defaults, `stream` is its compressed frame."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.set_original_encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    settings = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in settings.items():
            if name not in drop and value is not None:
                setattr(dataset, name, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    kind = f"{order}{'i' if settings['PixelRepresentation'] == 1 else 'u'}{settings['BitsAllocated'] // 8 or 1}"
    dataset.PixelData = encapsulate([stream]) if stream is not None else values.astype(kind).tobytes()
    dataset["PixelData"].VR = "OB" if stream is not None else "OW"
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    """The bytes of a data set; pydicom's advice about odd values is wanted by no test."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rle(values):
    """The ramp's RLE frame (PS3.5 annex G): high bytes, low bytes, each in literal runs."""
    segments = []
    for plane in (values >> 8, values & 0xFF):
        data = plane.astype(np.uint8).tobytes()
        runs = [bytes([len(part) - 1]) + part for part in (data[i : i + 128] for i in range(0, len(data), 128))]
        segment = b"".join(runs)
        segments.append(segment + bytes(len(segment) % 2))
    offsets = [2, 64, 64 + len(segments[0])] + [0] * 13
    return np.array(offsets, dtype="<u4").tobytes() + b"".join(segments)


def raster(values, kind, **options):
    """A PNG, JPEG or JPEG 2000 stream of 8 or 16 bits by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def streams():
    """Transfer syntax -> code stream of the 12-bit ramp that Pillow cannot write."""
    found = json.loads((Path(__file__).parent / "codestreams.json").read_text())
    return {syntax: base64.b64decode(text) for syntax, text in found.items()}


def in_syntax(syntax, **tags):
    """The ramp in one of `DECODED_EVERYWHERE`: 12 bits, 8 where it is JPEG, 16 where it is JPEG 2000."""
    if syntax == JPEGBaseline8Bit:
        eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
        stream = raster((ramp() >> 4).astype(np.uint8), "JPEG", quality=95)
        return dicom(ramp(), syntax=syntax, stream=stream, **eight, **tags)
    if syntax == JPEG2000Lossless:
        stream = raster(ramp().astype(np.uint16), "JPEG2000", irreversible=False, no_jp2=True)
        return dicom(ramp(), syntax=syntax, stream=stream, BitsStored=16, HighBit=15, **tags)
    return dicom(ramp(), syntax=syntax, stream=rle(ramp()) if syntax == RLELossless else None, **tags)
