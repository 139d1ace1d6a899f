"""FAULTS 39 over real sockets: connections that keep others waiting. docs/faults.md has all rows."""

from __future__ import annotations

import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kdistill.serve import sockets

from .room import IDLE_S, Room
from .sockets import break_off, connected, everything, head, seconds_until_closed, status
from .telling import png, wait


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of 500 connections are in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]) if before[1] > 0 else 4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HT", head("POST /v1/explain", "Content-Length: 900000")],
    ids=["silent", "half", "head"],
)
def test_39_five_hundred_idle_sockets(room: Room, many_files: None, sent: bytes) -> None:
    idle = [connected(room.port) for _ in range(500)]
    try:
        for client in idle:
            client.sendall(sent)
        assert room.is_well()
        assert max(seconds_until_closed(client) for client in (idle[0], idle[250], idle[-1])) < 15
    finally:
        for client in idle:
            client.close()
    assert room.is_well()


def test_39_more_sockets_than_may_be_open(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_CONNECTIONS", 20)
    idle = [connected(room.port) for _ in range(40)]
    begun = time.monotonic()
    assert room.is_well()
    assert seconds_until_closed(idle[0]) < 5 and time.monotonic() - begun < 20
    for client in idle:
        client.close()


@pytest.mark.parametrize("before", [b"", head("GET /healthz")], ids=["first head", "second head"])
def test_39_a_head_that_trickles(room: Room, before: bytes) -> None:
    with connected(room.port) as client:
        if before:
            client.sendall(before)
            assert status(client) == 200
        assert seconds_until_closed(client, trickle=head("GET /healthz", *(["X: y"] * 50))) < IDLE_S + 9


def test_39_a_body_that_trickles(room: Room) -> None:
    with connected(room.port) as client:
        client.sendall(head("POST /v1/explain", "Content-Length: 900000"))
        client.sendall(b"\0" * 1000)
        begun = time.monotonic()
        assert status(client) == 408 and time.monotonic() - begun < 10
    assert room.is_well()


def test_39_a_body_that_goes_on_after_it_was_refused(room: Room) -> None:
    with connected(room.port) as client:
        client.sendall(head("POST /v1/explain", "Content-Length: 2000000"))
        assert status(client) == 413
        assert seconds_until_closed(client, trickle=b"\0" * 1000) < IDLE_S + 9


def test_39_an_answer_that_nobody_takes(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "WRITE_S", 1)
    with room.client() as client:
        result = wait(client, client.post("/v1/explain", content=png()).json())["result"]  # type: ignore[arg-type]
        cookie = f"Cookie: kdistill_session={client.cookies['kdistill_session']}"
    asked = head(f"GET {result}/html", cookie)
    for found in room.server.servers[0].sockets:  # what is accepted from here on takes this little into its buffers
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    with connected(room.port, receive_bytes=4096) as slow:
        slow.sendall(asked * 3)
        connections, deadline = room.server.server_state.connections, time.monotonic() + 30
        while not connections and time.monotonic() < deadline:
            time.sleep(0.01)
        while connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not connections, "the server must not wait for it"
        received = everything(slow)
    assert received.startswith(b"HTTP/1.1 200") and received.count(b"HTTP/1.1 200") < 3
    assert room.is_well()


def test_39_uploads_that_break_off_leave_nothing(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"\0" * 300_000
    for number in range(12):  # three times as many as may wait
        client = connected(room.port)
        kind = "Content-Type: multipart/form-data; boundary=x" if number % 2 else "Content-Type: image/png"
        client.sendall(head("POST /v1/explain", kind, "Content-Length: 900000") + form)
        time.sleep(0.02)
        break_off(client)
    time.sleep(0.2)
    assert room.is_well() and list(tmp_path.iterdir()) == []
    told = httpx.get(f"{room.url}/metrics").text
    broken = re.search(r'outcome="broken_off"} (\d+)', told)
    assert broken is not None and int(broken[1]) >= 8 and "kdistill_waiting 0.0" in told
