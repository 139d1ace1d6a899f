"""The feedback controls in a real Chromium: with keys alone, told to a screen reader, kept over a reload."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.jobs import Jobs
from kdistill.serve.sockets import server_of

from .speaking import Speaking, lines
from .telling import Clock, context, png

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make install-dev)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def serve(file: Path | None) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig.model_validate({"port": port, "feedback": file})
    store = FeedbackStore(file, wait_s=0.2) if file else None
    jobs = Jobs(Speaking(), context(), config, clock=Clock())  # type: ignore[arg-type]
    server = server_of(create_app(jobs, config, feedback=store), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "said.sqlite"


@pytest.fixture
def room(file: Path) -> Iterator[str]:
    yield from serve(file)


@pytest.fixture
def silent_room() -> Iterator[str]:
    yield from serve(None)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield opened
    context.close()
    assert problems == []


def send(page, room: str) -> None:
    """Open the page, send a film, wait for the answer."""
    page.goto(room)
    page.locator("#file").set_input_files({"name": "film.png", "mimeType": "image/png", "buffer": png()})
    page.locator("#tools").wait_for(state="visible")


def item(page, name: str):
    return page.locator(".fb-item", has=page.locator(".fb-name", has_text=name))


def saved(page, told: str) -> None:
    playwright.expect(page.locator(".fb-status")).to_contain_text(told, timeout=60_000)


def test_findings_and_sentences_are_judged_with_keys_alone(page, room: str, file: Path) -> None:
    send(page, room)
    assert page.locator(".fb-status").get_attribute("aria-live") == "polite"
    page.get_by_label("Your pseudonym").focus()
    page.keyboard.type("Ada")
    page.keyboard.press("Tab")  # to the first control of the first finding: agree with the edema
    page.keyboard.press("Space")
    saved(page, "Saved: Edema, agree.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    saved(page, "Saved: Edema, no: absent.")
    pressed = item(page, "Edema").locator("button[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["No: absent"]
    folded = page.get_by_text("Rationale, sentence by sentence (2)")
    folded.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    saved(page, "Left pleural effusion., correct")
    (line,) = lines(file)
    assert line["labels"] == {"Edema": 0} and [said["reader"] for said in line["judgements"]] == ["Ada"] * 3
    assert [said["target"] for said in line["judgements"] if said["counts"]] == [
        "finding/Edema",
        "sentence/rationale/0",
    ]


def test_side_note_and_taking_back(page, room: str, file: Path) -> None:
    send(page, room)
    effusion = item(page, "Pleural Effusion")
    assert "shown: present, left, 0.80" in effusion.inner_text()
    effusion.locator("select").select_option("right")
    saved(page, "Saved: Pleural Effusion, side right.")
    assert effusion.locator("button[aria-pressed=true]").inner_text() == "Agree, but for the side"
    effusion.get_by_text("Note", exact=True).click()
    assert "Nothing about the patient" in effusion.locator(".fb-warning").inner_text()
    assert effusion.locator("textarea").get_attribute("maxlength") == "500"
    effusion.locator("textarea").fill("Costophrenic angle on the right.")
    effusion.get_by_text("Save the note").click()
    saved(page, "with your note")
    last = lines(file)[0]["judgements"][-1]
    assert (last["verdict"], last["side"], last["comment"]) == (
        "disagree",
        "right",
        "Costophrenic angle on the right.",
    )
    effusion.locator("button[aria-pressed=true]").click()
    saved(page, "taken back")
    assert lines(file)[0]["labels"] == {} and effusion.locator("button[aria-pressed=true]").count() == 0


def test_another_name_is_another_reader(page, room: str, file: Path) -> None:
    send(page, room)
    item(page, "Edema").get_by_text("Agree", exact=True).click()
    saved(page, "Edema, agree")
    page.get_by_label("Your pseudonym").fill("Bo")
    page.get_by_label("Your pseudonym").blur()
    assert item(page, "Edema").locator("button[aria-pressed=true]").count() == 0
    item(page, "Edema").get_by_text("No: unsure").click()
    saved(page, "unsure")
    assert lines(file)[0]["labels"] == {"Edema": -1} and lines(file)[0]["num_readers"] == {"Edema": 2}


def test_what_was_not_saved_is_said(page, room: str, file: Path) -> None:
    send(page, room)
    item(page, "Edema").wait_for()  # what was said before has been read from the file
    file.rename(file.with_name("moved"))
    item(page, "Edema").get_by_text("Agree", exact=True).click()
    saved(page, "Not saved: Edema, agree. Not done: the feedback file was moved or deleted.")
    assert item(page, "Edema").locator("button[aria-pressed=true]").count() == 0


def test_the_module_loads_nothing_from_elsewhere_and_writes_no_markup() -> None:
    for name in ("feedback.js", "feedback.css"):
        content = resources.files("kdistill.serve.page").joinpath(name).read_text()
        assert not [
            word for word in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "style=") if word in content
        ]


def test_hidden_where_the_server_asks_nobody(page, silent_room: str) -> None:
    send(page, silent_room)
    assert page.locator(".feedback, .fb-item").count() == 0


def test_no_serious_finding_of_axe(page, room: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    send(page, room)
    for fold in page.locator(".feedback > details, .feedback .fb-block > details").all():
        fold.locator("> summary").click()
    item(page, "Edema").get_by_text("Note", exact=True).click()
    item(page, "Edema").get_by_text("Agree", exact=True).click()
    saved(page, "Edema, agree")
    found = axe.Axe().run(page, context=".feedback").response
    assert {"color-contrast", "button-name", "label"} <= {rule["id"] for rule in found["passes"]}  # it looked at them
    assert [rule["id"] for rule in found["violations"] if rule["impact"] in ("serious", "critical")] == []
