"""The API as a client meets it: FAULTS 38 to 42, and that every answer is about its own image."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.errors import PolicyError
from kdistill.explain.batch import FileImage, image_of
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import NOTICE
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs, QueueFull
from kdistill.serve.run import serve_run
from kdistill.serve.sockets import server_of
from kdistill.studies.decoding import DecoderPool

from ..explain.conftest import make_library, make_reading, radiograph
from ..explain.test_exports import film

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
        self.go.wait(10)
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


@pytest.fixture
def reader() -> Telling:
    return Telling()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def context() -> ExplanationContext:
    return ExplanationContext(Telling.name, Telling.thresholds, make_library(), RuleLabeler(), ExplainConfig())


def serving(reader: Telling, clock: Clock, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"max_upload_mb": 1, "max_waiting": 2, "batch_size": 4, **settings})
    return TestClient(create_app(Jobs(reader, context(), config, clock=clock), config), base_url="http://127.0.0.1")


@pytest.fixture
def client(reader: Telling, clock: Clock) -> Iterator[TestClient]:
    with serving(reader, clock) as found:
        yield found


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(radiograph(seed=seed)).save(buffer, format="PNG")
    return buffer.getvalue()


def decoded(data: bytes, name: str = "x") -> FileImage:
    with DecoderPool() as pool:
        return image_of(name, data, 64, pool)


def wait(client: TestClient, job: dict) -> dict:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = client.get(f"/v1/jobs/{job['id']}").json()
        if state["stage"] in ("done", "failed", "expired"):
            return state
        time.sleep(0.01)
    raise AssertionError("the job did not end")


def test_an_image_is_explained_as_on_the_command_line(client: TestClient) -> None:
    sent = client.post("/v1/explain", content=png())
    assert sent.status_code == 202 and sent.headers["location"] == f"/v1/jobs/{sent.json()['id']}"
    state = wait(client, sent.json())
    answer = client.get(state["result"]).json()
    image = decoded(png(), "uploaded image")
    expected = explain(image.study_id, image.pixels, Telling.answer(image.pixels), context(), image_sha256=image.sha256)
    assert answer == expected.model_dump(mode="json") and answer["notice"] == NOTICE
    assert client.get(state["result"] + "/json").json() == answer


def test_a_form_is_read_as_the_body_is_and_names_are_ignored(client: TestClient) -> None:
    files = {"image": ("../../etc/passwd", png(), "text/html")}
    answer = client.get(wait(client, client.post("/v1/explain", files=files).json())["result"])
    assert "passwd" not in answer.text and answer.json()["image_sha256"] == hashlib.sha256(png()).hexdigest()


def test_progress_is_told_stage_by_stage(client: TestClient) -> None:
    job = client.post("/v1/explain", content=png()).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        stages = re.findall(r'"stage": "(\w+)"', "".join(events.iter_text()))
    assert stages[-1] == "done" and set(stages) <= {"waiting", "reading", "done"} and len(stages) == len(set(stages))


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/results/{}", "/v1/results/{}/html"])
def test_somebody_elses_result_does_not_exist(client: TestClient, path: str) -> None:
    job = client.post("/v1/explain", content=png()).json()
    wait(client, job)
    assert client.get(path.format(job["id"])).status_code == 200
    client.cookies.clear()
    assert client.get(path.format(job["id"])).status_code == 404
    assert client.delete(f"/v1/results/{job['id']}").status_code == 404


def test_a_result_can_be_deleted_and_ends_by_itself(client: TestClient, clock: Clock) -> None:
    first, second = (client.post("/v1/explain", content=png(seed)).json() for seed in (0, 1))
    wait(client, first)
    wait(client, second)
    assert client.delete(f"/v1/results/{first['id']}").status_code == 204
    assert client.get(f"/v1/results/{first['id']}").status_code == 404
    clock.now += 3599
    assert client.get(f"/v1/results/{second['id']}").status_code == 200
    clock.now += 2
    assert client.get(f"/v1/results/{second['id']}").status_code == 404


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total // 100_000):
        yield b"\0" * 100_000


def test_what_is_too_large_is_refused_while_it_streams(client: TestClient, reader: Telling) -> None:
    assert client.post("/v1/explain", content=b"\0" * 1_000_001).status_code == 413
    assert client.post("/v1/explain", content=chunks(2_000_000)).status_code == 413  # no length is declared
    assert client.post("/v1/explain", files={"image": b"\0" * 1_000_001}).status_code == 413
    assert client.post("/v1/explain", content=b"x", headers={"content-length": "10000000000"}).status_code == 413
    assert reader.batches == []


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 400, "no image"),
        (b"report: normal", 415, "no PNG, JPEG or DICOM"),
        (png()[:-40], 415, "cut short"),
        (b"\x89PNG\r\n\x1a\n", 415, "PNG"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(
    client: TestClient, content: bytes, status: int, told: str
) -> None:
    answer = client.post("/v1/explain", content=content, headers={"content-type": "image/png"})
    assert answer.status_code == status and told in answer.json()["detail"]


def test_forms_that_are_none(client: TestClient) -> None:
    for files in ({"other": png()}, [("image", png()), ("image", png())], {f"f{n}": b"x" for n in range(500)}):
        assert client.post("/v1/explain", files=files).status_code == 400  # type: ignore[arg-type]
    torn = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/explain", content=b"--x\r\nno end", headers=torn).status_code == 400
    assert client.post("/v1/explain", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_twice_the_load_is_told_to_come_again(client: TestClient, reader: Telling) -> None:
    reader.go.clear()
    answers = [client.post("/v1/explain", content=png(seed)) for seed in range(8)]
    taken = [answer.json() for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(taken) + len(refused) == 8 and 2 <= len(taken) <= 4 and int(refused[0].headers["retry-after"]) > 0
    reader.go.set()
    assert {wait(client, job)["stage"] for job in taken} == {"done"}


def test_a_failing_worker_costs_its_own_images_only(client: TestClient, reader: Telling) -> None:
    reader.fail = True
    failed = client.post("/v1/explain", content=png()).json()
    assert wait(client, failed)["stage"] == "failed"
    assert client.get(f"/v1/results/{failed['id']}").status_code == 503
    assert wait(client, client.post("/v1/explain", content=png()).json())["stage"] == "done"


def test_who_waited_too_long_is_not_read(client: TestClient, reader: Telling, clock: Clock) -> None:
    reader.go.clear()
    first = client.post("/v1/explain", content=png()).json()
    while client.get(f"/v1/jobs/{first['id']}").json()["stage"] != "reading":
        time.sleep(0.01)
    late = client.post("/v1/explain", content=png(1)).json()
    clock.now += 61
    reader.go.set()
    assert wait(client, late)["stage"] == "expired" and wait(client, first)["stage"] == "done"
    assert client.get(f"/v1/results/{late['id']}").status_code == 503


def test_not_done_is_said(client: TestClient, reader: Telling) -> None:
    reader.go.clear()
    job = client.post("/v1/explain", content=png()).json()
    assert client.get(f"/v1/results/{job['id']}").status_code == 409
    reader.go.set()


def test_every_answer_is_about_its_own_image(reader: Telling, clock: Clock) -> None:
    with serving(reader, clock, max_waiting=64) as client:

        def one(seed: int) -> bool:
            own = TestClient(client.app, base_url="http://127.0.0.1")  # a browser of its own
            data = png(seed)
            answer = own.get(wait(own, own.post("/v1/explain", content=data).json())["result"]).json()
            image = decoded(data)
            edema = answer["observations"][INDEX["Edema"]]["probability"]
            told = float(Telling.answer(image.pixels).probabilities[INDEX["Edema"]])  # type: ignore[index]
            return answer["image_sha256"] == image.sha256 and edema == pytest.approx(told, abs=1e-6)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(40)))
    assert sum(reader.batches) == 40


def test_formats(client: TestClient) -> None:
    buffer = io.BytesIO()
    source = film(80, 64)
    source.save_as(buffer, enforce_file_format=True)
    result = wait(client, client.post("/v1/explain", content=buffer.getvalue()).json())["result"]
    assert client.get(f"{result}/fhir").json()["resourceType"] == "Bundle"
    report = client.get(f"{result}/dicom-sr")
    assert report.headers["content-type"] == "application/dicom"
    assert pydicom.dcmread(io.BytesIO(report.content)).StudyInstanceUID == source.StudyInstanceUID
    page = client.get(f"{result}/html")
    assert page.text.startswith("<!DOCTYPE html>") and NOTICE in page.text and "Doe" not in page.text
    assert client.get(f"{result}/pdf").content.startswith(b"%PDF")
    assert client.get(f"{result}/docx").status_code == 422
    plain = wait(client, client.post("/v1/explain", content=png()).json())["result"]
    assert client.get(f"{plain}/dicom-sr").status_code == 409


@pytest.fixture
def locked(reader: Telling, clock: Clock) -> Iterator[TestClient]:
    with serving(reader, clock, token=TOKEN, host="0.0.0.0") as found:
        yield found


def test_without_the_token_nothing_is_told(locked: TestClient) -> None:
    for method, path in (
        ("POST", "/v1/explain"),
        ("GET", "/v1/samples"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    ):
        assert locked.request(method, path).status_code == 401
    assert locked.post("/v1/explain", content=png(), headers={"authorization": "Bearer wrong"}).status_code == 401
    assert locked.get("/v1/session").json() | {"version": ""} == {
        "needs_token": True, "may_ask": False, "model": "", "feedback": False, "version": "", "notice": NOTICE,
    }  # fmt: skip
    assert locked.get("/").status_code == locked.get("/healthz").status_code == 200
    assert locked.post("/v1/explain", content=png(), headers={"authorization": f"Bearer {TOKEN}"}).status_code == 202


def test_a_browser_shows_the_token_once(locked: TestClient) -> None:
    assert locked.post("/v1/session", headers={"authorization": "Bearer no"}).status_code == 401
    assert locked.post("/v1/session", headers={"authorization": f"Bearer {TOKEN}"}).json()["may_ask"]
    result = wait(locked, locked.post("/v1/explain", content=png()).json())["result"]
    assert locked.get(f"{result}/html").status_code == 200
    locked.cookies.clear()
    locked.cookies.set("kdistill_session", "guessed")
    assert locked.get(f"{result}/html").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
)
def test_another_site_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/v1/explain", content=png(), headers=headers).status_code == 403


def test_every_answer_carries_the_safety_headers(client: TestClient) -> None:
    for path in ("/", "/page/app.js", "/v1/session", "/v1/results/none", "/metrics"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
    cookie = client.get("/v1/session", headers={"cookie": ""}).headers.get("set-cookie", "")
    client.cookies.clear()
    cookie = cookie or client.get("/v1/session").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie


def test_operation(client: TestClient) -> None:
    wait(client, client.post("/v1/explain", content=png()).json())
    client.post("/v1/explain", content=b"no image")
    assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}
    measured = client.get("/metrics").text
    for line in ('outcome="done"} 1.0', 'outcome="unreadable"} 1.0', "kdistill_waiting 0.0"):
        assert line in measured
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/explain" in paths and "/" not in paths


def test_not_ready_once_the_reading_thread_has_ended(reader: Telling, clock: Clock) -> None:
    client = serving(reader, clock)
    with client:
        assert client.get("/readyz").status_code == 200
    assert client.get("/readyz").status_code == 503


def test_an_open_address_needs_a_token(tmp_path: object) -> None:
    with pytest.raises(PolicyError, match="can be reached from other machines"):
        serve_run(tmp_path, {"host": "0.0.0.0"}, announce=print)  # type: ignore[arg-type]


def test_one_image_that_the_model_cannot_bear_costs_no_other(client: TestClient, reader: Telling) -> None:
    poison = decoded(png(7)).pixels
    reader.refused = poison
    reader.go.clear()
    first = client.post("/v1/explain", content=png(0)).json()
    while client.get(f"/v1/jobs/{first['id']}").json()["stage"] != "reading":
        time.sleep(0.01)
    batch = [client.post("/v1/explain", content=png(seed)).json() for seed in (7, 1)]
    reader.go.set()
    assert [wait(client, job)["stage"] for job in (first, *batch)] == ["done", "failed", "done"]


def test_a_planted_session_is_not_admitted(locked: TestClient) -> None:
    locked.cookies.set("kdistill_session", "planted")
    assert locked.post("/v1/session", headers={"authorization": f"Bearer {TOKEN}"}).headers["set-cookie"]
    locked.cookies.clear()
    locked.cookies.set("kdistill_session", "planted")
    assert locked.get("/v1/samples").status_code == 401


@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}])
def test_headers_that_are_none_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/samples", headers=headers).status_code == 403


def test_closing_ends_although_the_queue_is_full(reader: Telling, clock: Clock) -> None:
    config = ServeConfig(max_waiting=1)
    jobs = Jobs(reader, context(), config, clock=clock)
    reader.go.clear()
    jobs.submit("s", decoded(png()))
    deadline = time.monotonic() + 10
    while jobs.num_waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    jobs.submit("s", decoded(png(1)))
    threading.Timer(0.3, reader.go.set).start()
    jobs.close()
    assert not jobs.is_alive
    with pytest.raises(QueueFull):
        jobs.submit("s", decoded(png(2)))


def test_a_socket_that_never_asks_is_closed(reader: Telling, clock: Clock) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig(port=port)
    server = server_of(create_app(Jobs(reader, context(), config, clock=clock), config), config, idle_s=1)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as idle:
            idle.sendall(b"GET / HT")
            assert idle.recv(100) == b""  # closed from the other side, before the timeout
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {"status": "ok"}
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
