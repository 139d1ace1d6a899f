"""FAULTS 41 and 42 over real sockets: whose result it is, and workers that die. docs/faults.md has all rows."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .room import Room, decoders, interrupt
from .telling import are_about, png, wait


def test_41_somebody_elses_id(room: Room) -> None:
    with room.client() as one, room.client() as two:
        job = one.post("/v1/explain", content=png()).json()["id"]
        wait(one, {"id": job})  # type: ignore[arg-type]
        two.get("/v1/session")
        kinds = ("", "/json", "/html", "/pdf", "/fhir", "/dicom-sr", "/dicom-sc")
        paths = [f"/v1/results/{job}{kind}" for kind in kinds] + [f"/v1/jobs/{job}", f"/v1/jobs/{job}/events"]
        assert [two.get(path).status_code for path in paths] == [404] * len(paths)
        assert two.delete(f"/v1/results/{job}").status_code == 404
        unknown = two.get("/v1/results/AAAAAAAAAAAAAAAAAAAAAA")
        assert unknown.json() == two.get(f"/v1/results/{job}").json(), "an id that exists must not look different"
        assert one.get(f"/v1/results/{job}").status_code == 200


def test_41_a_session_that_can_be_guessed_is_replaced(room: Room) -> None:
    for name in ("", "a", "a" * 31, "a" * 33, "\xe4" * 32, "../" * 10 + "ab"):
        headers = {"cookie": f"kdistill_session={name}".encode("latin-1")}
        given = httpx.get(f"{room.url}/v1/session", headers=headers).headers["set-cookie"]
        assert re.match(r"kdistill_session=[A-Za-z0-9_-]{32}; HttpOnly; Path=/; SameSite=strict$", given)


def test_41_twenty_patients_at_once(room: Room) -> None:
    def one(seed: int) -> dict:
        with room.client() as client:
            while (sent := client.post("/v1/explain", content=png(seed))).status_code == 429:
                time.sleep(0.1)
            told: dict = client.get(wait(client, sent.json())["result"]).json()  # type: ignore[arg-type]
            return told

    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(one, range(20)))
    assert are_about(told, [png(seed) for seed in range(20)])


def test_42_a_decoder_is_killed_in_a_request(room: Room) -> None:
    for pause_s in (0.5, 3, 15):  # on a busy machine the request may reach the child only after it was killed
        assert room.is_well()  # it has started
        (child,) = decoders() - room.others
        os.kill(child, signal.SIGSTOP)
        with room.client() as client, ThreadPoolExecutor(1) as pool:
            sent = pool.submit(client.post, "/v1/explain", content=png())
            time.sleep(pause_s)
            os.kill(child, signal.SIGKILL)
            answer = sent.result()
        if answer.status_code != 202:
            break
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    begun = time.monotonic()
    assert room.is_well() and time.monotonic() - begun < 30


@pytest.mark.parametrize("while_reading", [True, False])
def test_42_the_reading_thread_is_killed(room: Room, while_reading: bool) -> None:
    with room.client() as client:
        if while_reading:
            room.reader.go.clear()
            job = client.post("/v1/explain", content=png()).json()
            while client.get(f"/v1/jobs/{job['id']}").json()["stage"] != "reading":
                time.sleep(0.01)
        interrupt(room.jobs._thread.ident)
        room.reader.go.set()
        if while_reading:
            assert wait(client, job)["stage"] == "failed"  # type: ignore[arg-type]
            assert client.get(f"/v1/results/{job['id']}").status_code == 503
        begun = time.monotonic()
        assert room.is_well() and time.monotonic() - begun < 30
        assert client.get("/readyz").status_code == 200
