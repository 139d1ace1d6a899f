"""A run of two real, tiny students, and a reading room that has both of them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.explain.reading import ImageReader
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.jobs import Jobs, Model
from kdistill.serve.models import Choice, Loaded, Models, load_model

from ..explain.conftest import radiograph
from .students import add_student, make_run

SECOND = Choice("template", 3)


def make_pair(run: Path) -> Path:
    """A run of `full` and `template`, which say different things; returns its folder."""
    make_run(run)
    add_student(run, *SECOND, weights=5)
    return run


class Pair(NamedTuple):
    """A run and its two students, loaded once for many rooms."""

    run: Path
    first: Loaded
    second: Model


def load_pair(run: Path) -> Pair:
    """Load both students of a run of `make_pair`, as `serve RUN --against template:3` does."""
    first = load_model(run, "full", None)
    return Pair(run, first, load_model(run, *SECOND, beside=first).model)


class PairRoom:
    """The application of `serve RUN --against template:3`.

    Args:
        pair: The run's students.
        feedback: The feedback file; None: off.
        wrap: What stands between the queue and the student that answers.
        settings: Of `ServeConfig`.
    """

    def __init__(
        self,
        pair: Pair,
        feedback: Path | None = None,
        wrap: Callable[[ImageReader], ImageReader] = lambda reader: reader,
        **settings: Any,
    ) -> None:
        config = ServeConfig.model_validate({"port": 0, "feedback": feedback, **settings})
        model, samples = pair.first
        self.first, self.second = Model(wrap(model.reader), model.context), pair.second
        self.jobs = Jobs(*self.first, config, against=self.second)
        self.models = Models(pair.run, "full", None, self.jobs, samples, against=SECOND)
        self.config = config
        store = None if feedback is None else FeedbackStore(feedback)
        self.app: FastAPI = create_app(self.jobs, config, samples, store, self.models)


def png(seed: int = 0, *, turned: bool = False) -> bytes:
    """A healthy film, upright or on its head."""
    buffer = io.BytesIO()
    image = Image.fromarray(radiograph(seed=seed))
    (image.rotate(180) if turned else image).save(buffer, format="PNG")
    return buffer.getvalue()


def until(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer once its `stage` is an end."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        found = ask()
        if found["stage"] in ("done", "failed", "expired"):
            return found
        time.sleep(0.01)
    raise AssertionError("no end after ten minutes")


def read(client: TestClient, data: bytes | None = None) -> str:
    """Have the sample, or a film, read; the path of its result."""
    sent = client.post("/v1/samples/0/explain") if data is None else client.post("/v1/explain", content=data)
    job = sent.json()
    assert until(lambda: client.get(f"/v1/jobs/{job['id']}").json())["stage"] == "done"
    return f"/v1/results/{job['id']}"


def status(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """Where a job stands."""
    return client.get(f"/v1/jobs/{job['id']}").json()


def compare(client: TestClient, result: str, *, blinded: bool = False) -> dict[str, Any]:
    """Have a result compared; the comparison once it has ended."""
    sent = client.post(f"{result}/comparison", json={"blinded": blinded})
    assert sent.status_code == 202 and sent.headers["location"] == f"{result}/comparison", sent.text
    return until(lambda: client.get(sent.headers["location"]).json())
