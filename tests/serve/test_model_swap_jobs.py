"""A swap between two batches: every image is read by a model of its size, every answer names its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdistill.explain.batch import FileImage
from kdistill.explain.reading import ImageReader, Reading
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs, Model
from kdistill.serve.models import load_model

from ..explain.conftest import radiograph
from .students import add_student


class Held:
    """A real student that waits for a sign before it reads."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader, self.go, self.begun = reader, threading.Event(), threading.Event()
        self.name, self.size_px, self.thresholds = reader.name, reader.size_px, reader.thresholds

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.begun.set()
        self.go.wait(30)
        return self._reader.read(images)


def square(size_px: int, seed: int = 0) -> FileImage:
    pixels = radiograph(size_px, seed)
    return FileImage("x", pixels, pixels, hashlib.sha256(pixels.tobytes()).hexdigest(), None)


def wait(jobs: Sequence[Job]) -> list[str]:
    deadline = time.monotonic() + 30
    while any(job.stage not in ("done", "failed", "expired") for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [job.stage for job in jobs]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_images_that_wait_are_read_by_a_model_of_their_size(run: Path) -> None:
    """FAULTS-like: the swap comes while images of the old input size wait behind a batch that runs."""
    add_student(run, "template", seed=4, weights=2, size_px=96)
    old, new = load_model(run, "full", None).model, load_model(run, "template", 4).model
    held, clock = Held(old.reader), Clock()
    jobs = Jobs(held, old.context, ServeConfig(batch_size=8), clock=clock)
    running = jobs.submit("s", square(64))
    assert held.begun.wait(20)
    waiting = [jobs.submit("s", square(64, seed)) for seed in (1, 2)]
    jobs.swap(new)
    late = [jobs.submit("s", square(96, seed)) for seed in (3, 4)]
    held.go.set()
    assert wait([running, *waiting, *late]) == ["done"] * 5
    names = [job.explanation.model for job in (running, *waiting, *late) if job.explanation]
    assert names == [old.reader.name] * 3 + [new.reader.name] * 2
    jobs.swap(load_model(run, "template", 3).model)  # of the first size again: it takes over what waits for that size
    again = jobs.submit("s", square(64, 5))
    assert wait([again]) == ["done"] and again.explanation is not None
    assert again.explanation.model.startswith("template, seed 3")
    clock.now += 200  # nothing that was decoded for the 96 px model can wait any more: it is let go
    jobs.submit("s", square(64, 6))
    assert wait([jobs.submit("s", square(96, 7))]) == ["failed"]  # and what no model here can read is never misread
    jobs.close()


def test_a_batch_that_runs_ends_on_the_old_model(run: Path) -> None:
    old, new = load_model(run, "full", None).model, load_model(run, "template", 3).model
    held = Held(old.reader)
    jobs = Jobs(held, old.context, ServeConfig())
    first = jobs.submit("s", square(64))
    assert held.begun.wait(20)
    second = jobs.submit("s", square(64, 1))
    jobs.swap(Model(new.reader, new.context))
    held.go.set()
    assert wait([first, second]) == ["done", "done"]
    assert [job.explanation.model for job in (first, second) if job.explanation] == [old.reader.name, new.reader.name]
    jobs.close()
