"""The film on the screen, in a real Chromium: window, zoom, place, map."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .conftest import dicom, png
from .page_tools import Page, canvas, read


def test_the_map_comes_and_goes_within_a_tenth_of_a_second(page: Page) -> None:
    read(page, dicom())
    page.keyboard.press("j")
    took = page.evaluate(
        "() => { const key = () => document.dispatchEvent(new KeyboardEvent('keydown', {key: 'h', bubbles: true}));"
        "const at = performance.now(); for (let i = 0; i < 10; i++) document.body.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'h', bubbles: true})); return (performance.now() - at) / 10; }"
    )
    assert took < 100


def test_the_window_moves_at_full_depth(page: Page) -> None:
    read(page, dicom())
    first = canvas(page)
    assert page.input_value("#centre") == "2000" and page.input_value("#width") == "3000"
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40)
    page.mouse.up()
    dragged = canvas(page)
    assert float(page.input_value("#width")) > 3000 and float(page.input_value("#centre")) < 2000
    assert dragged.mean() > first.mean()
    page.fill("#centre", "1500")
    page.fill("#width", "180")
    page.press("#width", "Enter")
    narrow = canvas(page)
    # 8-bit values would leave 180 / 14 = 13 greys of the file's own; interpolation adds few between black and white.
    inner = narrow[(narrow[..., 0] > 0) & (narrow[..., 0] < 255)][:, 0]
    assert len(np.unique(inner)) > 100
    page.focus("#stage")
    for key in "aws":
        before = canvas(page)
        page.keyboard.press(key)
        assert not np.array_equal(canvas(page), before), key
    page.keyboard.press("r")
    assert np.array_equal(canvas(page), first)
    page.keyboard.press("i")
    inverted = canvas(page)
    inside = (slice(200, 400), slice(300, 400))
    assert np.array_equal(255 - inverted[inside], first[inside])


def test_one_to_one_shows_the_films_own_pixels(page: Page) -> None:
    read(page, png(side=160), "film.png")
    page.keyboard.press("1")
    shown = canvas(page)[..., 0]
    top, left = (shown.shape[0] - 160) // 2, (shown.shape[1] - 160) // 2
    source = np.asarray(Image.open(io.BytesIO(png(side=160))))
    found = [shown[top + y : top + y + 160, left + x : left + x + 160] for y in (0, 1) for x in (0, 1)]
    assert min(int(np.abs(cut.astype(int) - source).max()) for cut in found if cut.shape == source.shape) <= 1


def test_zoom_goes_to_the_pointer_and_the_film_stays_in_sight(page: Page) -> None:
    read(page, dicom())
    first = canvas(page)
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    there = page.inner_text("#corner-name").rpartition("at ")[2]
    page.mouse.wheel(0, -400)
    zoomed = canvas(page)
    page.mouse.move(box["x"] + 301, box["y"] + 300)
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    assert page.inner_text("#corner-name").rpartition("at ")[2] == there and not np.array_equal(zoomed, first)
    page.focus("#stage")
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    assert canvas(page).max() > 0
    page.keyboard.press("0")
    assert np.array_equal(canvas(page), first)
