"""The film on the screen, in a real Chromium: window, zoom, place, map."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .conftest import dicom, png
from .page_tools import Page, canvas, read

#: Key H six times; after each, the coloured pixels of the canvas as the very next frame shows it.
TOGGLE = """async () => {
  const coloured = [];
  for (let press = 0; press < 6; press++) {
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'h', bubbles: true }));
    await new Promise(requestAnimationFrame);  // what the key put off to a frame comes before this
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) count += Math.abs(data[i] - data[i + 2]) > 8;
    coloured.push(count);
  }
  return coloured;
}"""


def test_the_map_comes_and_goes_in_one_frame_and_asks_nobody(page: Page) -> None:
    """How many milliseconds the frame takes is measured by benchmarks/page_speed.py."""
    read(page, dicom())
    page.keyboard.press("j")
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    coloured = page.evaluate(TOGGLE)
    page.context.set_offline(False)
    assert coloured[0::2] == [0, 0, 0] and min(coloured[1::2]) > 100, "the first of them takes the map away"
    assert asked == []


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
