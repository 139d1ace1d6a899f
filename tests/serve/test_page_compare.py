"""Two models on one film in a real Chromium: blinded and by keyboard alone, and where letters are large."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX
from kdistill.serve import comparisons
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.feedback_export import export_lines
from kdistill.serve.jobs import Jobs, Model

from ..explain.conftest import make_library
from .conftest import PageReader, chromium_path, dicom
from .page_tools import Page, axe, opened, settle, upload
from .serving import listening
from .test_page_access import fits


class Other(PageReader):
    """Finds the effusion on the right, is sure of an edema, and looks for it elsewhere."""

    name = "template, seed 0 (def)"

    def __init__(self) -> None:
        super().__init__()
        self.side, self.findings = "right", "There is a right pleural effusion. There is pulmonary edema."

    def _read(self, image: np.ndarray) -> Reading:
        reading = super()._read(image)
        assert reading.probabilities is not None and reading.evidence_maps is not None
        probabilities, maps = reading.probabilities.copy(), np.asarray(reading.evidence_maps).copy()
        probabilities[INDEX["Edema"]] = 0.9
        maps[INDEX["Pleural Effusion"]] = np.roll(maps[INDEX["Pleural Effusion"]], -5, axis=1)
        return replace(reading, probabilities=probabilities, evidence_maps=maps)


def model(reader: PageReader) -> Model:
    library = make_library()
    return Model(reader, ExplanationContext(reader.name, reader.thresholds, library, RuleLabeler(), ExplainConfig()))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("said") / "said.sqlite"


@pytest.fixture(scope="module")
def url(file: Path) -> Iterator[str]:
    config = ServeConfig(port=0, feedback=file, decoders=1)
    jobs = Jobs(*model(PageReader()), config, against=model(Other()))
    with listening(create_app(jobs, config, feedback=FeedbackStore(file)), config) as (_, port):
        yield f"http://127.0.0.1:{port}"


COLOURS = """() => ["canvas", "canvas-b"].map((id) => {
  const node = document.getElementById(id);
  const d = node.getContext("2d").getImageData(0, 0, node.width, node.height).data;
  let sum = 0, count = 0;
  for (let i = 0; i < d.length; i += 4) {
    if (Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) <= 40) continue;
    count += 1;
    sum += ((i / 4) % node.width) / node.width;
  }
  return [count, count ? sum / count : null];
})"""


def colours(page: Page) -> list[list[float]]:
    """Of both films: how many pixels are coloured, and how far to the right they lie (0 to 1)."""
    settle(page)
    return page.evaluate(COLOURS)


def tab(page: Page, selector: str) -> None:
    """Go there by Tab; the focus can be seen all the way."""
    for _ in range(60):
        page.keyboard.press("Tab")
        seen = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        hidden = page.evaluate("() => document.activeElement.id === 'file'")  # its frame shows the focus
        assert seen != "none" or hidden, page.evaluate("() => document.activeElement.outerHTML")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"no way to {selector}")


def test_a_blinded_comparison_by_keyboard(chromium: Any, url: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons.secrets, "randbelow", lambda _: 1)  # the other model is A
    asked: list[str] = []
    with opened(chromium, url, color_scheme="light") as page:
        page.on("request", lambda request: asked.append(request.url.removeprefix(url)))
        tab(page, "#blinded")
        page.keyboard.press("Space")
        upload(page, dicom())
        page.wait_for_selector("#differences")
        body = page.inner_text("body")
        assert "(def)" not in body and "(abc)" not in body and page.inner_text("#model") == "two models, blinded"
        assert not [path for path in asked if path.startswith("/v1/results/") and path.count("/") == 3]
        assert not [path for path in asked if path.endswith(("/provenance", "/feedback"))]
        told = page.inner_text("#differences")
        assert "They differ on 2 of 14 findings." in told and "Only A states it (report)." in told
        assert "A is above its threshold (0.90 against 0.50)" in told and "A says right, B says left." in told
        assert "2 of 14" in page.inner_text('[role="status"] >> nth=-1')
        assert axe(page) == []

        tab(page, ".differing li:nth-child(2) button")
        page.keyboard.press("Enter")
        (many_a, at_a), (many_b, at_b) = colours(page)
        assert min(many_a, many_b) > 300 and at_a < 0.45 and at_b > 0.55  # the patient's right, and left
        caption = page.inner_text("#caption")
        assert "A: lower third, patient's right" in caption and "B: lower third, patient's left" in caption
        assert page.locator(".row.pair[aria-pressed=true]").inner_text().startswith("Pleural Effusion")
        assert page.locator(".sentence.only").all_text_contents() == ["There is pulmonary edema. (only A states this) "]
        page.keyboard.press("h")
        assert [count for count, _ in colours(page)] == [0, 0]
        page.keyboard.press("b")  # no way back while nobody may know the names
        assert page.locator("#differences").count() == 1 and axe(page) == []

        tab(page, "#prefer-a_better")
        page.keyboard.press("ArrowDown")
        tab(page, "#prefer-comment")
        page.keyboard.type("bj h: the side")  # typed, and no key acts
        tab(page, "#preference button.primary")
        page.keyboard.press("Enter")
        page.wait_for_selector(".stored")
        names = "A was template, seed 0 (def); B was full, seed 0 (abc)."
        assert page.inner_text(".stored") == f"Stored: B is better, blinded. {names}"
        assert page.inner_text('[role="status"] >> nth=-1') == f"Stored: B is better, blinded. {names}"
        assert page.evaluate("() => document.activeElement.id") == "preference" and axe(page) == []
        (line,) = [json.loads(line) for line in export_lines(file)]
        (kept,) = line["preferences"]
        assert (kept["choice"], kept["blinded"], kept["comment"]) == ("b_better", True, "bj h: the side")
        assert kept["preferred"] == PageReader.name and kept["models"] == {"a": Other.name, "b": PageReader.name}

        page.keyboard.press("b")
        page.wait_for_selector("#report")
        assert page.inner_text("#model") == PageReader.name and not page.locator("#stage-b").is_visible()
        page.keyboard.press("b")
        page.wait_for_selector("#differences")
        assert page.inner_text("#model") == "two models" and page.is_checked("#prefer-b_better")


def test_a_comparison_with_letters_of_twice_the_size_in_the_dark(chromium: Any, url: str, tmp_path: Path) -> None:
    settings = tmp_path / "Default" / "Preferences"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"webkit": {"webprefs": {"default_font_size": 32}}}))
    with chromium.browser_type.launch_persistent_context(
        tmp_path, executable_path=chromium_path(), viewport={"width": 1280, "height": 800}, color_scheme="dark"
    ) as context:
        page = context.pages[0]
        page.set_default_timeout(180_000)
        page.goto(url)
        page.wait_for_selector("#desk:not([hidden])")
        upload(page, dicom(seed=1))
        page.wait_for_selector("#compare")
        page.click("#compare")
        page.wait_for_selector("#differences")
        page.click('.row.pair:has-text("Pleural Effusion")')
        for width in (1280, 800):
            page.set_viewport_size({"width": width, "height": 800})
            fits(page)
            assert min(page.locator("#stage-b").bounding_box()[side] for side in ("width", "height")) >= 200
        assert axe(page) == []
        page.set_viewport_size({"width": 2400, "height": 1400})  # three columns again
        fits(page)
