"""A served reader whose answer is known, in a thread, and a Chromium that looks at it."""

from __future__ import annotations

import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.artifact import open_stage
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.serve import desk
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.jobs import Jobs
from kdistill.serve.samples import Samples
from kdistill.serve.sockets import server_of
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.phantom.world import sample_plans
from kdistill.studies.stage import build_studies

from ..explain.conftest import QUOTE, make_library, make_reading, radiograph
from ..explain.test_exports import film
from .page_tools import Page, opened
from .reacting import CONFIG, Reacting
from .students import add_student, make_run
from .telling import Clock, Telling, context, serving

if TYPE_CHECKING:
    from .room import Room


class PageReader:
    """Finds a left effusion; how much edema depends on the image. Waits while `go` is not set."""

    name, size_px, thresholds = "full, seed 0 (abc)", 64, (0.5,) * NUM_OBSERVATIONS

    def __init__(self) -> None:
        self.go, self.side = threading.Event(), "left"
        self.go.set()
        self.findings = "There is a left pleural effusion."

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        """A reading for each image."""
        self.go.wait(300)  # whoever clears it sets it: `serve` does at the end
        return [self._read(image) for image in images]

    def _read(self, image: np.ndarray) -> Reading:
        reading = make_reading(
            {"Pleural Effusion": 0.93, "Cardiomegaly": 0.55, "Edema": round(0.05 + 0.2 * float(image.mean()) / 255, 4)},
            {"Pleural Effusion": self.side},
            self.findings,
            "Left pleural effusion.",
            f"Left pleural effusion. {QUOTE} No pneumothorax.",
        )
        maps = np.asarray(reading.evidence_maps).copy()
        maps[INDEX["Pleural Effusion"]] = 0.001
        maps[INDEX["Pleural Effusion"], 5:7, 6:8] = 0.236
        maps[INDEX["Cardiomegaly"]] = 0.001
        maps[INDEX["Cardiomegaly"], 4:6, 3:5] = 0.236
        return replace(reading, evidence_maps=maps)


@dataclass
class Served:
    """A running server and what it serves."""

    url: str
    reader: PageReader
    jobs: Jobs
    samples: Samples | None


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serve the page on a free port of loopback, with any settings of `ServeConfig`, and the samples of a folder."""

    @contextmanager
    def on_a_free_port(*, studies: Path | None = None, **settings: object) -> Iterator[Served]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            config = ServeConfig.model_validate({"port": free.getsockname()[1], **settings})
        reader = PageReader()
        known = ExplanationContext(reader.name, reader.thresholds, make_library(), RuleLabeler(), ExplainConfig())
        jobs = Jobs(reader, known, config)
        samples = None if studies is None else Samples(studies)
        feedback = FeedbackStore(config.feedback) if config.feedback else None
        server = server_of(create_app(jobs, config, samples, feedback), config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.02)
            yield Served(f"http://127.0.0.1:{config.port}", reader, jobs, samples)
        finally:
            reader.go.set()
            server.should_exit = True
            thread.join(30)

    return on_a_free_port


def chromium_path() -> str | None:
    """A Chromium that is installed here."""
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")  # its event loop must end before other modules start theirs
def chromium() -> Iterator[object]:
    """A Chromium that is installed on this machine."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def reader() -> Telling:
    """Whose answer depends on the image."""
    return Telling()


@pytest.fixture
def clock() -> Clock:
    """Time goes on where a test says so."""
    return Clock()


@pytest.fixture
def client(reader: Telling, clock: Clock) -> Iterator[TestClient]:
    """A browser in a reading room with little room."""
    with serving(reader, clock) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where feedback is to be kept."""
    return tmp_path / "said here.sqlite"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published studies of a small phantom world."""
    folder = tmp_path_factory.mktemp("run") / "studies"
    with open_stage(folder, stage="studies", config={"studies": CONFIG.model_dump(mode="json"), "files": {}}) as stage:
        build_studies(stage, CONFIG)
    return folder


@pytest.fixture(scope="module")
def plans() -> list[StudyPlan]:
    """What its test studies were drawn from."""
    return sample_plans(CONFIG)["test"]


@pytest.fixture
def reacting(studies: Path, plans: list[StudyPlan]) -> Reacting:
    """A reader that looks for the first finding of its first test study."""
    observation = plans[0].findings[0].observation
    whole, without = (render_uint8(plan, 64)[0] for plan in (plans[0], plans[0].without(observation)))
    return Reacting(observation, whole, without)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two students; copied by every test that changes it."""
    run = make_run(tmp_path_factory.mktemp("run") / "run", weights=0)
    add_student(run, "template", seed=3, weights=1)
    return run


@pytest.fixture
def run(published: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(published, tmp_path / "run"))


@pytest.fixture(scope="module")
def running() -> Iterator[Room]:
    """A server that listens, with little room and little patience, for the tests of one module."""
    from .room import IDLE_S, Room, decoders
    from .serving import listening

    reader = Telling()
    config = ServeConfig(port=0, max_upload_mb=1, max_waiting=4, decoders=1)
    jobs, others = Jobs(reader, context(), config), decoders()
    with listening(create_app(jobs, config), config, idle_s=IDLE_S) as (server, port):
        yield Room(server, port, reader, jobs, others)


@pytest.fixture
def room(running: Room, monkeypatch: pytest.MonkeyPatch) -> Room:
    """That server; an upload has to begin within a second."""
    monkeypatch.setattr(desk, "FIRST_BYTES_S", 1.0)
    return running


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Served]:
    """The page, served for the tests of one module."""
    with serve() as found:
        yield found


@pytest.fixture
def page(chromium: object, served: Served) -> Iterator[Page]:
    """It, open in a browser of its own."""
    with opened(chromium, served.url) as found:
        yield found


def png(seed: int = 0, side: int = 160) -> bytes:
    """A healthy film as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(radiograph(seed=seed)).resize((side, side), Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()


def dicom(side: int = 160, seed: int = 0) -> bytes:
    """A healthy film of 12 bits as DICOM, with a window that cuts off both ends, and a patient's name."""
    grey = Image.fromarray(radiograph(seed=seed)).resize((side, side), Image.Resampling.BICUBIC)
    fine = np.random.default_rng(seed).integers(0, 14, (side, side))
    stored = (np.asarray(grey).astype(np.int64) * 14 + 200 + fine).astype("<u2")
    dataset = film(side, side, PixelData=stored.tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11)
    dataset.WindowCenter, dataset.WindowWidth = 2000, 3000
    dataset.ImagerPixelSpacing = [0.5, 0.5]
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
