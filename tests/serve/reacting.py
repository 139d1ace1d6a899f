"""A reader that reacts to one finding as told, the reading room around it, and what a test asks there."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import ImageReader, Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.samples import Samples
from kdistill.studies.config import PhantomStudies

from ..explain.conftest import make_library, make_reading

#: Sample 0 has a left consolidation, a pneumonia and a device, sample 2 nothing; two findings stand in removed pairs.
CONFIG = PhantomStudies(seed=16, size_px=64, num_train=2, num_validate=0, num_test=6, num_pairs=8)


class Reacting:
    """Sees one finding as strongly as an image still differs from the image without it, and says so."""

    name, size_px, thresholds = "full, seed 0 (abc)", 64, (0.5,) * NUM_OBSERVATIONS

    def __init__(self, observation: str, whole: np.ndarray, without: np.ndarray) -> None:
        self.observation, self.without = observation, without.astype(float)
        self.distance = float(np.abs(whole - self.without).mean())
        self.go = threading.Event()
        self.go.set()

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.go.wait(20)
        return [self._answer(image) for image in images]

    def _answer(self, image: np.ndarray) -> Reading:
        there = min(float(np.abs(image - self.without).mean()) / self.distance, 1.0)
        probability = 0.05 + 0.9 * there
        term = self.observation.lower()
        said = f"Mild left {term}." if probability >= 0.5 else f"No {term}."
        maps = np.full((NUM_OBSERVATIONS, 8, 8), 0.3 / 62, dtype=np.float32)
        maps[:, 5, 2], maps[:, 5, 3] = 0.5, 0.2
        reading = make_reading({self.observation: probability, "Edema": 0.3}, {}, said, said, f"No edema. {said}")
        return replace(reading, evidence_maps=maps)


def context(reader: ImageReader) -> ExplanationContext:
    settings = ExplainConfig(indeterminate_logits=0.0)  # an untrained student hesitates, and would abstain
    return ExplanationContext(reader.name, reader.thresholds, make_library(), telling().labeler, settings)


def serving(reader: ImageReader, studies: Path, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"max_waiting": 16, "batch_size": 4, **settings})
    app = create_app(Jobs(reader, context(reader), config), config, Samples(studies))
    return TestClient(app, base_url="http://127.0.0.1")


def until(look: Callable[[], dict]) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if found["stage"] in ("done", "failed", "expired"):
            return found
        time.sleep(0.02)
    raise AssertionError("it did not end")


def done(client: TestClient, path: str) -> dict:
    sent = client.post(path)
    assert sent.status_code == 202, sent.text
    assert sent.headers["location"] == f"/v1/counterfactuals/{sent.json()['id']}"
    return until(lambda: client.get(sent.headers["location"]).json())


def explained(client: TestClient, path: str, **sent: object) -> dict:
    job = client.post(path, **sent).json()  # type: ignore[arg-type]
    return until(lambda: client.get(f"/v1/jobs/{job['id']}").json())


def pixels(client: TestClient, step: dict) -> np.ndarray:
    answer = client.get(step["image"])
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


@cache
def telling() -> ExplanationContext:
    return ExplanationContext(
        "m", (0.5,) * NUM_OBSERVATIONS, make_library(), RuleLabeler(), ExplainConfig(quality="off")
    )
