"""How often is the shipped quality gate wrong? Good films refused, bad images let through, letters seen.

    python benchmarks/quality_figures.py ../shared/data [--photos DIR] [--ct cxr.nii.gz]

Only test patients (benchmarks/quality_films.py) and, from elsewhere, all of the COVID-19 Image Data Collection; good
films at their full stored size (at most 512 px), spoiled ones at 256. `--photos` takes a folder of photographs,
`--ct` the volume of quality_ct.py: both are measured only if given. Intervals: Wilson's 95%, films as if independent.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import quality_kinds as kinds
from PIL import Image
from quality_ct import Body
from quality_films import EXTERNAL_SET, FRONTAL_SETS, NOT_CHEST_SETS, Film, read_films, shrink
from quality_lettering import lettering_rows
from quality_samples import BODIES
from quality_shares import Share

from kdistill.studies.images import read_grey
from kdistill.studies.quality.assess import Quality, assess

Rng = np.random.Generator
Grey = np.ndarray

FULL_PX: Final = 512
SPOILED_PX: Final = 256
#: Spoiled films of each kind and of each set at most, so that no set decides the figure alone.
PER_SET: Final = 25
NUM_DRAWN: Final = 40


def dimmed(film: Grey, rng: Rng) -> Grey:
    """Over-exposed: what is darker than the film's 45th to 70th percentile is black."""
    low = np.percentile(film, rng.uniform(45, 70))
    return np.clip((film - low) / (film.max() - low + 1e-6), 0, 1)


def blown(film: Grey, rng: Rng) -> Grey:
    """Under-exposed: what is brighter than the film's 30th to 55th percentile is white."""
    return np.clip(film / (np.percentile(film, rng.uniform(30, 55)) + 1e-6), 0, 1)


#: kind -> (how a good film is spoiled, what the gate should call it; None: any refusal is right)
SPOILED: Final[Mapping[str, tuple[Callable[[Grey, Rng], Grey], str | None]]] = MappingProxyType(
    {
        "turned 90 left": (lambda film, rng: np.rot90(film, 1), "turned_left"),
        "turned 180": (lambda film, rng: np.rot90(film, 2), "upside_down"),
        "turned 90 right": (lambda film, rng: np.rot90(film, 3), "turned_right"),
        "flipped top to bottom": (lambda film, rng: film[::-1], "upside_down"),
        "inverted": (lambda film, rng: 1 - film, "inverted"),
        "inverted and turned": (lambda film, rng: 1 - np.rot90(film, int(rng.integers(1, 4))), "inverted"),
        "photograph (simulated)": (lambda film, rng: kinds.photographed(film, rng, 300), "photograph"),
        "piece of a film": (kinds.piece, "not_frontal_chest"),
        "tiles in another order": (kinds.tiles, "not_frontal_chest"),
        "over-exposed": (dimmed, "too_dark"),
        "under-exposed": (blown, "too_bright"),
        "noise of 0.5 added": (lambda film, rng: np.clip(film + rng.normal(0, 0.5, film.shape), 0, 1), "noise"),
        "faint (6% of the range)": (lambda film, rng: 0.4 + 0.06 * film, "low_contrast"),
    }
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--ct", type=Path)
    arguments = parser.parse_args()
    films = read_films(arguments.data, FULL_PX, ("test",))
    good = [film for film in films if film.set in (*FRONTAL_SETS, EXTERNAL_SET)]
    found = [assess(film.grey) for film in good]
    tables = {
        "good films refused": refused(good, found),
        "bad images let through": let_through(films, good, arguments),
        "mirrored": mirrored(good),
        "lettering": lettering_rows(good, found),
        "time of a call": [("ms of CPU, median of 40 films", f"{milliseconds(good):.1f}")],
    }
    for title, rows in tables.items():
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:<34}{value}", flush=True)


def refused(good: list[Film], found: list[Quality]) -> Iterator[tuple[str, str]]:
    """Good films of each set that are refused, and as what."""
    for name in (*FRONTAL_SETS, EXTERNAL_SET):
        of_set = [film for film in good if film.set == name]
        judged_ones = [(film, quality) for film, quality in zip(good, found, strict=True) if film.set == name]
        wrong = [(film.name, quality) for film, quality in judged_ones if not quality.is_usable]
        patients = len({film.patient for film in of_set})
        taken = Counter(flag.kind for _, quality in wrong for flag in quality.flags if flag.refuses)
        yield name, f"{Share(len(wrong), len(of_set))}, {patients} patients; taken for {dict(taken)}"


