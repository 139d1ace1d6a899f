"""Lettering burned into real films: seen when it is there, not seen where only a marker is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from quality_films import EXTERNAL_SET, FRONTAL_SETS, Film
from quality_shares import Share

from kdistill.studies.quality.assess import MANY_LETTERS, Quality
from kdistill.studies.quality.lettering import count_letters

Rng = np.random.Generator

_LINES: Final = (
    "MUSTERFRAU, ANNA  14.03.1951",
    "DOE JOHN 1962-07-30 M",
    "St Elsewhere General Hospital",
    "Report: normal",
)
_MARKS: Final = ("R", "L", "PORT", "AP", "ERECT", "SUPINE")
#: Height of the letters on a film of 512 pixels.
HEIGHTS_PX: Final = (8, 10, 12, 16, 24)
NUM_WRITTEN: Final = 60


def written(film: np.ndarray, lines: tuple[str, ...], height_px: int, rng: Rng) -> np.ndarray:
    """White or black lettering in a corner, in Pillow's own font at about `height_px` for a capital letter."""
    picture = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(round(height_px / 0.72))
    width = max(draw.textlength(line, font=font) for line in lines)
    left = int(rng.choice([6, max(6, picture.width - width - 6)]))
    tall = round(1.5 * height_px)
    top = int(rng.choice([6, picture.height - tall * len(lines) - 6]))
    white = rng.random() < 0.8
    for number, line in enumerate(lines):
        draw.text((left, top + number * tall), line, font=font, fill=255 if white else 0)
    return np.asarray(picture, dtype=np.float32) / 255


def lettering_rows(good: list[Film], found: list[Quality]) -> Iterator[tuple[str, str]]:
    """(what, how many are warned of) for films as they are, with a marker, and with two lines written on them."""
    for name in (*FRONTAL_SETS, EXTERNAL_SET):
        scores = [q.score("burned_in_text") for film, q in zip(good, found, strict=True) if film.set == name]
        yield f"as it is: {name}", str(Share(sum(score >= 0.5 for score in scores), len(scores)))
    clean = [f.grey for f, q in zip(good, found, strict=True) if _is_clean(f, q)]
    clean = clean[:: max(1, len(clean) // NUM_WRITTEN)][:NUM_WRITTEN]
    rng = np.random.default_rng(3)
    yield "a marker added", seen([written(film, (str(rng.choice(_MARKS)),), 18, rng) for film in clean])
    for height in HEIGHTS_PX:
        lines = [tuple(rng.choice(_LINES, 2, replace=False)) for _ in clean]
        pictures = [written(film, line, height, rng) for film, line in zip(clean, lines, strict=True)]
        yield f"two lines, capitals {height} px", seen(pictures)


def _is_clean(film: Film, quality: Quality) -> bool:
    return film.set in ("nih", "hannover") and quality.score("burned_in_text") == 0


def seen(films: list[np.ndarray]) -> str:
    """How many films are warned of."""
    return str(Share(sum(count_letters(film) >= MANY_LETTERS for film in films), len(films)))
