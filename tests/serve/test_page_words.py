"""What the page says of a film and of an answer, in a real Chromium: sides, headline, units, places, refusals."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from kdistill.explain.batch import image_of
from kdistill.explain.build import explain
from kdistill.explain.page import headline
from kdistill.explain.pictures import where_peak
from kdistill.serve.pixels import pixels_of
from kdistill.studies.decoding import DecoderPool

from ..explain.conftest import make_reading, radiograph
from .conftest import Serve, dicom, png
from .page_tools import Page, opened, upload
from .serving import write_studies
from .telling import context

#: The unit of the file: level and window of the film's own window, and some values.
UNITS = """async ([text, heads]) => {
  const { previewOf } = await import("/page/dicom_preview.js");
  const { inUnits } = await import("/page/film.js");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const found = await previewOf(new File([bytes], "film.dcm"));
  if (!found) return null;
  const { head, values } = found;
  const at = [0, 5000, 12800, 20000, values.length - 1].map((place) => values[place] * head.slope + head.intercept);
  return [[...Object.values(inUnits({ head }, head)), ...at], inUnits({ head: heads }, heads)];
}"""


def changed(**tags: object) -> bytes:
    dataset = dcmread(io.BytesIO(dicom()))
    for name, value in tags.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_the_preview_counts_in_the_files_own_unit(page: Page, polarity: str) -> None:
    data = changed(
        RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3900, WindowWidth=6000, PhotometricInterpretation=polarity
    )
    with DecoderPool(depth_px=4096) as pool:
        found = pixels_of(image_of("x", data, 64, pool), "full")
    assert found is not None
    head, content = found
    values = np.frombuffer(content, "<u2")
    text = base64.b64encode(data).decode()
    told, server = page.evaluate(UNITS, [text, head.model_dump(mode="json")])
    assert told[:2] == pytest.approx(list(server.values()), abs=2) and server["width"] == pytest.approx(6000, abs=2)
    real = [float(values[i]) * head.slope + head.intercept for i in (0, 5000, 12800, 20000, len(values) - 1)]
    assert told[2:] == pytest.approx(real)
    for refused in (changed(PresentationLUTShape="INVERSE"), changed(BitsAllocated=32, BitsStored=32, HighBit=31)):
        assert page.evaluate(UNITS, [base64.b64encode(refused).decode(), head.model_dump(mode="json")]) is None


def test_headline_and_place_are_those_of_the_explanation_page(page: Page) -> None:
    """What is indeterminate may lie above its threshold, and a device is no abnormality."""
    said = {
        "No abnormality above its threshold": {},
        "Indeterminate: cardiomegaly No other abnormality above its threshold": {"Cardiomegaly": 0.55},
        "No abnormality above its threshold; support devices": {"Support Devices": 0.9},
        "Abnormal: edema, support devices Indeterminate: cardiomegaly": {
            "Edema": 0.9, "Support Devices": 0.9, "Cardiomegaly": 0.45,
        },
    }  # fmt: skip
    script = "async (e) => (await import('/page/bars.js')).headline(e).textContent"
    for words, probabilities in said.items():
        found = explain("s", radiograph(), make_reading(probabilities), context())
        plain = re.sub(r"<[^>]+>", "", headline(found))
        told = page.evaluate(script, found.model_dump(mode="json"))
        assert [re.sub(r"\s", "", text) for text in (plain, told)] == [re.sub(r"\s", "", words)] * 2
    grids = [(size, row, column) for size in (4, 7, 8, 16) for row in range(size) for column in (0, size - 1)]
    maps = [np.zeros((size, size)) for size, _, _ in grids]
    for grid, (_, row, column) in zip(maps, grids, strict=True):
        grid[row, column] = 1.0
    script = (
        "async (maps) => { const m = await import('/page/evidence.js'); return maps.map((g) => m.peakOf(g).where); }"
    )
    assert page.evaluate(script, [grid.tolist() for grid in maps]) == [where_peak(grid) for grid in maps]
    eight = [
        where_peak(grid).split()[0]
        for grid, (size, _, column) in zip(maps, grids, strict=True)
        if size == 8 and not column
    ]
    assert eight == ["upper"] * 3 + ["middle"] * 2 + ["lower"] * 3
    doubted = "async (g) => (await import('/page/evidence.js')).peakOf(g, true).where"
    assert page.evaluate(doubted, maps[-1].tolist()).endswith("picture's right")


def test_sides_are_doubted_before_the_answer_and_by_nothing_that_a_model_wrote(chromium: Any, serve: Serve) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(side=400))).rotate(180).save(buffer, format="PNG")
    with serve() as served, opened(chromium, served.url) as page:
        page.check("#reader-first")
        upload(page, buffer.getvalue(), "turned.png")
        page.wait_for_selector("#reader-form")
        page.wait_for_selector("#corner-window:has-text('as the model')")  # the server's pixels, no preview
        assert page.inner_text("#mark-left") == "R?" and page.inner_text("#mark-right") == "L?"
        assert "not certain" in str(page.get_attribute("#canvas", "aria-label"))
        page.check("#mark-3-present")
        page.keyboard.press("n")  # single keys act while a mark has the focus: no mark may be lost by it
        served.reader.side = "bilateral"  # against a report that says left: a check objects, and says so
        upload(page, dicom(), "film.dcm")
        page.wait_for_selector('.film-button[aria-current]:has-text("film.dcm")')
        page.wait_for_function("() => document.getElementById('mark-left').textContent === 'R'")
        page.click('.film-button:has-text("turned.png")')
        page.wait_for_selector("#mark-3-present:checked")
        page.click('.film-button:has-text("film.dcm")')
        page.check("#mark-3-uncertain")
        page.click('button:has-text("Mark the rest absent")')
        assert page.is_checked("#mark-0-uncertain")  # "No Finding", as CheXpert has it
        page.click('button:has-text("Commit")')
        page.wait_for_selector(".headline")
        assert "the classifier says bilateral" in page.inner_text("#checks")
        assert page.inner_text("#mark-left") == "R" and page.inner_text("#status") == "The model has read the film."
        page.fill("#width", "-5")
        page.press("#width", "Enter")
        assert page.input_value("#width") == "3000"


def test_a_sample_that_has_become_another_is_not_told_of(chromium: Any, serve: Serve, tmp_path: Path) -> None:
    write_studies(tmp_path)
    np.save(tmp_path / "images.npy", np.stack([radiograph(64, seed=n) for n in range(3)]))
    with serve(studies=tmp_path) as served, opened(chromium, served.url) as page:
        page.click('.film-button:has-text("Sample 1")')
        page.wait_for_selector(".headline")
        page.route("**/truth", lambda route: route.abort())
        page.click('button:has-text("Show the truth")')
        page.wait_for_selector('#truth:has-text("The server does not answer")')
        assert served.samples is not None
        served.samples._images = served.samples._images[::-1]  # as after a change of the run behind a link
        page.unroute("**/truth")
        page.click('button:has-text("Show the truth")')
        page.wait_for_selector('#truth:has-text("other samples by now")')
        page.click(".cf-offer")
        page.wait_for_selector('.cf-problem:has-text("other samples by now")')
