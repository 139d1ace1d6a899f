"""Another model in the place of the one that answers: no request dropped, none answered by a model it does not name."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.errors import InputError, PolicyError
from kdistill.explain.batch import FileImage
from kdistill.explain.reading import ImageReader, Reading
from kdistill.explain.student_reader import StudentReader, load_reader
from kdistill.serve import models as module
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs, Model
from kdistill.serve.models import Models, load_model, reload_on_hangup
from kdistill.serve.sockets import server_of
from kdistill.studies.images import decode, to_square

from ..explain.conftest import radiograph
from .students import add_student, make_run, poison

TOKEN = "a-token-of-enough-letters"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two students; copied by every test that changes it."""
    run = make_run(tmp_path_factory.mktemp("run") / "run", weights=0)
    add_student(run, "template", seed=3, weights=1)
    return run


@pytest.fixture
def run(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "run"))


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(radiograph(seed=seed)).save(buffer, format="PNG")
    return buffer.getvalue()


class Room:
    """A server's parts, as `serve_run` puts them together."""

    def __init__(self, run: Path, **settings: object) -> None:
        self.config = ServeConfig.model_validate({"max_waiting": 64, "token": TOKEN, **settings})
        loaded = load_model(run, "full", None)
        self.jobs = Jobs(*loaded.model, self.config)
        self.models = Models(run, "full", None, self.jobs, loaded.samples)
        self.app = create_app(self.jobs, self.config, loaded.samples, models=self.models)


@pytest.fixture
def room(run: Path) -> Room:
    return Room(run)


@pytest.fixture
def client(room: Room) -> Iterator[TestClient]:
    with TestClient(room.app, base_url="http://127.0.0.1", headers=BEARER) as found:
        yield found


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


