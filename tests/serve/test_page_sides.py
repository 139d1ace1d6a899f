"""A film whose sides are in doubt, in a real Chromium: the page states none of them as fact."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from PIL import Image

from kdistill.explain.sides import SIDES_IN_DOUBT

from .conftest import Served, dicom, png
from .page_tools import opened, read


def mirrored_by_its_tags() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom()))
    dataset.PatientOrientation = ["R", "F"]
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_mirrored_film_has_sides_with_a_question_and_words_with_a_doubt(chromium: Any, served: Served) -> None:
    with opened(chromium, served.url) as page:
        for data, name, is_doubtful in ((mirrored_by_its_tags(), "turned.dcm", True), (dicom(), "plain.dcm", False)):
            read(page, data, name)
            page.wait_for_selector(f'.film-button[aria-current]:has-text("{name}")')
            page.click('#observations .row:has-text("Pleural Effusion")')
            assert page.inner_text("#mark-left") == ("R?" if is_doubtful else "R")
            assert page.inner_text("#report").count(SIDES_IN_DOUBT) == is_doubtful
            assert "left pleural effusion" in page.inner_text("#report").lower(), "what the model wrote is kept"
            place = page.inner_text("#caption")
            assert ("picture's right" in place) == is_doubtful and ("patient's left" in place) != is_doubtful
            own = page.inner_text(".headline") + page.inner_text("#observations") + place
            assert ("pleural effusion (left)" in own) != is_doubtful and (" left" in own) != is_doubtful


def test_the_list_tells_a_film_without_an_answer_from_one_that_was_read(chromium: Any, served: Served) -> None:
    turned = io.BytesIO()
    Image.open(io.BytesIO(png(side=400))).rotate(180).save(turned, format="PNG")
    with opened(chromium, served.url) as page:
        for data, name, state in ((turned.getvalue(), "turned.png", "no answer"), (png(), "plain.png", "read")):
            read(page, data, name)
            entry = page.locator(f'.film-button[aria-current]:has-text("{name}")')
            entry.wait_for()
            page.wait_for_function(
                "(state) => document.querySelector('[aria-current] .film-state').textContent === state", arg=state
            )
            assert entry.locator(".film-name").get_attribute("title") == name
            if state == "no answer":
                assert page.inner_text(".alerts") == "Why there is no answer"


def test_both_readings_fit_beside_each_other(chromium: Any, served: Served) -> None:
    for width in (1440, 1100):
        with opened(chromium, served.url, viewport={"width": width, "height": 900}) as page:
            page.check("#reader-first")
            page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": png()})
            page.wait_for_selector("#reader-form")
            page.click('button:has-text("Mark the rest absent")')
            page.click('button:has-text("Commit and compare")')
            page.wait_for_selector(".comparison")
            over = page.evaluate(
                "() => [...document.querySelectorAll('.row > span')].filter((part) => {"
                "  const words = document.createRange(); words.selectNodeContents(part);"
                "  return words.getBoundingClientRect().width > part.getBoundingClientRect().width + 0.5;"
                "}).map((part) => part.textContent)"
            )
            assert over == [], width
