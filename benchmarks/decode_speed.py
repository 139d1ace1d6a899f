"""Images a second of `DecoderPool`: 512 px films, JPEG in DICOM by default.

    python benchmarks/decode_speed.py [--images 200] [--processes 2] [--json]

A busy machine makes wall-clock figures meaningless, so processor seconds of the children and of this process are given
beside them: `images_per_cpu_s` x cores is what an idle machine can reach.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import time
import warnings

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ComputedRadiographyImageStorage

from kdistill.errors import InputError
from kdistill.studies.decoding import DecoderPool

SIZE_PX = 512
SYNTAXES = {"jpeg": "1.2.840.10008.1.2.4.50", "jpeg2000": "1.2.840.10008.1.2.4.90", "native": "1.2.840.10008.1.2.1"}


def film(seed: int) -> np.ndarray:
    """Smooth shades and detector noise, as a film has: 8 bit [512, 512]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 235, (8, 8), dtype=np.uint8)).resize(
        (SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse) + rng.normal(0, 3, (SIZE_PX, SIZE_PX)), 0, 255).astype(np.uint8)


def dicom(pixels: np.ndarray, kind: str) -> bytes:
    """An 8-bit computed radiograph in one of `SYNTAXES`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = UID(SYNTAXES[kind])
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = ComputedRadiographyImageStorage, UID("1.2.3"), "CR"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    if kind == "native":
        dataset.PixelData = pixels.tobytes()
    else:
        stream = io.BytesIO()
        options = {"quality": 90} if kind == "jpeg" else {"no_jp2": True, "irreversible": False}
        Image.fromarray(pixels).save(stream, "JPEG" if kind == "jpeg" else "JPEG2000", **options)
        dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def cpu_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(kind: str, images: int, processes: int) -> dict[str, object]:
    """Decode `images` files (20 different ones in turn); children's start is measured apart."""
    files = [dicom(film(seed), kind) for seed in range(20)]
    figures = {}
    for name, number in (("start", processes), ("all", images)):
        cpu, wall = cpu_s(), time.perf_counter()
        with DecoderPool(processes, SIZE_PX // 2) as pool:
            results = list(pool.map(files[n % 20] for n in range(number)))
        if any(isinstance(result, InputError) for result in results):
            raise SystemExit("an image was not decoded")
        figures[name] = (cpu_s() - cpu, time.perf_counter() - wall)
    per_image = (figures["all"][0] - figures["start"][0]) / (images - processes)
    return {
        "kind": kind,
        "images": images,
        "processes": processes,
        "start_cpu_s": round(figures["start"][0], 2),
        "cpu_ms_per_image": round(1000 * per_image, 2),
        "images_per_cpu_s": round(1 / per_image, 1),
        "wall_images_per_s": round(images / figures["all"][1], 1),
    }


def main() -> None:
    """Print one line a kind of file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for kind in SYNTAXES:
        row = measure(kind, arguments.images, arguments.processes)
        print(json.dumps(row) if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
