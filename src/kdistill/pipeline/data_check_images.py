"""What `data check` says of images: every one is read once; a hash, a small print and its size are kept of it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from kdistill.errors import InputError
from kdistill.explain.pictures import png_uri
from kdistill.pipeline.data_check_places import listed
from kdistill.records import Study
from kdistill.studies.decoding import Decoded, DecoderPool
from kdistill.studies.images import to_square
from kdistill.studies.near_duplicates import SIDE_PX, fingerprint, near_pairs
from kdistill.studies.quality.assess import Quality, assess
from kdistill.studies.quality.summary import raised_checks
from kdistill.studies.sources.common import SourceStudy

#: Images of each split on the page, drawn with a fixed seed, and their side.
SHEET_IMAGES: Final = 24
_SHEET_PX: Final = 144
_SEED: Final = 0
_FEW: Final = 10
#: Children that decode; what is found does not depend on their number.
_PROCESSES: Final = 2


class SeenImage(NamedTuple):
    """A readable image: whose, where it stands, and a hash of its pixels."""

    study: Study
    place: str
    digest: str


@dataclass
class ImageFacts:
    """What reading all images gave. `prints` is uint8 [N, 64, 64], a row for each of `seen`."""

    count: int = 0
    seen: list[SeenImage] = field(default_factory=list)
    prints: np.ndarray = field(default_factory=lambda: np.empty((0, SIDE_PX, SIDE_PX), dtype=np.uint8))
    unusable: dict[str, str] = field(default_factory=dict)
    unusable_paths: set[str] = field(default_factory=set)
    unusable_places: list[str] = field(default_factory=list)
    sizes: list[tuple[str, str]] = field(default_factory=list)
    formats: list[tuple[str, str]] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    qualities: list[tuple[str, Quality]] = field(default_factory=list)
    sheet: dict[str, tuple[str, ...]] = field(default_factory=dict)


class DuplicateFindings(NamedTuple):
    """Sentences on images that are the same film."""

    leaks: list[str]
    warnings: list[str]


def read_images(
    items: list[SourceStudy],
    places: dict[str, str],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    require_chest: Sequence[bool] | None = None,
) -> ImageFacts:
    """Read every image of every study, in order; memory is 4 kB an image.

    Args:
        items: The studies.
        places: Image path -> where it stands in its table.
        on_progress: Called with (done, total).
        require_chest: For each study its source's own setting; all True where nothing is said.
    """
    facts = ImageFacts()
    total = sum(len(item.images) for item in items)
    prints = np.empty((total, SIDE_PX, SIDE_PX), dtype=np.uint8)
    on_sheet = _sample(items)
    pictures: dict[str, list[str]] = {}
    listed_images = [(number, item, image) for number, item in enumerate(items) for image in item.images]
    decoded = _decoded([(image.path, not require_chest or require_chest[number]) for number, _, image in listed_images])
    for (number, item, image), found in zip(listed_images, decoded, strict=True):
        facts.count += 1
        place = places[str(image.path)]
        if on_progress:
            on_progress(facts.count, total)
        if isinstance(found, InputError):
            _reject(facts, image.path, place, found)
            continue
        prints[len(facts.seen)] = fingerprint(found.pixels)
        facts.qualities.append((place, assess(found.pixels)))
        _note(facts, item.study, image.path, place, found)
        if number in on_sheet and image is item.images[0]:
            pictures.setdefault(item.study.split, []).append(png_uri(to_square(found.pixels, _SHEET_PX)))
    facts.prints = prints[: len(facts.seen)]
    facts.sheet = {split: tuple(found) for split, found in pictures.items()}
    return facts


def _decoded(files: Sequence[tuple[Path, bool]]) -> Iterator[Decoded | InputError]:
    """Each file in order; neighbours with the same setting share their children."""
    for chest, group in groupby(files, key=lambda file: file[1]):
        with DecoderPool(_PROCESSES, require_chest=chest) as pool:
            yield from pool.map(path for path, _ in group)


def _sample(items: list[SourceStudy]) -> set[int]:
    """Numbers of the studies whose first image is shown: up to 24 a split, the same at every call."""
    rng = np.random.default_rng(_SEED)
    chosen: set[int] = set()
    for split in ("train", "validate", "test"):
        here = [number for number, item in enumerate(items) if item.study.split == split]
        chosen.update(rng.permutation(here)[:SHEET_IMAGES].tolist())
    return chosen


def _reject(facts: ImageFacts, path: Path, place: str, error: InputError) -> None:
    shown = place if place not in facts.unusable else f"{place}, image {facts.count}"
    facts.unusable[shown] = error.what  # by its place: a file's name may hold a patient's
    facts.unusable_paths.add(str(path))
    facts.unusable_places.append(place)


def _note(facts: ImageFacts, study: Study, path: Path, place: str, found: Decoded) -> None:
    facts.seen.append(SeenImage(study, place, found.pixel_sha256))
    height, width = found.shape
    facts.shapes.append((height, width))
    facts.sizes.append((study.split, f"{width} x {height}"))
    facts.formats.append((study.split, _format(path)))


def _format(path: Path) -> str:
    """File format and bit depth, by content."""
    try:
        with Image.open(path) as image:
            depth = {"1": 1, "L": 8, "LA": 8, "P": 8}.get(image.mode, 16 if image.mode.startswith("I") else 8)
            colours = " in three equal colours" if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr") else ""
            return f"{image.format}, {depth} bit{colours}"
    except (OSError, ValueError):
        return _dicom_format(path)


def _dicom_format(path: Path) -> str:
    """The file was decoded before, so it is DICOM and whole."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["BitsStored"], force=True)
    return f"DICOM, {int(dataset.get('BitsStored') or 0)} bit"


