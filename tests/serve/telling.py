"""A reader whose answer depends on the image, the reading room around it, and films to send there."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.explain.batch import FileImage, image_of
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.studies.decoding import DecoderPool

from ..explain.conftest import make_library, make_reading, radiograph

TOKEN = "a-token-of-enough-letters"


class Telling:
    """A reader whose answer depends on the image, that can be held up and made to fail."""

    name, size_px = "full, seed 0 (abc)", 64
    thresholds = (0.5,) * NUM_OBSERVATIONS

    def __init__(self) -> None:
        self.go, self.fail, self.batches = threading.Event(), False, list[int]()
        self.go.set()
        self.refused: np.ndarray | None = None

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.go.wait(60)  # a busy machine is slow: no test may find it over
        if self.refused is not None and any(np.array_equal(image, self.refused) for image in images):
            raise RuntimeError("cannot bear it")
        self.batches.append(len(images))
        if self.fail:
            self.fail = False
            raise RuntimeError("a worker died")
        return [self.answer(image) for image in images]

    @staticmethod
    def answer(image: np.ndarray) -> Reading:
        values = make_reading().probabilities.copy()  # type: ignore[union-attr]
        values[INDEX["Edema"]] = 0.6 + 0.3 * float(image.mean()) / 255
        return replace(make_reading(findings="There is edema."), probabilities=values)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def context() -> ExplanationContext:
    return ExplanationContext(Telling.name, Telling.thresholds, make_library(), RuleLabeler(), ExplainConfig())


def serving(reader: Telling, clock: Clock, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"max_upload_mb": 1, "max_waiting": 2, "batch_size": 4, **settings})
    return TestClient(create_app(Jobs(reader, context(), config, clock=clock), config), base_url="http://127.0.0.1")


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(radiograph(seed=seed)).save(buffer, format="PNG")
    return buffer.getvalue()


def decoded(data: bytes, name: str = "x") -> FileImage:
    return decoded_all([data], name)[0]


def decoded_all(files: Iterable[bytes], name: str = "x") -> list[FileImage]:
    """All by one child: starting one takes longer than forty films."""
    with DecoderPool() as pool:
        return [image_of(name, data, 64, pool) for data in files]


def are_about(answers: Sequence[dict], files: Sequence[bytes]) -> bool:
    """Whether each answer is about its own file: by the file's hash, and by what `Telling` tells of its pixels."""
    images = decoded_all(files)
    told = [answer["observations"][INDEX["Edema"]]["probability"] for answer in answers]
    right = [float(Telling.answer(image.pixels).probabilities[INDEX["Edema"]]) for image in images]  # type: ignore[index]
    hashes = [hashlib.sha256(data).hexdigest() for data in files]
    return [answer["image_sha256"] for answer in answers] == hashes and told == pytest.approx(right, abs=1e-6)


def wait(client: TestClient, job: dict) -> dict:
    deadline = time.monotonic() + 120  # a busy machine is slow, not wrong
    while time.monotonic() < deadline:
        state = client.get(f"/v1/jobs/{job['id']}").json()
        if state["stage"] in ("done", "failed", "expired"):
            return state
        time.sleep(0.01)
    raise AssertionError("the job did not end")
