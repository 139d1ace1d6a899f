"""A film whose sides are in doubt, in a real Chromium: the page states none of them as fact."""

from __future__ import annotations

import io
from typing import Any

import pydicom

from kdistill.explain.sides import SIDES_IN_DOUBT

from .conftest import Serve, dicom
from .page_tools import opened, read


def mirrored_by_its_tags() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom()))
    dataset.PatientOrientation = ["R", "F"]
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_mirrored_film_has_sides_with_a_question_and_words_with_a_doubt(chromium: Any, serve: Serve) -> None:
    with serve() as served, opened(chromium, served.url) as page:
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
