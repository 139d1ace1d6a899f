"""The list of films in a real Chromium: whose they are, what becomes of them, and who may send one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .conftest import Serve, Served, dicom, png
from .page_tools import TOKEN, Page, opened, read, upload


def test_a_full_server_says_so_and_takes_the_film_later(chromium: Any, serve: Serve) -> None:
    with serve(max_waiting=1) as served, opened(chromium, served.url) as page:
        served.reader.go.clear()
        for number in range(3):
            upload(page, png(number), f"{number}.png")
            states = ".problem" if number == 2 else ".waiting, .reading"
            page.wait_for_selector(f'.film-button:has-text("{number}.png"):has({states})')
        assert "The server is full" in page.inner_text("#problem") and "5 seconds" in page.inner_text("#problem")
        served.reader.go.set()
        page.wait_for_selector('.film-button:has-text("1.png"):has-text("read")')
        page.wait_for_function("() => document.querySelectorAll('.film-state.done').length === 2")
        page.click("#problem button")
        page.wait_for_selector(".headline")
        assert not page.locator("#problem").is_visible()


def test_a_film_sent_before_the_samples_are_known_is_read_and_kept(chromium: Any, serve: Serve, file: Path) -> None:
    with serve(feedback=file) as served, opened(chromium, served.url) as page:
        read(page, png(1), "before.png")
        held: list[Any] = []
        page.route("**/v1/samples", lambda route: held.append(route))
        page.reload()
        page.wait_for_selector("#desk:not([hidden])")
        upload(page, png(2), "early.png")
        while not held:
            page.wait_for_timeout(20)
        held[0].continue_()
        page.wait_for_selector(".headline")
        page.wait_for_selector(".fb-item")
        names = [text.split("\n")[0] for text in page.locator("#uploads .film-button").all_inner_texts()]
        assert names == ["early.png", "before.png"]


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


def test_many_films_at_once_leave_the_page_alive(page: Page, served: Served) -> None:
    """Seven streams would hold all six connections that a browser opens; entries of the list survive every redraw."""
    served.reader.go.clear()
    films = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": png(n)} for n in range(7)]
    page.set_input_files("#file", films)
    waits = "() => document.querySelectorAll('.film-state.waiting, .film-state.reading').length"
    page.wait_for_function(f"() => ({waits})() === 7")
    assert page.evaluate("() => fetch('/healthz', {signal: AbortSignal.timeout(30000)}).then((a) => a.status)") == 200
    page.hover('.film-button:has-text("3.png")')
    page.mouse.down()
    served.reader.go.set()  # seven films are done, and each time the list is drawn anew
    page.wait_for_function("() => document.querySelectorAll('.film-state.done').length === 7")
    page.mouse.up()
    page.wait_for_selector('.film-button[aria-current]:has-text("3.png")')
    page.focus('[aria-label="Delete 5.png"]')
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#uploads li').length === 6")
    assert page.evaluate("() => document.activeElement.className") == "film-button"
    page.keyboard.press("Enter")
    assert page.locator("#uploads li").count() == 6  # pressed twice, "Delete" must not take the next film along


def test_what_was_lost_on_the_way_is_taken_up_again(page: Page, tmp_path: Path) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.url.endswith("/explain") else None)
    page.route("**/events", lambda route: route.abort())
    upload(page, png(8), "lost.png")
    page.wait_for_selector('#problem:has-text("connection to the server was lost")')
    page.unroute("**/events")
    page.click("#problem button")
    page.wait_for_selector(".headline")
    assert sent == ["POST"], "a second copy on the server, and the first could never be deleted"
    file = tmp_path / "moved.png"
    file.write_bytes(png(9))
    page.route("**/explain", lambda route: route.abort())
    page.set_input_files("#file", file)
    page.wait_for_selector('#problem:has-text("does not answer")')
    file.unlink()
    page.unroute("**/explain")
    page.click("#problem button")
    page.wait_for_selector('#problem:has-text("cannot be read")')
    assert page.inner_text("#problem button") == "Take it off the list"
