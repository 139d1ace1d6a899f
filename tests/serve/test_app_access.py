"""Who may ask, and what a browser may do with an answer (FAULTS 40 and 41)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from kdistill.errors import PolicyError
from kdistill.explain.explanation import NOTICE
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.run import serve_run
from kdistill.serve.sockets import server_of

from .telling import TOKEN, Clock, Telling, context, png, serving, wait


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/results/{}", "/v1/results/{}/html"])
def test_somebody_elses_result_does_not_exist(client: TestClient, path: str) -> None:
    job = client.post("/v1/explain", content=png()).json()
    wait(client, job)
    assert client.get(path.format(job["id"])).status_code == 200
    client.cookies.clear()
    assert client.get(path.format(job["id"])).status_code == 404
    assert client.delete(f"/v1/results/{job['id']}").status_code == 404


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


def test_an_open_address_needs_a_token(tmp_path: object) -> None:
    with pytest.raises(PolicyError, match="can be reached from other machines"):
        serve_run(tmp_path, {"host": "0.0.0.0"}, announce=print)  # type: ignore[arg-type]


def test_a_planted_session_is_not_admitted(locked: TestClient) -> None:
    locked.cookies.set("kdistill_session", "planted")
    assert locked.post("/v1/session", headers={"authorization": f"Bearer {TOKEN}"}).headers["set-cookie"]
    locked.cookies.clear()
    locked.cookies.set("kdistill_session", "planted")
    assert locked.get("/v1/samples").status_code == 401


@pytest.mark.parametrize("headers", [{"host": "["}, {"origin": "http://["}])
def test_headers_that_are_none_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/samples", headers=headers).status_code == 403


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
