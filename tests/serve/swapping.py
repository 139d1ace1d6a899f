"""A server whose model can be changed, and what its students are asked."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import numpy as np

from kdistill.explain.student_reader import StudentReader
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.models import Models, load_model
from kdistill.studies.images import decode, to_square

from .telling import TOKEN

BEARER = {"authorization": f"Bearer {TOKEN}"}


class Room:
    """A server's parts, as `serve_run` puts them together."""

    def __init__(self, run: Path, **settings: object) -> None:
        self.config = ServeConfig.model_validate({"max_waiting": 64, "token": TOKEN, **settings})
        loaded = load_model(run, "full", None)
        self.jobs = Jobs(*loaded.model, self.config)
        self.models = Models(run, "full", None, self.jobs, loaded.samples)
        self.app = create_app(self.jobs, self.config, loaded.samples, models=self.models)


def answer(client: httpx.Client, data: bytes) -> dict:
    """Send an image and wait for its explanation."""
    sent = client.post("/v1/explain", content=data)
    assert sent.status_code == 202, sent.text
    for _ in range(600):
        state = client.get(f"/v1/jobs/{sent.json()['id']}").json()
        if state["stage"] in ("done", "failed", "expired"):
            break
        time.sleep(0.1)
    assert state["stage"] == "done"
    found: dict = client.get(state["result"]).json()
    return found


def told_by(reader: StudentReader, data: bytes) -> np.ndarray:
    probabilities = reader.read(to_square(decode(data), reader.size_px)[None])[0].probabilities
    assert probabilities is not None
    return probabilities
