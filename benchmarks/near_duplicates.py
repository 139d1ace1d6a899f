"""How well `kdistill.studies.near_duplicates` tells two exports of a film from two films, on real films.

    python benchmarks/near_duplicates.py ../shared/data

Films of NIH ChestX-ray14 from three published copies (nih_cxr14_subset, nih_cxr14_extra, nih_cxr14_64px). Prints the
correlations of films of different patients, of different films of one patient, of one film in two copies, of altered
copies of every fourth film; and how many of those the hash bands find.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from kdistill.studies.images import read_grey
from kdistill.studies.near_duplicates import SAME_FILM, fingerprint, local_contrast, near_pairs


def main(data: Path) -> None:
    """Measure and print."""
    prints, names, patients, films = _films(data)
    rows = local_contrast(prints)
    upper = np.triu_indices(len(prints), 1)
    found, mirrored = (rows @ rows.T)[upper], (rows @ local_contrast(prints[:, :, ::-1]).T)[upper]
    one_film, one_patient = (names[:, None] == names)[upper], (patients[:, None] == patients)[upper]
    for title, chosen in (
        ("different patients", ~one_patient),
        ("one patient, different films", one_patient & ~one_film),
        ("one film, two published copies", one_film),
    ):
        values = found[chosen]
        print(f"{title}: n {chosen.sum()}, lowest {values.min():.3f}, highest {values.max():.3f}, ", end="")
        print(f"mirrored {mirrored[chosen].max():.3f}, at {SAME_FILM} or more {(values >= SAME_FILM).sum()}")
    altered = [_altered(pixels) for pixels in films]
    chosen = np.arange(0, 4 * len(films), 4)
    for how in altered[0]:
        copies = np.stack([by_how[how] for by_how in altered])
        values = np.abs((local_contrast(copies) * rows[chosen]).sum(axis=1))
        pairs = near_pairs(np.concatenate([prints, copies]), max_all_pairs=0)
        hits = {(p.first, p.second - len(prints)) for p in pairs}
        banded = sum((int(row), number) in hits for number, row in enumerate(chosen))
        print(f"{how}: lowest {values.min():.3f}, median {np.median(values):.3f}, ", end="")
        print(f"of {len(values)} are {(values >= SAME_FILM).sum()} one film, by hash bands {banded}", flush=True)


def _films(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Prints, film names and patients of all, and the pixels of every fourth film of the first set."""
    prints, names, patients, kept = [], [], [], []
    for folder in ("nih_cxr14_subset", "nih_cxr14_extra"):
        for number, row in enumerate(_rows(data / folder / "labels.csv")):
            pixels = read_grey(data / folder / row["image"])
            prints.append(fingerprint(pixels))
            names.append(row["Image Index"])
            patients.append(row["Patient ID"])
            if folder == "nih_cxr14_subset" and number % 4 == 0:
                kept.append(pixels)
    small = np.load(data / "nih_cxr14_64px" / "images.npz")["images"]
    for row in _rows(data / "nih_cxr14_64px" / "labels.csv"):
        prints.append(fingerprint(small[int(row["row"])] / 255))
        names.append(row["Image Index"])
        patients.append(row["Patient ID"])
    return np.stack(prints), np.array(names), np.array(patients), kept


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _altered(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Prints of copies as other exports, crops and marks make them."""
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    width, height = image.size
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    histogram = np.bincount(np.asarray(image).ravel(), minlength=256).cumsum()
    marked = pixels.copy()
    marked[: height // 10, : width // 4] = 1
    wide = Image.new("L", (round(width * 1.1), round(height * 1.1)))
    wide.paste(image, (round(width * 0.05), round(height * 0.05)))
    noise = np.random.default_rng(0).normal(0, 0.03, pixels.shape)
    copies = {
        "JPEG quality 40": Image.open(buffer),
        "128 px": image.resize((128, 128), Image.Resampling.BILINEAR),
        "gamma 1.4": pixels**1.4,
        "window 15 to 85%": np.clip((pixels - 0.15) / 0.7, 0, 1),
        "noise 3%": np.clip(pixels + noise, 0, 1),
        "histogram equalised": histogram[np.asarray(image)] / histogram[-1],
        "inverted": 1 - pixels,
        "turned by 1 degree": image.rotate(1, Image.Resampling.BILINEAR),
        "block over 2.5% of the film": marked,
        "turned by 3 degrees": image.rotate(3, Image.Resampling.BILINEAR),
        "cropped by 2% at each side": image.crop(
            (round(width * 0.02), round(height * 0.02), round(width * 0.98), round(height * 0.98))
        ),
        "margin of 5% added": wide,
    }
    return {
        how: fingerprint(np.asarray(copy, dtype=np.float32) / (255 if isinstance(copy, Image.Image) else 1))
        for how, copy in copies.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
