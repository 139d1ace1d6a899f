"""The counterfactual view in a real Chromium, by keyboard."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest

from kdistill.explain.reading import ImageReader
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.samples import Samples
from kdistill.serve.sockets import server_of

from .reacting import Reacting, context


def test_the_module_brings_no_markup_style_or_address() -> None:
    for name in ("counterfactual.js", "counterfactual.css"):
        content = resources.files("kdistill.serve.page").joinpath(name).read_text()
        for forbidden in ("http://", "https://", "innerHTML", "insertAdjacentHTML", ".style", "url("):
            assert forbidden not in content


@contextmanager
def listening(reader: ImageReader, studies: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig(port=port, deadline_s=300)
    server = server_of(create_app(Jobs(reader, context(reader), config), config, Samples(studies)), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(30)


MOUNT = """async () => {
  const { mountCounterfactual } = await import("/page/counterfactual.js");
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    const body = answer.status === 204 ? null : await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    return body;
  };
  let job = await ask("/v1/samples/0/explain", { method: "POST" });
  while (job.stage !== "done") job = await ask(`/v1/jobs/${job.id}`);
  const explanation = await ask(job.result);
  const element = document.createElement("div");
  document.body.replaceChildren(element);
  window.readings = [];
  const onReading = (read, pixels, step) => window.readings.push({ read, pixels, step });
  window.given = explanation;
  window.mounted = mountCounterfactual(element, { sample: 0, resultId: job.id, explanation, ask, onReading });
}"""
#: What `onReading` and the page were told by the time that the slider's own event is over.
MOVE = """() => {
  const slider = document.getElementById("cf-slider");
  slider.value = "5";
  slider.dispatchEvent(new Event("input"));
  return [window.readings.at(-1).step.strength, slider.getAttribute("aria-valuetext")];
}"""


def test_the_slider_by_keyboard_in_a_browser(reacting: Reacting, studies: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with listening(reacting, studies) as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # only the page itself names an icon
        page.goto(f"{url}healthz")  # the module alone, under the policy of every answer, whatever the page mounts
        page.evaluate(MOUNT)
        assert page.locator("optgroup").count() == 1  # what is present is told on demand alone
        page.locator(".cf-offer").press("Enter")
        page.locator("optgroup").nth(1).wait_for(state="attached")
        page.locator("#cf-choice").select_option(f"removed/{reacting.observation}")
        page.locator(".cf-start").press("Enter")
        page.locator(".cf-result").wait_for()
        assert "its sentence is gone" in page.locator(".cf-summary").inner_text()
        slider = page.locator("#cf-slider")
        assert slider.get_attribute("aria-valuetext") == "as it is" and page.locator("del, ins").count() == 0
        slider.press("End")
        assert slider.get_attribute("aria-valuetext") == "gone"
        gone, come = page.locator("del").all_inner_texts(), page.locator("ins").all_inner_texts()
        assert any("Mild left" in text for text in gone) and any("No " in text for text in come)
        slider.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == "at 20%"
        strengths = page.evaluate("window.readings.map((one) => one.step.strength)")
        assert strengths == [1, 0, 0.2]
        assert page.evaluate("window.readings[0].read === window.given && window.readings[1].read !== window.given")
        assert page.evaluate("window.readings.every((one) => one.pixels.startsWith('data:image/png'))")
        assert page.locator(".cf-chart .cf-dot").count() == 6 and page.locator(".cf-threshold").count() == 1
        assert "threshold 0.50" in str(page.locator(".cf-chart").get_attribute("aria-label"))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        assert page.evaluate(MOVE) == [0, "gone"] and asked == []  # at once: no answer of the server is waited for
        page.locator(".cf-back").press("Enter")
        assert page.evaluate("window.readings.at(-1).step.strength") == 1
        page.evaluate("window.mounted.close()")
        assert page.locator(".cf").count() == 0
        browser.close()
    assert problems == []
