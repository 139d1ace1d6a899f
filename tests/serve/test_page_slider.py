"""The slider of the counterfactuals in the page, in a real Chromium: the film on show is the one that was read."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdistill.serve.jobs import Model

from .conftest import PageReader, Serve, png
from .page_tools import Page, canvas, opened, read, settle


def tall_png() -> bytes:
    """A film that is not square: the model reads it, and the slider's pictures show it, with bars on both sides."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(side=320))).crop((25, 0, 295, 320)).save(buffer, format="PNG")
    return buffer.getvalue()


def slide(page: Page, step: int) -> None:
    page.evaluate(
        "(step) => { const slider = document.getElementById('cf-slider');"
        "slider.focus(); slider.value = step; slider.dispatchEvent(new Event('input')); }",
        step,
    )


def asked(page: Page) -> None:
    page.select_option("#cf-choice", "occluded/Pleural Effusion")
    page.click(".cf-start")
    page.wait_for_selector(".cf-result")


def test_nothing_that_comes_late_takes_the_place_of_what_the_slider_shows(
    chromium: Any, serve: Serve, tmp_path: Path
) -> None:
    with serve(feedback=tmp_path / "said.sqlite") as served, opened(chromium, served.url) as page:
        read(page, tall_png(), "film.png")
        page.fill("#width", "180")
        page.press("#width", "Enter")
        page.focus("#stage")
        for _ in range(3):
            page.keyboard.press("+")
        page.wait_for_selector(".fb-item")
        asked(page)
        own = canvas(page)
        late: list[Any] = []
        page.route("**/pixels*", lambda route: late.append(route))
        slide(page, 1)
        page.wait_for_selector('#film-note:has-text("altered")')
        assert not page.locator(".fb-item").first.is_visible()  # a word now would be kept as one about the film
        page.fill("#centre", "128")  # the altered picture in the film's own window, to compare them
        page.fill("#width", "180")
        page.press("#width", "Enter")
        near = np.abs(canvas(page).astype(int) - own.astype(int)).mean()
        assert near < 10, "the film must not move under the slider"
        slide(page, 0)
        slide(page, 5)
        page.wait_for_selector('#corner-size:has-text("8 bits only")')
        settle(page)
        altered = canvas(page)
        for route in late:
            route.continue_()
        page.wait_for_timeout(300)
        assert "altered" in page.inner_text("#film-note") and np.array_equal(canvas(page), altered)
        slide(page, 0)
        settle(page)
        assert page.input_value("#width") == "180"
        assert np.abs(canvas(page).astype(int) - own.astype(int)).max() <= 1
        assert not page.locator("#film-note").is_visible() and page.locator(".fb-item").first.is_visible()


class Other(PageReader):
    name = "template, seed 0 (def)"


def test_every_answer_is_named_after_its_own_model(chromium: Any, serve: Serve) -> None:
    with serve() as served, opened(chromium, served.url) as page:
        read(page, png(1), "one.png")
        served.jobs.swap(Model(Other(), replace(served.jobs.context, model=Other.name)))
        page.select_option("#cf-choice", "occluded/Pleural Effusion")
        page.click(".cf-start")
        page.wait_for_function("() => document.querySelector('.cf-problem').textContent !== ''")
        assert "Another model answers by now" in page.inner_text(".cf-problem")
        assert not page.locator(".cf-result").is_visible()
        assert page.inner_text("#model") == PageReader.name
        read(page, png(2), "two.png")
        page.wait_for_function("(name) => document.getElementById('model').textContent === name", arg=Other.name)
        page.click('.film-button:has-text("one.png")')
        page.wait_for_function("(name) => document.getElementById('model').textContent === name", arg=PageReader.name)
        page.click("#provenance summary")
        assert PageReader.name in page.inner_text("#provenance")
