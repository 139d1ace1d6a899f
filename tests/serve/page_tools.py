"""The reading room in a Chromium, as tests handle it: opened, given films, looked at."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Page = Any  # playwright's, which may not be installed

TOKEN = "a-token-of-enough-letters"
#: What Chromium itself writes when an answer is 4xx: the page says it in a sentence.
_REFUSED = "Failed to load resource"


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    """A page in a browser of its own; afterwards: no error on its console, no request to another host."""
    errors: list[str] = []
    hosts: set[str] = set()
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(180_000)  # a busy machine is slow, not wrong
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
