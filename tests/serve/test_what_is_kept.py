"""What is left of a film once it was deleted, has expired, or was never wanted: nothing, also in a name in a frame."""

from __future__ import annotations

import gc
import socket
import time
import weakref
from collections.abc import Callable
from typing import Any

import httpx

from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs
from kdistill.studies import decoding_child
from kdistill.studies.decoding_child import Answer

from .serving import listening
from .sockets import head
from .telling import Clock, Telling, context, decoded, png, serving, wait


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120  # a busy machine is slow, not wrong
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_no_thread_holds_a_film_that_was_deleted() -> None:
    jobs = Jobs(Telling(), context(), ServeConfig(max_waiting=2))

    def read_and_deleted() -> weakref.ref[Job]:
        job = jobs.submit("s", decoded(png()))
        assert until(lambda: job.stage == "done")
        assert jobs.delete(job.id, "s")
        return weakref.ref(job)

    kept = read_and_deleted()
    gc.collect()
    assert until(lambda: kept() is None), "the reading thread waits for the next film with this one in its hands"
    jobs.close()


class _Held:
    """Stands for an uploaded file: bytes take no weak reference."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def test_a_decoder_holds_no_file_while_it_waits(monkeypatch: Any) -> None:
    kept: list[weakref.ref[_Held]] = []
    waiting: list[bool] = []

    class Requests:
        """Two requests; while the second is awaited, it looks whether the first file is still held."""

        def __init__(self) -> None:
            self.num = 0

        def read(self, _: int) -> _Held:
            held = _Held(b"file")
            kept.append(weakref.ref(held))
            return held

    def asked(stream: Requests) -> dict[str, Any] | None:
        gc.collect()
        waiting.extend(ref() is not None for ref in kept)
        stream.num += 1
        return {"bytes": 4} if stream.num < 3 else None

    monkeypatch.setattr(decoding_child, "_read_json", asked)
    monkeypatch.setattr(decoding_child, "_limit", lambda _: None)
    monkeypatch.setattr(decoding_child, "_send", lambda *_: None)
    monkeypatch.setattr(decoding_child, "_private_streams", lambda: (Requests(), _Nowhere()))
    monkeypatch.setattr(decoding_child.sys, "argv", ["child", "10", "100"])
    level = decoding_child.logging.root.manager.disable
    decoding_child.serve(lambda _request, _payload: Answer({}))
    decoding_child.logging.disable(level)
    assert waiting == [False] * 3


class _Nowhere:
    def write(self, _: bytes) -> None: ...
    def flush(self) -> None: ...


def copies(jobs: Jobs, clock: Clock) -> tuple[Job, list[Job]]:
    """A film that came 50 minutes ago, and two copies that were made of it now."""
    first = jobs.submit("s", decoded(png()))
    assert until(lambda: first.stage == "done")
    clock.now += 3000
    made = jobs.submit_all("s", [first.image, decoded(png(1))], made_from=first.id, first=first.explanation)
    assert until(lambda: made[1].stage == "done")
    return first, made


def test_copies_of_a_film_expire_with_it() -> None:
    clock = Clock()
    jobs = Jobs(Telling(), context(), ServeConfig(max_waiting=4), clock=clock)
    first, made = copies(jobs, clock)
    clock.now += 700
    assert jobs.find(first.id, "s") is None
    assert [jobs.find(job.id, "s") for job in made] == [None, None], "the film itself stood there for an hour more"
    jobs.close()


def test_copies_of_copies_go_at_once_too() -> None:
    clock = Clock()
    jobs = Jobs(Telling(), context(), ServeConfig(max_waiting=4), clock=clock)
    first, made = copies(jobs, clock)
    (more,) = jobs.submit_all("s", [decoded(png(2))], made_from=made[1].id)
    assert jobs.delete(first.id, "s")
    assert more.id not in jobs._jobs and more.is_deleted
    jobs.close()


def test_a_film_that_makes_room_takes_its_copies_along() -> None:
    clock = Clock()
    jobs = Jobs(Telling(), context(), ServeConfig(max_waiting=4, max_results=3), clock=clock)
    first, made = copies(jobs, clock)
    jobs.submit("other", decoded(png(2)))
    assert [jobs.find(job.id, "s") for job in (first, *made)] == [None] * 3
    jobs.close()


def test_who_has_gone_while_the_film_was_decoded_leaves_none() -> None:
    """The page's "×" while a film is sent: its answer is never read, so that nobody could delete it."""
    config = ServeConfig(port=0, max_waiting=4, decoders=1)
    jobs = Jobs(Telling(), context(), config)
    with listening(create_app(jobs, config), config) as (_, port):
        url = f"http://127.0.0.1:{port}"
        data = png()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head("POST /v1/explain", f"Content-Length: {len(data)}") + data)
        assert until(lambda: 'outcome="broken_off"} 1.0' in httpx.get(f"{url}/metrics").text)
        assert len(jobs._jobs) == 0
        with httpx.Client(base_url=url, timeout=30) as other:
            assert wait(other, other.post("/v1/explain", content=data).json())["stage"] == "done"  # type: ignore[arg-type]


def test_a_film_whose_sender_stays_is_kept() -> None:
    with serving(Telling(), Clock()) as client:
        assert client.post("/v1/explain", content=png()).status_code == 202
