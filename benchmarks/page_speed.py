"""Speeds of the reading room in a real Chromium, on a finished run.

    python benchmarks/page_speed.py RUN [--rounds 10] [--json]

Needs Playwright and an installed Chromium. Serves RUN on loopback and measures, inside the page:

- load: from the navigation to the worklist on screen, nothing cached (aim 1 s);
- preview: from the choice of a 12-megapixel, 12-bit DICOM file to its picture on screen (aim 1 s);
- result: from the same choice to the answer on screen (aim 5 s);
- toggle: from the key H to the frame with or without the evidence map, the slowest of five a round (aim 0.1 s).

A busy machine makes wall-clock figures meaningless: the load average stands beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8

SIDE_PX = 3500
AIMS_MS = {"load": 1000, "preview": 1000, "result": 5000, "toggle": 100}
#: Seconds to wait for anything: a busy machine is measured too, and told from a broken page.
PATIENCE_S = 180.0
_WATCH = """() => {
  const told = {};
  const tell = (name) => { told[name] ??= performance.now() - told.start; };
  const onScreen = (name) => requestAnimationFrame(() => requestAnimationFrame(() => tell(name)));
  document.getElementById('file').addEventListener('change', () => { told.start = performance.now(); }, true);
  new MutationObserver(() => {
    if (!document.getElementById('mark-left').hidden) onScreen('preview');
    if (document.querySelector('.headline')) onScreen('result');
  }).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ['hidden'] });
  window.told = told;
}"""
_TOGGLE = """() => new Promise((done) => {
  const start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'h', bubbles: true }));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


def film(seed: int) -> bytes:
    """A healthy phantom film of 12 megapixels, 12 bits, with noise in the low bits, as an uncompressed DICOM file."""
    grey = render_uint8(StudyPlan(f"s{seed}", f"p{seed}", seed, "F", 60.0, "PA", ()), 256)[0]
    large = np.asarray(Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)).astype("<u2")
    stored = large * 15 + np.random.default_rng(seed).integers(0, 15, large.shape).astype("<u2")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE_PX
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelData = 2000, 3600, stored.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def measure(run_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step, a list of `rounds` figures."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium is installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kdistill.cli.main", "serve", str(run_dir), "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/readyz", server)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium)
                return _rounds(browser, f"http://127.0.0.1:{port}", Path(folder), rounds)
        finally:
            server.terminate()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def _rounds(browser: Any, url: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {name: [] for name in AIMS_MS}
    for number in range(-1, rounds):  # the first round warms the decoder's child and the model up, and is not counted
        file = folder / f"{number}.dcm"
        file.write_bytes(film(number + 1))
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        found = _one(page, url, file)
        page.context.close()
        if number >= 0:
            for name, value in found.items():
                figures[name].append(value)
    return figures


def _one(page: Any, url: str, file: Path) -> dict[str, float]:
    page.goto(url)
    page.wait_for_selector("#samples button")
    load = page.evaluate("() => performance.now()")
    page.evaluate(_WATCH)
    page.set_input_files("#file", str(file))
    page.wait_for_function("() => told.result !== undefined || document.querySelector('#problem:not([hidden])')")
    told = page.evaluate("() => told")
    if "result" not in told:
        raise SystemExit(page.inner_text("#problem"))
    page.keyboard.press("j")
    toggles = [page.evaluate(_TOGGLE) for _ in range(5)]
    return {"load": load, "preview": told["preview"], "result": told["result"], "toggle": max(toggles)}


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    figures = measure(arguments.run, arguments.rounds)
    of: dict[str, Callable[[list[float]], float]] = {"median_ms": statistics.median, "max_ms": max}
    for name, values in figures.items():
        row = {"step": name, "n": len(values), **{key: round(how(values)) for key, how in of.items()}}
        row |= {"aim_ms": AIMS_MS[name], "load_before": round(before, 1), "load_after": round(os.getloadavg()[0], 1)}
        print(json.dumps(row) if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