def serving(room: Room) -> tuple[str, Callable[[], None]]:
    """A real server on a free port: its address, and what ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of(room.app, room.config.model_copy(update={"port": port}))
    thread = threading.Thread(target=server.run)
    thread.start()
    for _ in range(1000):
        if server.started:
            break
        time.sleep(0.02)

    def end() -> None:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()

    return f"http://127.0.0.1:{port}", end


def test_a_swap_under_load_drops_no_request_and_mixes_no_answer(run: Path) -> None:
    room = Room(run)
    old, new = (load_reader(run / "student" / name) for name in ("full/seed-0", "template/seed-3"))
    readers = {reader.name: reader for reader in (old, new)}
    assert len(readers) == 2
    address, end = serving(room)
    swapped, answers = threading.Event(), list[tuple[bytes, bool, dict]]()

    def one(number: int) -> None:
        with httpx.Client(base_url=address, headers=BEARER, timeout=60) as client:
            for turn in range(50):
                data, late = png(20 * turn + number), swapped.is_set()
                answers.append((data, late, answer(client, data)))
                if late:  # one answer that was asked for after the swap
                    return

    try:
        with ThreadPoolExecutor(20) as pool, httpx.Client(base_url=address, headers=BEARER, timeout=60) as operator:
            clients = [pool.submit(one, number) for number in range(20)]
            while len(answers) < 20 and not any(client.done() for client in clients):
                time.sleep(0.02)
            changed = operator.post("/v1/model", json={"arm": "template", "seed": 3})
            swapped.set()
            assert changed.status_code == 200 and changed.json()["model"] == new.name
            assert operator.get("/readyz").status_code == 200
            for found in clients:
                found.result()
    finally:
        end()
    assert {told["model"] for _, _, told in answers} == set(readers)
    assert {told["model"] for _, late, told in answers if late} == {new.name}
    assert sum(late for _, late, _ in answers) == 20
    for data, _, told in answers:
        assert told["image_sha256"] == hashlib.sha256(data).hexdigest()
        shown = [item["probability"] for item in told["observations"]]
        # 2e-6 between one image and a batch of eight, and six decimals; the two models differ by 1e-2 and more.
        np.testing.assert_allclose(shown, told_by(readers[told["model"]], data), atol=1e-4)
        other = readers[({*readers} - {told["model"]}).pop()]
        assert np.abs(shown - told_by(other, data)).max() > 1e-3


def missing_tokenizer(student: Path) -> None:
    for file in (student / "model").glob("tokenizer*"):
        file.unlink()


def thresholds_of_another(student: Path) -> None:
    shutil.copy(student.parents[1] / "full" / "seed-0" / "model" / "thresholds.json", student / "model")


def no_config(student: Path) -> None:
    (student / "config.yaml").unlink()


def cut_weights(student: Path) -> None:
    file = student / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (poison, "NaN or infinity"),
        (thresholds_of_another, "chosen for other weights"),
        (missing_tokenizer, "cannot be loaded"),
        (no_config, "cannot be loaded"),
        (cut_weights, "other weights"),
        (shutil.rmtree, "has no student template"),
    ],
)
def test_a_model_that_is_not_sound_is_refused_and_the_old_one_stays(
    client: TestClient, room: Room, run: Path, damage: Callable[[Path], None], told: str
) -> None:
    before = client.get("/v1/model").json()
    damage(run / "student" / "template" / "seed-3")
    refused = client.post("/v1/model", json={"arm": "template"})
    assert refused.status_code == 409 and told in refused.json()["detail"] and before["model"] in refused.text
    assert str(run) not in refused.text
    assert client.get("/v1/model").json() == before and client.get("/readyz").status_code == 200
    assert answer(client, png())["model"] == before["model"]
    assert 'kdistill_model_swaps_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_metrics_name_the_model_and_count_the_swaps(client: TestClient) -> None:
    first = client.get("/v1/model").json()["model"]
    assert f'kdistill_model_info{{model="{first}"}} 1.0' in client.get("/metrics").text
    second = client.post("/v1/model", json={"arm": "template"}).json()
    measured = client.get("/metrics").text
    assert second["swaps"] == 1 and 'kdistill_model_swaps_total{outcome="done"} 1.0' in measured
    assert f'kdistill_model_info{{model="{second["model"]}"}} 1.0' in measured and first not in measured
    assert client.get("/v1/session").json()["model"] == second["model"]


def test_only_a_server_with_a_token_is_changed_by_requests(run: Path) -> None:
    with TestClient(Room(run, token=None).app, base_url="http://127.0.0.1") as client:
        refused = client.post("/v1/model", json={"arm": "template"})
        assert refused.status_code == 403 and "token" in refused.json()["detail"]
        assert client.get("/v1/model").json()["swaps"] == 0


@pytest.mark.parametrize(
    "choice", [{"arm": "../full"}, {"arm": "a/b"}, {"seed": -1}, {"seed": "0"}, {"model": "x"}, []]
)
def test_what_is_no_choice(client: TestClient, choice: object) -> None:
    assert client.post("/v1/model", json=choice).status_code == 422


def test_a_second_change_has_to_wait(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        go.wait(20)

    monkeypatch.setattr(module, "_try", slow)
    first = threading.Thread(target=room.models.swap, args=("template",))
    first.start()
    assert begun.wait(20)
    with pytest.raises(PolicyError, match="another model is being loaded"):
        room.models.swap("full")
    go.set()
    first.join(20)
    assert room.jobs.reader.name.startswith("template") and room.jobs.num_swaps == 1
    room.jobs.close()


def test_a_student_that_is_published_while_it_is_read_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrain(*_: object) -> None:
        shutil.rmtree(run / "student" / "full")
        add_student(run, weights=5)

    monkeypatch.setattr(module, "_try", retrain)
    with pytest.raises(InputError, match="written anew while it was read"):
        load_model(run, "full", None)


def test_hangup_follows_a_link_to_another_run(
    room: Room, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_run(tmp_path / "other", report="Another report.", weights=7)
    link = tmp_path / "link"
    link.symlink_to(run)
    models = Models(link, "full", None, room.jobs, room.models.samples)
    told: list[str] = []
    before = signal.getsignal(signal.SIGHUP)

    def hang_up(done: Callable[[], bool]) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        deadline = time.monotonic() + 60
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert done()

    try:
        reload_on_hangup(models, told.append, lambda: room.jobs.reader.name)
        link.unlink()
        link.symlink_to(other)
        hang_up(lambda: bool(told))
        assert room.jobs.reader.name == load_reader(other / "student" / "full" / "seed-0").name in told[0]
        assert models.samples is not None and models.samples.truth(0).report == "Another report."
        poison(other / "student" / "full" / "seed-0")
        with caplog.at_level(logging.ERROR):
            hang_up(lambda: "NaN or infinity" in caplog.text)
        assert room.jobs.num_swaps == 1
        shutil.rmtree(other / "student" / "full")
        add_student(other, weights=8)  # mended: the thread that was refused still listens
        hang_up(lambda: len(told) == 2)
    finally:
        signal.signal(signal.SIGHUP, before)
        room.jobs.close()


TERMINAL = """
import fcntl, os, signal, sys, termios, time
from kdistill.serve.models import reload_on_hangup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
reload_on_hangup(None, print, str)
os.write(2, b"ready")
time.sleep(60)
"""


def test_a_server_ends_with_the_terminal_that_it_was_started_from() -> None:
    terminal, inside = pty.openpty()
    server = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=inside, stderr=subprocess.PIPE, start_new_session=True
    )
    with server:
        os.close(inside)
        assert server.stderr and server.stderr.read(5) == b"ready"
        os.close(terminal)
        assert server.wait(30) == 7


def test_samples_follow_the_run(client: TestClient, room: Room, run: Path) -> None:
    shutil.rmtree(run / "studies")
    shutil.copytree(make_run(run.parent / "again", report="New.", weights=2) / "studies", run / "studies")
    assert client.get("/v1/samples/0/truth").json()["report"] == "Clear lungs."
    assert client.post("/v1/model", json={}).status_code == 200
    truth = client.get("/v1/samples/0/truth").json()
    sent = client.post("/v1/samples/0/explain").json()
    while client.get(f"/v1/jobs/{sent['id']}").json()["stage"] != "done":
        time.sleep(0.02)
    shown = client.get(f"/v1/results/{sent['id']}").json()
    assert truth["report"] == "New." and truth["image_sha256"] == shown["image_sha256"]


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
