"""Every picture of the reading room that the documents show, taken from a finished run in a real Chromium.

    python benchmarks/tour_pictures.py RUN [--out docs/figures] [--only evidence,window]

Needs Playwright and an installed Chromium. Serves RUN on loopback, reads its samples and eight phantom films of
another seed, chooses for each picture the film that shows its state (`tour_films.choose`: by what the model says and
what is known of the film, so that a retrained run needs no new numbers), drives the page there and writes
`tour_<name>.png`. What was chosen is printed; look at every picture, and read docs/tour.md beside it. The pictures have
256 colours, a third of them greys: the film's greys stay grey.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from PIL import Image
from tour_films import NUM_TRIES, PATIENCE_S, Chosen, Read, choose

VIEW: Final = {"width": 1440, "height": 900}
MAX_BYTES: Final = 300_000
#: Colours of the page that keep their own place in a picture's palette.
NUM_COMMON: Final = 32


class Room:
    """The page in a browser of its own."""

    def __init__(self, browser: Any, url: str, scheme: str) -> None:
        self.page = browser.new_context(viewport=VIEW, color_scheme=scheme).new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.page.goto(url)
        self.page.wait_for_selector("#samples button")

    def open(self, read: Read) -> None:
        """Open a film and wait for its answer."""
        if read.sample is None:
            self.send(read.film)
        else:
            self.page.click(f"#samples li:nth-child({read.sample + 1}) .film-button")
        self.answered()

    def send(self, data: bytes, name: str = "film_0412.dcm") -> None:
        """Send a film."""
        self.page.set_input_files("#file", {"name": name, "mimeType": "application/dicom", "buffer": data})

    def answered(self, what: str = ".headline") -> None:
        """Wait for the answer; a film that a busy server gave up is sent again."""
        for _ in range(NUM_TRIES):
            self.page.wait_for_selector(f"{what}, #problem:not([hidden]) button")
            if self.page.locator(what).count():
                return
            self.page.click("#problem button")
        raise SystemExit(self.page.inner_text("#problem"))

    def choose(self, name: str) -> None:
        """Choose a finding."""
        self.page.click(f'.row:has(.name:text("{name}"))')

    def up(self, selector: str) -> None:
        """Scroll the reading so that something stands at its top."""
        self.page.locator(selector).first.evaluate("(node) => node.scrollIntoView({ block: 'start' })")

    def picture(self) -> bytes:
        """The page as it stands, with nothing pointed at."""
        self.page.mouse.move(720, 4)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found: bytes = self.page.screenshot()
        self.page.context.close()
        return found


def reading(browser: Any, url: str, chosen: Chosen) -> bytes:
    """A film and its reading."""
    room = Room(browser, url, "dark")
    room.open(chosen.reading)
    return room.picture()


def evidence(browser: Any, url: str, chosen: Chosen) -> bytes:
    """A finding is chosen: its map, its bar, its sentences."""
    room = Room(browser, url, "dark")
    room.open(chosen.evidence)
    name = chosen.evidence.right[0]["name"]
    room.choose(name)
    room.up(f'.row:has(.name:text("{name}"))')
    return room.picture()


def contradiction(browser: Any, url: str, chosen: Chosen) -> bytes:
    """Two sentences against each other, and the line below the report."""
    room = Room(browser, url, "light")
    room.open(chosen.contradiction)
    about = {flag["observation"] for flag in chosen.contradiction.flags if flag["code"] == "contradiction"}
    name = next(o["name"] for o in chosen.contradiction.right if o["name"] in about)
    room.choose(name)
    room.up(f'.row:has(.name:text("{name}"))')
    return room.picture()


def window(browser: Any, url: str, chosen: Chosen) -> bytes:
    """A narrow window, zoomed."""
    room = Room(browser, url, "light")
    room.open(chosen.reading)
    page = room.page
    for field, value in (("centre", 1700), ("width", 2200)):
        page.fill(f"#{field}", str(value))
        page.press(f"#{field}", "Enter")
    page.locator("#stage").focus()
    for key in ["+"] * 2 + ["ArrowUp"]:
        page.keyboard.press(key)
    page.evaluate("() => document.activeElement.blur()")
    return room.picture()


def sides(browser: Any, url: str, chosen: Chosen) -> bytes:
    """A film that is mirrored by its tags."""
    room = Room(browser, url, "light")
    room.send(chosen.mirrored)
    room.answered()
    room.page.keyboard.press("j")
    room.up("#report")
    return room.picture()


def _marks(room: Room, read: Read) -> None:
    """Mark what is there, one finding of it unsure, and the rest absent."""
    names = sorted(read.present)
    for name in names:
        value = "uncertain" if name == read.right[-1]["name"] else "present"
        room.page.check(f'fieldset:has(legend:text-is("{name}")) input[value="{value}"]')


def _first(browser: Any, url: str, read: Read) -> Room:
    room = Room(browser, url, "dark")
    room.page.check("#reader-first")
    room.page.click(f"#samples li:nth-child({(read.sample or 0) + 1}) .film-button")
    room.answered("#reader-form")
    _marks(room, read)
    return room


def reader_first(browser: Any, url: str, chosen: Chosen) -> bytes:
    """The reader's form."""
    return _first(browser, url, chosen.two_readers).picture()