def duplicate_findings(facts: ImageFacts) -> DuplicateFindings:
    """Equal pixels and the same film (see `near_duplicates`) under two studies; a leak where the splits differ."""
    found = DuplicateFindings([], [])
    within: dict[str, list[str]] = {}
    for first, second, words in [*_equal(facts), *_near(facts)]:
        if first.study.split == second.study.split:
            within.setdefault(words, []).append(f"{first.place} and {second.place}")
        else:
            found.leaks.append(f"{first.place} ({first.study.split}) and {second.place} ({second.study.split}) {words}")
    for words, pairs in within.items():
        more = " ..." if len(pairs) > _FEW else ""
        found.warnings.append(
            f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} of images of different studies {words}: "
            f"{'; '.join(pairs[:_FEW])}{more}"
        )
    return found


def _equal(facts: ImageFacts) -> list[tuple[SeenImage, SeenImage, str]]:
    """Each image whose pixels stood before under another study, with the first that has them."""
    first: dict[str, SeenImage] = {}
    pairs = []
    for image in facts.seen:
        known = first.setdefault(image.digest, image)
        if known.study.study_id != image.study.study_id:
            pairs.append((known, image, "have equal pixels"))
    return pairs


def _near(facts: ImageFacts) -> list[tuple[SeenImage, SeenImage, str]]:
    words = {
        "same": "show the same film in two exports",
        "inverted": "show the same film, one of them inverted",
        "mirrored": "show the same film, one of them mirrored",
    }
    pairs = []
    for row, other, relation, _ in near_pairs(facts.prints):
        first, second = facts.seen[row], facts.seen[other]
        if first.study.study_id != second.study.study_id and first.digest != second.digest:
            pairs.append((first, second, words[relation]))
    return pairs


def image_warnings(facts: ImageFacts, size_px: int) -> list[str]:
    """Sentences on files that cannot be used, on small images, and on splits that differ in file format."""
    found = []
    if facts.unusable_places:
        found.append(
            f"{len(facts.unusable_places)} of {facts.count} images are missing or cannot be used: "
            f"{listed(facts.unusable_places)}"
        )
    small = sum(min(shape) < size_px for shape in facts.shapes)
    if small:
        found.append(f"{small} of {len(facts.shapes)} images have a side below the {size_px} pixels of the student")
    return [*found, *_quality_warnings(facts.qualities), *_format_shift(facts)]


def _quality_warnings(qualities: list[tuple[str, Quality]]) -> list[str]:
    """What the quality gate says, with the films of which it says it."""
    total = len(qualities)
    return [
        f"{len(films)} of {total} readable images: {kind.replace('_', ' ')}. {text} "
        f"Seen in {listed(list(dict.fromkeys(films)))}"
        for kind, text, films in raised_checks(qualities)
    ]


def _format_shift(facts: ImageFacts) -> list[str]:
    """A format that one split has and another has not: the model can tell the splits' origins apart."""
    counts = Counter(facts.formats)
    splits = sorted({split for split, _ in counts}, reverse=True)
    found = []
    for form in sorted({form for _, form in counts}):
        shares = {s: counts[s, form] / sum(n for (split, _), n in counts.items() if split == s) for s in splits}
        if max(shares.values()) - min(shares.values()) > 0.2:
            text = ", ".join(f"{share:.0%} of {split}" for split, share in shares.items())
            found.append(f"file formats differ between the splits: {form} is {text}")
    return found