def let_through(films: list[Film], good: list[Film], arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Bad images of each kind that are found usable, and how many are called by their name."""
    few = [film for name in (*FRONTAL_SETS, EXTERNAL_SET) for film in few_of(good, name)]
    for kind, (spoil, called) in SPOILED.items():
        pictures = (spoil(film.grey, np.random.default_rng([7, n])) for n, film in enumerate(few))
        yield kind, judged(pictures, called)
    for name in NOT_CHEST_SETS:
        yield name, judged((film.grey for film in films if film.set == name), "not_frontal_chest")
    for kind, draw in kinds.PICTURES.items():
        drawn = (draw(np.random.default_rng([8, n]), 256) for n in range(NUM_DRAWN))
        yield f"drawn: {kind}", judged(drawn, None)
    for kind, body in BODIES.items():
        drawn = (body(np.random.default_rng([9, n])) for n in range(NUM_DRAWN))
        yield f"drawn: {kind}", judged(drawn, "not_frontal_chest")
    yield "extremity (DICOM RG3)", judged([read_grey(arguments.data / "cxr_dicom" / "RG3_J2KI.dcm")], None)
    if arguments.photos:
        yield "photographs", judged(photographs(arguments.photos), "not_frontal_chest")
    if arguments.ct:
        yield from projections(Body(arguments.ct))


def few_of(good: list[Film], name: str) -> list[Film]:
    """At most `PER_SET` films of a set, spread over it, at most 256 pixels large."""
    of_set = [film for film in good if film.set == name]
    few = of_set[:: max(1, len(of_set) // PER_SET)][:PER_SET]
    return [film._replace(pixels=shrink(film.grey, SPOILED_PX)) for film in few]


def judged(pictures: Iterable[Grey], called: str | None) -> str:
    """The share that is found usable, and the share that is called what it is."""
    found = [assess(np.ascontiguousarray(picture, dtype=np.float32)) for picture in pictures]
    named = sum(any(flag.kind == called for flag in quality.flags) for quality in found)
    text = str(Share(sum(quality.is_usable for quality in found), len(found)))
    return text if called is None else f"{text}; called {called}: {named}"


def photographs(folder: Path) -> Iterator[Grey]:
    """Every picture below a folder, in grey."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png")):
        image = Image.open(path)
        if min(image.size) >= 64:
            yield shrink(np.asarray(image.convert("L"), dtype=np.float32) / 255, FULL_PX).astype(np.float32) / 255


def projections(body: Body) -> Iterator[tuple[str, str]]:
    """One CT from several directions; frontal ones should pass (share passed = 1 - share refused)."""
    views = {"frontal": (-6, 0, 6), "lateral": (80, 90, 100, 260, 270, 280), "oblique 45": (40, 50, -40, -50)}
    for name, angles in views.items():
        pictures = [film for angle in angles for film in body.project(angle, (0.1, 0.2, 0.3))]
        yield f"CT projected: {name}", judged(pictures, None if name == "frontal" else "not_frontal_chest")


def mirrored(good: list[Film]) -> Iterator[tuple[str, str]]:
    """Films as they are and mirrored: how many are called mirrored, and the area under the curve."""
    from sklearn.metrics import roc_auc_score

    for name in (*FRONTAL_SETS, EXTERNAL_SET):
        of_set = [film for film in good if film.set == name]
        as_is = [assess(film.grey) for film in few_of(of_set, name)]
        turned = [assess(np.ascontiguousarray(film.grey[:, ::-1])) for film in few_of(of_set, name)]
        scores = [quality.score("mirrored") for quality in as_is + turned]
        area = roc_auc_score([0] * len(as_is) + [1] * len(turned), scores)
        yield name, f"AUC {area:.3f}; warned as it is {raised(as_is)}, mirrored {raised(turned)}"


def raised(found: list[Quality]) -> Share:
    """How many are called mirrored."""
    return Share(sum(any(f.kind == "mirrored" for f in quality.flags) for quality in found), len(found))


def milliseconds(good: list[Film]) -> float:
    """CPU time of one call on films of 512 pixels."""
    times = []
    for film in [film for film in good if film.set == "nih"][:40]:
        grey, start = film.grey, time.process_time()
        assess(grey)
        times.append(1000 * (time.process_time() - start))
    return float(np.median(times))


if __name__ == "__main__":
    main()