def compared(browser: Any, url: str, chosen: Chosen) -> bytes:
    """Both readings."""
    room = _first(browser, url, chosen.two_readers)
    room.page.click("text=Mark the rest absent")
    room.page.click("text=Commit and compare")
    room.page.wait_for_selector(".comparison")
    room.choose(chosen.two_readers.right[0]["name"])
    return room.picture()


def counterfactual(browser: Any, url: str, chosen: Chosen) -> bytes:
    """The slider at its end."""
    read, name = chosen.slider
    room = Room(browser, url, "dark")
    room.open(read)
    room.page.click(".cf-offer")
    room.page.wait_for_selector(f'#cf-choice option[value="removed/{name}"]', state="attached")
    room.page.select_option("#cf-choice", f"removed/{name}")
    room.page.click(".cf-start")
    room.page.wait_for_selector("#cf-slider")
    room.page.keyboard.press("End")
    room.up(".cf")
    room.page.wait_for_selector("#film-note:not([hidden])")
    return room.picture()


def no_answer(browser: Any, url: str, chosen: Chosen) -> bytes:
    """A film on its head."""
    room = Room(browser, url, "dark")
    room.send(chosen.upside_down)
    room.answered()
    return room.picture()


STATES: Final[tuple[Callable[[Any, str, Chosen], bytes], ...]] = (
    *(reading, evidence, contradiction, window, sides, reader_first, compared, counterfactual, no_answer),
)


def small(picture: bytes) -> bytes:
    """The same PNG in 256 colours: every third grey, the page's commonest colours, and what serves the rest best."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    pixels = np.asarray(image)
    greys = np.repeat(np.arange(0, 256, 3, dtype=np.uint8)[:, None], 3, axis=1)
    colours, counts = np.unique(pixels[np.ptp(pixels.astype(int), axis=-1) > 3], axis=0, return_counts=True)
    colours = colours[np.argsort(-counts, kind="stable")]
    common, rest, free = colours[:NUM_COMMON], colours[NUM_COMMON:], 256 - len(greys) - NUM_COMMON
    if len(rest) > free:  # each counts once, however rare: the top of a map's scale is a few pixels
        found = Image.fromarray(rest[None]).quantize(free, Image.Quantize.MEDIANCUT, kmeans=1).getpalette() or []
        rest = np.asarray(found[: 3 * free], dtype=np.uint8).reshape(-1, 3)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([greys, common, rest]).ravel().tolist())
    buffer = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


@contextmanager
def served(run_dir: Path) -> Iterator[str]:
    """The run's reading room on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kdistill.cli.main", "serve", str(run_dir), "--port", str(port)]
    with tempfile.TemporaryFile() as told, subprocess.Popen(command, stdout=told) as server:
        try:
            deadline, url = time.monotonic() + PATIENCE_S, f"http://127.0.0.1:{port}"
            while not _answers(url):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not start")
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    """Write the pictures and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", default="", help="Names, with commas between them; all without it.")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name]
    if unknown := set(wanted) - {state.__name__ for state in STATES}:
        raise SystemExit(f"no such picture: {', '.join(sorted(unknown))}")
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no Chromium is installed")
    with served(arguments.run) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        chosen = choose(url)
        for state in STATES:
            if not wanted or state.__name__ in wanted:
                write(arguments.out / f"tour_{state.__name__}.png", small(state(browser, url, chosen)))


def write(path: Path, picture: bytes) -> None:
    """Write one picture; one that is too large for a document stops everything."""
    print(f"{path}: {len(picture)} bytes")
    if len(picture) > MAX_BYTES:
        raise SystemExit(f"{path.name} has {len(picture)} bytes, more than {MAX_BYTES}")
    path.write_bytes(picture)


if __name__ == "__main__":
    main()
