"""The reading room in a real Chromium: what a reader does with mouse and keys, and what may never happen."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdistill.serve.app import create_app  # noqa: F401 - without the web framework there is nothing to test

from .conftest import Serve, Served, dicom, png

Page = Any  # playwright's, which may not be installed

TOKEN = "a-token-of-enough-letters"
#: What Chromium itself writes when an answer is 4xx: the page says it in a sentence.
_REFUSED = "Failed to load resource"


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Served]:
    with serve() as found:
        yield found


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """A page in a browser of its own; afterwards: no error on its console, no request to another host."""
    errors: list[str] = []
    hosts: set[str] = set()
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(60_000)  # a busy machine is slow, not wrong
    page.on(
        "console", lambda m: errors.append(m.text) if m.type == "error" and not m.text.startswith(_REFUSED) else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add("/".join(request.url.split("/")[:3])))
    page.goto(url)
    page.wait_for_selector("#desk:not([hidden]), #gate:not([hidden])")
    yield page
    assert page.locator(".notice").is_visible()
    context.close()
    assert errors == [] and hosts == {url}


@pytest.fixture
def page(chromium: Any, served: Served) -> Iterator[Page]:
    with opened(chromium, served.url) as found:
        yield found


def upload(page: Page, data: bytes, name: str = "film.dcm") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": data})


def read(page: Page, data: bytes, name: str = "film.dcm") -> None:
    upload(page, data, name)
    page.wait_for_selector(".headline")
    settle(page)


def settle(page: Page) -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def canvas(page: Page) -> np.ndarray:
    """The film's canvas as it stands, uint8 [H, W, 3]."""
    settle(page)
    size = page.evaluate("() => [canvas.height, canvas.width]")
    text = page.evaluate(
        "() => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let s = ''; for (let i = 0; i < d.length; i += 8192) s += String.fromCharCode(...d.subarray(i, i + 8192));"
        "return btoa(s); }"
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(*size, 4)[..., :3]


def colourful(pixels: np.ndarray) -> int:
    """How many pixels are not grey."""
    return int((np.ptp(pixels.astype(int), axis=-1) > 8).sum())


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


def test_a_file_that_is_no_film(page: Page) -> None:
    upload(page, b"report: normal", "notes.txt")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no PNG, JPEG or DICOM file" in page.inner_text("#problem") and page.locator(".headline").count() == 0
    page.click("#problem button")
    assert page.locator("#uploads li").count() == 0 and not page.locator("#problem").is_visible()


def test_an_upside_down_film_states_nothing(page: Page) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(side=400))).rotate(180).save(buffer, format="PNG")
    read(page, buffer.getvalue(), "turned.png")
    assert page.inner_text(".headline").startswith("No answer.") and page.locator(".row").count() == 0
    assert "effusion" not in page.inner_text("body").lower() and "0.93" not in page.inner_text("body")
    assert page.inner_text("#mark-left") == "R?"
    page.keyboard.press("h")
    assert colourful(canvas(page)) == 0


def test_a_full_server_says_so_and_takes_the_film_later(chromium: Any, serve: Serve) -> None:
    with serve(max_waiting=1) as served, opened(chromium, served.url) as page:
        served.reader.go.clear()
        for number in range(3):
            upload(page, png(number), f"{number}.png")
            page.wait_for_selector(
                f'.film-button:has-text("{number}.png"):has-text("{"problem" if number == 2 else "model"}")'
            )
        assert "The server is full" in page.inner_text("#problem") and "5 seconds" in page.inner_text("#problem")
        served.reader.go.set()
        page.wait_for_selector('.film-button:has-text("1.png"):has-text("read")')
        page.wait_for_function("() => document.querySelectorAll('.film-state.done').length === 2")
        page.click("#problem button")
        page.wait_for_selector(".headline")
        assert not page.locator("#problem").is_visible()


def test_two_readers_never_see_each_others_film(chromium: Any, served: Served) -> None:
    with opened(chromium, served.url) as one, opened(chromium, served.url) as other:
        upload(one, png(1), "one.png")
        upload(other, png(2), "other.png")
        told = []
        for page, name in ((one, "one.png"), (other, "other.png")):
            page.wait_for_selector(".headline")
            page.click("#provenance summary")
            told.append(page.inner_text("#provenance"))
            assert page.locator(".film-button").all_inner_texts()[0].startswith(name)
            assert page.locator(".film-button").count() == 1
        assert told[0] != told[1]
        path = one.get_attribute('#exports a:has-text("JSON")', "href")
        job = path.split("/")[3]
        for kind in (f"/v1/results/{job}", f"/v1/results/{job}/pixels", f"/v1/results/{job}/html", f"/v1/jobs/{job}"):
            assert one.evaluate("(p) => fetch(p).then((a) => a.status)", kind) == 200
            assert other.evaluate("(p) => fetch(p).then((a) => a.status)", kind) == 404


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
    assert [text.split()[-1] for text in page.locator(".mine.differs").all_inner_texts()] == ["present", "absent"]
    page.reload()
    page.wait_for_selector(".film-button")
    assert page.is_checked("#reader-first")  # remembered in this tab


def test_films_outlive_a_reload_and_are_deleted_on_request(page: Page) -> None:
    read(page, dicom())
    page.reload()
    page.click('.film-button:has-text("film.dcm")')
    page.wait_for_selector(".headline")
    path = page.get_attribute('#exports a:has-text("JSON")', "href")
    page.click("#exports button")
    page.wait_for_selector("#empty:not([hidden])")
    assert page.locator("#uploads li").count() == 0
    assert page.evaluate("(p) => fetch(p).then((a) => a.status)", path) == 404


def test_a_film_that_is_no_longer_kept_at_full_depth_is_shown_in_eight_bits(chromium: Any, serve: Serve) -> None:
    with serve(max_pixels_mb=1) as served, opened(chromium, served.url) as page:
        for number in range(3):
            read(page, png(number, side=500), f"{number}.png")
            page.wait_for_selector(f'.film-button[aria-current]:has-text("{number}.png"):has-text("read")')
        page.click('.film-button:has-text("0.png")')
        page.wait_for_selector("#film-note:not([hidden])")
        assert "8 bits" in page.inner_text("#film-note") and "512 × 512" in page.inner_text("#corner-size")


def test_the_token_is_asked_for_once(chromium: Any, serve: Serve) -> None:
    with serve(token=TOKEN) as served, opened(chromium, served.url) as page:
        assert not page.locator("#desk").is_visible()
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        page.wait_for_function("() => document.getElementById('gate-problem').textContent.length > 0")
        assert "not the right token" in page.inner_text("#gate-problem")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#desk:not([hidden])")
        read(page, png(), "film.png")


def axe(page: Page) -> list[str]:
    """Serious and critical findings of axe-core, as text."""
    package = pytest.importorskip("axe_playwright_python")
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{item['id']}: {[node['target'] for node in item['nodes']]}"
        for item in found
        if item["impact"] in ("serious", "critical")
    ]


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
