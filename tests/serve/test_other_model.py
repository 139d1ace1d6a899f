"""After a change of the model, or between two of its answers: nothing is told of one model that another one said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kdistill.artifact import open_stage
from kdistill.explain.reading import Reading
from kdistill.serve import models as module
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.counterfactual_sets import CHANGED_MODEL
from kdistill.serve.jobs import Jobs, Model
from kdistill.serve.models import Loaded, Models
from kdistill.serve.samples import Samples
from kdistill.studies.config import PhantomStudies
from kdistill.studies.stage import build_studies

from .reacting import until
from .telling import Telling, context, png, wait

CONFIG = PhantomStudies(seed=16, size_px=64, num_train=2, num_validate=0, num_test=2, num_pairs=0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("run") / "studies"
    with open_stage(folder, stage="studies", config={"studies": CONFIG.model_dump(mode="json"), "files": {}}) as stage:
        build_studies(stage, CONFIG)
    return Samples(folder)


class Other(Telling):
    """Another model: it is never sure of an edema."""

    name = "template, seed 0 (def)"

    @staticmethod
    def answer(image: np.ndarray) -> Reading:
        told = Telling.answer(image)
        assert told.probabilities is not None
        return replace(told, probabilities=told.probabilities / 4)


class Swapping(Telling):
    """Puts another model into its place while it reads its first batch of copies."""

    jobs: Jobs | None = None

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        if self.jobs is not None and len(self.batches) == 1:
            self.jobs.swap(other())
        return super().read(images)


def other() -> Model:
    return Model(Other(), replace(context(), model=Other.name))


class Room:
    def __init__(self, samples: Samples) -> None:
        self.reader, config = Swapping(), ServeConfig(max_waiting=16, batch_size=2)
        self.jobs = Jobs(self.reader, context(), config)
        self.app = create_app(self.jobs, config, samples)


@pytest.fixture
def room(samples: Samples) -> Room:
    return Room(samples)


@pytest.fixture
def client(room: Room) -> Iterator[TestClient]:
    with TestClient(room.app, base_url="http://127.0.0.1") as found:
        yield found


def test_provenance_names_the_model_that_read(client: TestClient, room: Room) -> None:
    job = client.post("/v1/explain", content=png()).json()
    wait(client, job)
    larger = other()
    larger.reader.size_px = 128  # type: ignore[misc]
    room.jobs.swap(larger)
    found = client.get(f"/v1/results/{job['id']}/provenance").json()
    assert found["model"] == client.get(f"/v1/results/{job['id']}").json()["model"] == Telling.name
    assert found["size_px"] == 64


def test_a_set_that_two_models_have_read_is_not_compared(client: TestClient, room: Room) -> None:
    room.reader.jobs = room.jobs
    name = client.get("/v1/samples/0/counterfactuals").json()["findings"][0]["name"]
    sent = client.post(f"/v1/samples/0/counterfactuals/{name}?steps=6")
    found = until(lambda: client.get(sent.headers["location"]).json())
    read_by = {client.get(step["result"]).json()["model"] for step in found["steps"] if step["result"]}
    assert read_by == {Telling.name, Other.name}
    assert (found["stage"], found["summary"]) == ("failed", CHANGED_MODEL)


def test_evidence_of_another_model_is_not_blurred(client: TestClient, room: Room) -> None:
    job = client.post("/v1/explain", content=png()).json()
    wait(client, job)
    path = f"/v1/results/{job['id']}/counterfactuals/Edema?steps=2"
    assert client.post(path).status_code == 202
    room.jobs.swap(other())
    answer = client.post(path)
    assert answer.status_code == 409 and "another model answers by now" in answer.json()["detail"]


def test_what_can_be_taken_away_names_its_picture(client: TestClient) -> None:
    told = client.get("/v1/samples/0/counterfactuals").json()
    assert told["image_sha256"] == client.get("/v1/samples/0/truth").json()["image_sha256"]


def test_new_samples_are_offered_only_once_somebody_can_read_them(
    samples: Samples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of another size, they would find no model in the moment between the two."""
    jobs = Jobs(Telling(), context(), ServeConfig())
    models = Models(tmp_path, "full", None, jobs, None)
    monkeypatch.setattr(module, "load_model", lambda *_: Loaded(other(), samples))
    seen: list[Samples | None] = []
    jobs.on_swap = lambda _: seen.append(models.samples)
    models.swap()
    assert seen == [None] and models.samples is samples
    jobs.close()
