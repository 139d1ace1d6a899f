"""The pictures of the documents: each has its state in the script, and what the script chooses and shrinks."""

from __future__ import annotations

import importlib
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("httpx")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("tour_pictures")


def test_each_picture_that_a_document_shows_is_taken_by_the_script(script: ModuleType) -> None:
    taken = {f"tour_{state.__name__}.png" for state in script.STATES}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    shown = {name for text in texts for name in re.findall(r"figures/([\w.]+\.png)", text)}
    kept = {path.name for path in (ROOT / "docs" / "figures").glob("tour_*.png")}
    assert taken == kept == {name for name in shown if name.startswith("tour_")}
    for name in kept:
        path = ROOT / "docs" / "figures" / name
        assert path.stat().st_size <= script.MAX_BYTES
        with Image.open(path) as picture:
            assert picture.size == (script.VIEW["width"], script.VIEW["height"])


def test_a_smaller_picture_has_the_greys_and_the_colours_of_the_page(script: ModuleType) -> None:
    pixels = np.zeros((64, 256, 3), np.uint8)
    pixels[:32] = np.arange(256, dtype=np.uint8)[None, :, None]  # a film
    pixels[32:48] = (26, 117, 133)  # a panel
    ramp = np.linspace(0, 1, 256)
    pixels[48:] = np.stack([68 + 185 * ramp, 1 + 230 * ramp, 84 - 47 * ramp], axis=-1)[None]  # a map's scale
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    found = np.asarray(Image.open(io.BytesIO(script.small(buffer.getvalue()))).convert("RGB")).astype(int)
    away = np.abs(found - pixels.astype(int))
    assert away[:32].max() <= 4 and (np.ptp(found[:32], axis=-1) == 0).mean() > 0.95
    assert away[32:48].max() == 0 and away[48:].max() <= 12


def film(script: ModuleType, present: str, flags: tuple[str, ...] = (), **high: float) -> Any:
    """A film on which findings were found, named by their first words."""
    observations = [
        {"name": name, "state": "present" if value > 0.5 else "uncertain", "probability": value, "side": "left"}
        for name, value in high.items()
    ]
    told = [{"code": "contradiction", "observation": name} for name in flags]
    explanation = {"observations": observations, "flags": told, "abstained": False}
    return importlib.import_module("tour_films").Read(explanation, frozenset(present.split()))


def test_a_film_is_chosen_by_what_was_said_of_it_and_what_is_known(script: ModuleType) -> None:
    films = importlib.import_module("tour_films")
    wrong = film(script, "Edema", Fracture=0.99)
    right = film(script, "Edema", Edema=0.7)
    doubted = film(script, "Edema Fracture", flags=("Edema",), Edema=0.9, Fracture=0.5)
    every = [wrong, right, doubted]
    assert films.best(every, films.sided, "a side") is right
    assert films.best(every, films.torn, "a contradiction") is doubted
    assert films.best(every, films.busy, "all of it") is doubted
    assert films.best(every, films.missed, "a miss") is doubted
    with pytest.raises(SystemExit, match="shows a contradiction"):
        films.best([wrong, right], films.torn, "a contradiction")
