"""The reading room in a real Chromium: a film, its answer, the reader who goes first, and where there is none."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Serve, dicom, png
from .page_tools import Page, axe, canvas, colourful, opened, read, upload


@pytest.mark.parametrize(("data", "name"), [(dicom(), "film.dcm"), (png(), "film.png")], ids=["DICOM", "PNG"])
def test_a_film_is_read(page: Page, data: bytes, name: str) -> None:
    read(page, data, name)
    assert "Abnormal: pleural effusion (left)" in page.inner_text(".headline")
    assert "Indeterminate: cardiomegaly" in page.inner_text(".headline")
    rows = page.locator(".row")
    assert rows.count() == 14 and "0.93" in rows.nth(10).inner_text() and "high" in rows.nth(10).inner_text()
    assert [page.locator(f".row.{state}").count() for state in ("present", "uncertain", "absent")] == [1, 1, 12]
    assert "There is a left pleural effusion." in page.inner_text("#report")
    page.click(".source summary")
    told = page.inner_text(".source")
    assert "Signs of pleural fluid (2014) · PMID 24" in told and "Blunting of the lateral" in told
    assert page.inner_text("#mark-left") == "R" and page.inner_text("#mark-right") == "L"
    assert page.locator("#exports a").count() == (6 if name.endswith("dcm") else 4)
    assert len(np.unique(canvas(page))) > 100 and colourful(canvas(page)) == 0


def test_a_finding_its_map_and_its_sentences_belong_together(page: Page) -> None:
    read(page, dicom())
    plain = canvas(page)
    page.click('.row:has-text("Pleural Effusion")')
    effusion = canvas(page)
    assert colourful(effusion) > 1000
    ys, xs = np.nonzero(np.ptp(effusion.astype(int), axis=-1) > 40)
    assert xs.mean() > effusion.shape[1] / 2 and ys.mean() > effusion.shape[0] / 2  # lower, on the patient's left
    assert "patient's left" in page.inner_text("#caption") and "8 × 8 cells" in page.inner_text("#caption")
    assert "left pleural effusion" in page.inner_text(".sentence.active >> nth=0").lower()
    page.keyboard.press("c")
    assert not np.array_equal(canvas(page), effusion)
    page.keyboard.press("c")
    page.keyboard.press("h")
    assert np.array_equal(canvas(page), plain)
    page.hover('.sentence:has-text("Blunting")')
    assert np.array_equal(canvas(page), effusion) and page.locator(".row.glimpsed").count() == 1
    page.hover("h1")
    assert np.array_equal(canvas(page), plain)


def test_a_sentence_of_the_report_leads_to_its_findings_and_back(chromium: Any, serve: Serve) -> None:
    with serve() as served, opened(chromium, served.url) as page:
        served.reader.findings = "There is a left pleural effusion.\nNo edema or pleural effusion. The ribs are whole."
        read(page, dicom())
        chosen = "[aria-pressed='true'] .name"
        assert page.text_content("#report dd >> nth=0").replace(" (contradicted) ", "") == served.reader.findings
        assert page.locator("#report .sentence").count() == 3  # the ribs are no finding of the fourteen
        page.click("#report .sentence >> nth=0")
        assert page.inner_text(f".row{chosen}").startswith("Pleural Effusion") and colourful(canvas(page)) > 1000
        assert page.locator("#report .sentence.active").count() == 3
        for name in ("Edema", "Pleural Effusion"):  # the sentence names both
            page.click("#report .sentence >> nth=1")
            assert page.inner_text(f".row{chosen}").startswith(name)
        page.click('.row:has-text("Edema")')
        assert page.locator("#report .sentence.active").all_text_contents() == [
            "No edema or pleural effusion. (contradicted) "
        ]
        assert page.locator("#report .sentence.torn").count() == 2
        assert "The report contradicts itself" in page.inner_text("#report .objection")
        assert page.locator('.row:has-text("Pleural Effusion") .doubt').count() == 1
        assert axe(page) == []
        page.goto(served.url + page.get_attribute('#exports a:has-text("HTML")', "href"))
        for name in ("Edema", "Pleural Effusion"):
            page.click(".says >> nth=1")
            assert page.inner_text(f"#observations .row{chosen}").startswith(name)
            assert page.locator(".overlay:not([hidden])").get_attribute("alt") == f"Evidence map of {name}"
        assert page.locator(".says.active").count() == 3
        page.click('#observations .row:has-text("Edema")')
        assert page.locator(".says.active").all_inner_texts() == ["No edema or pleural effusion."]
        assert page.locator(".says.torn").count() == 2 and page.locator(".objection").is_visible()


def test_an_upside_down_film_states_nothing(page: Page) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(side=400))).rotate(180).save(buffer, format="PNG")
    read(page, buffer.getvalue(), "turned.png")
    assert page.inner_text(".headline").startswith("No answer.") and page.locator(".row").count() == 0
    assert "effusion" not in page.inner_text("body").lower() and "0.93" not in page.inner_text("body")
    assert page.inner_text("#mark-left") == "R?"
    page.keyboard.press("h")
    assert colourful(canvas(page)) == 0


def test_the_model_is_silent_until_the_reader_commits(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.check("#reader-first")
    upload(page, dicom())
    page.wait_for_selector("#reader-form")
    page.keyboard.press("h")
    assert colourful(canvas(page)) == 0
    assert "0.93" not in page.inner_text("body") and "There is a left" not in page.content()
    assert not any("/v1/results/" in url and "/pixels" not in url for url in asked)
    assert page.locator("fieldset").count() == 14
    page.check("#mark-10-absent")
    page.check("#mark-2-uncertain")
    page.click('button:has-text("Commit")')
    assert page.locator("#reader-form").count() == 1  # twelve marks are missing
    page.click('button:has-text("Mark the rest absent")')
    page.click('button:has-text("Commit")')
    page.wait_for_selector(".headline")
    assert "differ on 2 of 14: no finding, pleural effusion" in page.inner_text(".comparison")
    assert [text.split()[-1] for text in page.locator(".mine.differs").all_inner_texts()] == ["unsure", "absent"]
    page.reload()
    page.wait_for_selector(".film-button")
    assert page.is_checked("#reader-first")  # remembered in this tab


def test_a_file_that_is_no_film(page: Page) -> None:
    upload(page, b"report: normal", "notes.txt")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no PNG, JPEG or DICOM file" in page.inner_text("#problem") and page.locator(".headline").count() == 0
    page.click("#problem button")
    assert page.locator("#uploads li").count() == 0 and not page.locator("#problem").is_visible()
