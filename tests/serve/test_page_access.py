"""The reading room by keyboard, by screen reader, on narrow screens and with large letters, in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Served, chromium_path, dicom
from .page_tools import Page, axe, canvas, opened, settle, upload


def test_everything_by_keyboard(page: Page) -> None:
    def tab(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            style = page.evaluate(
                "() => { const e = document.activeElement;"
                "const s = getComputedStyle(e.id === 'file' ? e.parentNode : e);"
                "return [s.outlineStyle, s.outlineWidth]; }"
            )
            assert style[0] != "none" and style[1] != "0px", page.evaluate("() => document.activeElement.outerHTML")
            if page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    choosers: list[Any] = []
    page.on(
        "filechooser", lambda chooser: choosers.append(chooser)
    )  # before any key: Chromium has to know that the dialog is taken over
    tab("#file")
    settle(page)
    page.keyboard.press("Enter")
    for _ in range(200):
        if choosers:
            break
        page.wait_for_timeout(50)
    choosers[0].set_files({"name": "film.dcm", "mimeType": "application/dicom", "buffer": dicom()})
    page.wait_for_selector(".headline")
    tab("#stage")
    tab(".row")
    page.keyboard.press("End")
    assert page.evaluate("() => document.activeElement.innerText").startswith("Support Devices")
    assert page.get_attribute(".row >> nth=13", "aria-pressed") == "true"
    page.keyboard.press("k")
    assert page.get_attribute(".row >> nth=12", "aria-pressed") == "true"
    tab(".sentence")
    assert page.locator(".row.glimpsed").count() == 1
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    before = canvas(page)
    page.keyboard.press("i")
    assert np.array_equal(canvas(page), before)  # single keys are switched off


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_the_way(chromium: Any, served: Served, scheme: str) -> None:
    with opened(chromium, served.url, color_scheme=scheme) as page:
        assert axe(page) == []
        page.check("#reader-first")
        upload(page, dicom())
        page.wait_for_selector("#reader-form")
        assert axe(page) == []
        page.click('button:has-text("Mark the rest absent")')
        page.click('button:has-text("Commit")')
        page.wait_for_selector(".headline")
        for summary in page.locator("summary").all():
            summary.click()
        page.click('.row:has-text("Pleural Effusion")')
        assert axe(page) == []
        # Columns scroll, the page does not: the notice at its top stays.
        assert page.evaluate("() => document.documentElement.scrollHeight <= window.innerHeight")
        upload(page, b"no film", "notes.txt")
        page.wait_for_selector("#problem:not([hidden])")
        page.keyboard.press("?")
        assert axe(page) == []


def test_narrow_screens_and_still_ones(chromium: Any, served: Served) -> None:
    with opened(chromium, served.url, viewport={"width": 390, "height": 800}, reduced_motion="reduce") as page:
        served.reader.go.clear()
        upload(page, dicom())
        page.wait_for_selector(".busy")
        assert (
            page.evaluate("() => getComputedStyle(document.querySelector('.busy'), '::before').animationName") == "none"
        )
        served.reader.go.set()
        page.wait_for_selector(".headline")
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
        page.select_option("#theme", "light")
        light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        page.select_option("#theme", "dark")
        assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light


LAYOUT = """() => {
  const box = (id) => document.getElementById(id).getBoundingClientRect();
  const cut = [...document.querySelectorAll("button, label, select, input, legend, .row span, .headline, h2, dd")]
    .filter((node) => node.checkVisibility() && !node.closest(".heard, .worklist") && !node.matches(".heard"))
    .filter((node) => {
      const { left, right, width } = node.getBoundingClientRect();
      return width > 1 && (left < -1 || right > innerWidth + 1);
    });
  return { across: document.documentElement.scrollWidth <= innerWidth, stage: [box("stage").width, box("stage").height],
    cut: cut.map((node) => node.outerHTML.slice(0, 80)) };
}"""


def fits(page: Page) -> None:
    """Nothing stands outside the window, and the film is large enough to be looked at."""
    found = page.evaluate(LAYOUT)
    assert found["across"] and found["cut"] == [] and min(found["stage"]) >= 200, found


@pytest.mark.parametrize(
    "letters",
    [
        pytest.param(16, id="800 px", marks=pytest.mark.slow),  # whatever fits with the larger letters fits here
        pytest.param(32, id="letters of twice the size"),
    ],
)
def test_narrow_windows_and_large_letters(chromium: Any, served: Served, tmp_path: Path, letters: int) -> None:
    """The browser's own size of letters, not its zoom: lengths and breakpoints have to follow it."""
    settings = tmp_path / "Default" / "Preferences"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"webkit": {"webprefs": {"default_font_size": letters}}}))
    path = chromium_path()
    with chromium.browser_type.launch_persistent_context(
        tmp_path, executable_path=path, viewport={"width": 800, "height": 700}
    ) as context:
        page = context.pages[0]
        page.set_default_timeout(180_000)
        page.goto(served.url)
        page.wait_for_selector("#desk:not([hidden])")
        assert page.evaluate("() => getComputedStyle(document.body).fontSize") == f"{letters * 15 / 16:g}px"
        page.check("#reader-first")
        upload(page, dicom())
        page.wait_for_selector("#reader-form")
        fits(page)
        page.click('button:has-text("Mark the rest absent")')
        page.click('button:has-text("Commit")')
        page.wait_for_selector(".headline")
        page.click('.row:has-text("Pleural Effusion")')
        fits(page)
        page.set_viewport_size({"width": 1280, "height": 800})
        fits(page)
