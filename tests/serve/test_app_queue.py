"""What waits, is turned away, fails or comes too late: each image for itself (FAULTS 39, 41 and 42)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs, QueueFull

from .telling import Clock, Telling, are_about, context, decoded, png, serving, wait


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
    films = [png(seed) for seed in range(40)]
    with serving(reader, clock, max_waiting=64) as client:

        def one(film: bytes) -> dict:
            own = TestClient(client.app, base_url="http://127.0.0.1")  # a browser of its own
            told: dict = own.get(wait(own, own.post("/v1/explain", content=film).json())["result"]).json()
            return told

        with ThreadPoolExecutor(8) as pool:
            assert are_about(list(pool.map(one, films)), films)
    assert sum(reader.batches) == 40


def test_not_ready_once_the_reading_thread_has_ended(reader: Telling, clock: Clock) -> None:
    client = serving(reader, clock)
    with client:
        assert client.get("/readyz").status_code == 200
    assert client.get("/readyz").status_code == 503


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
