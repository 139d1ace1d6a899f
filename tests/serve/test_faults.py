"""FAULTS 38 to 42 over real sockets; each test has its row's number in its name. docs/faults.md has all rows."""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pypdf
import pytest
from fastapi.testclient import TestClient

from kdistill.errors import PolicyError
from kdistill.explain.reading import Reading
from kdistill.observations import INDEX
from kdistill.serve import desk, sockets
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.run import serve_run

from ..explain.test_exports import film
from .room import Room, decoder_pid, interrupt, resident_mb
from .serving import listening
from .sockets import break_off, connected, everything, head, seconds_until_closed, status
from .test_app import TOKEN, Clock, Telling, context, decoded, png, serving, wait

IDLE_S = 1
GIB = 2**30
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def running() -> Iterator[Room]:
    reader = Telling()
    config = ServeConfig(port=0, max_upload_mb=1, max_waiting=4, decoders=1)
    jobs = Jobs(reader, context(), config)
    with listening(create_app(jobs, config), config, idle_s=IDLE_S) as (server, port):
        yield Room(server, port, reader, jobs)


@pytest.fixture
def room(running: Room, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(desk, "FIRST_BYTES_S", 1.0)
    return running


# 38: uploads


@pytest.mark.parametrize("length", ["Content-Length: 10000000000", "Transfer-Encoding: chunked"])
def test_38_ten_gigabytes(room: Room, length: str) -> None:
    piece = b"\0" * 65536
    piece = piece if "Length" in length else f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    before, sent = resident_mb(), 0
    with connected(room.port) as client:
        client.sendall(head("POST /v1/explain", length))
        try:
            while sent < 10 * GIB:
                sent += client.send(piece)
        except ConnectionError:
            pass
    assert sent < 10 * GIB, "the server must not take it all"
    assert resident_mb() - before < 60, "nor keep it"
    with connected(room.port) as client:
        client.sendall(head("POST /v1/explain", length) + piece * 20)
        assert status(client) == 413
    assert room.is_well()


def test_38_a_hundred_thousand_parts(room: Room) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n.\r\n'
    with connected(room.port) as client:
        client.sendall(
            head("POST /v1/explain", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 900000")
        )
        client.sendall(part * 13)
        assert status(client) == 400  # before the rest has come
    with room.client() as client:
        kind = {"content-type": "multipart/form-data; boundary=x"}
        begun = time.monotonic()
        try:
            code = client.post("/v1/explain", content=(part * 1000 for _ in range(100)), headers=kind).status_code
        except httpx.TransportError:
            code = 400  # closed while it went on
        assert code == 400 and time.monotonic() - begun < 20


@pytest.mark.parametrize("name", ["../../x", "..\\..\\x", "/etc/passwd", "a\0b", "\u202egnp.exe", "n" * 3000, SCRIPT])
def test_38_file_names_are_ignored(room: Room, name: str) -> None:
    with room.client() as client:
        sent = client.post("/v1/explain", files={"image": (name, png(), "image/png")})
        result = wait(client, sent.json())["result"]  # type: ignore[arg-type]
        told = client.get(result).text
    assert '"study_id":"uploaded image"' in told and name not in told


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "image/jpeg", "application/dicom", "x", "", "multipart/x"]
)
def test_38_a_content_type_may_lie(room: Room, kind: str) -> None:
    with room.client() as client:
        headers = {"content-type": kind}
        assert client.post("/v1/explain", content=png(), headers=headers).status_code == 202
        assert client.post("/v1/explain", content=b"<html>", headers=headers).status_code == 415


def test_38_torn_forms(room: Room) -> None:
    whole = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
        + png() + b"\r\n--x--\r\n"
    )  # fmt: skip
    random = np.random.default_rng(0)
    codes = set()
    with room.client() as client:
        for case in range(60):
            data = bytearray(whole)
            for place in random.integers(0, 110, 3):  # the frame, not the picture
                data[place] = random.integers(0, 256)
            boundary = "x" if case % 3 else 'x"; charset=\xff; boundary=' + "y" * case
            kind = f"multipart/form-data; boundary={boundary}".encode("latin-1")
            answer = client.post("/v1/explain", content=bytes(data[: len(data) - case]), headers={"content-type": kind})
            codes.add(answer.status_code)
    assert codes <= {202, 400, 415, 429} and 400 in codes


# 39: sockets that keep others waiting


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


# 40: who may ask


@pytest.fixture(scope="module")
def locked() -> Iterator[TestClient]:
    with serving(Telling(), Clock(), token=TOKEN, host="0.0.0.0") as client:
        yield client


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}\xff",
    ],
)
def test_40_no_token_and_wrong_tokens(locked: TestClient, given: str) -> None:
    headers = {"authorization": given.encode("latin-1")} if given else {}
    for method, path in (("POST", "/v1/explain"), ("GET", "/v1/samples"), ("GET", "/openapi.json")):
        assert locked.request(method, path, headers=headers).status_code == 401  # type: ignore[arg-type]
    assert locked.get("/v1/samples", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/v1/samples", {"origin": "https://evil.example"}, 403),
        ("/v1/samples", {"origin": "null"}, 403),
        ("/v1/samples", {"origin": "http://127.0.0.1:9999"}, 403),
        ("/v1/samples", {"sec-fetch-site": "cross-site"}, 403),
        ("/v1/samples", {"sec-fetch-site": "same-site"}, 403),  # another port of this machine
        ("/v1/samples", {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1"}, 200),
        ("/v1/samples", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link to the page
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ("/healthz", {"host": "evil.example"}, 403),
        ("/", {"host": "127.0.0.1.evil.example", "sec-fetch-mode": "navigate"}, 403),
        ("/healthz", {"host": "localhost:1234"}, 200),
        ("/healthz", {"host": "[::1]:1234"}, 200),
        ("/healthz", {"host": "0.0.0.0"}, 403),
    ],
)  # fmt: skip
def test_40_other_sites_and_rebound_names(room: Room, path: str, headers: dict[str, str], code: int) -> None:
    own = {"host": "127.0.0.1"} if "origin" in headers else {}
    assert httpx.get(f"{room.url}{path}", headers={**own, **headers}).status_code == code


class Scripting(Telling):
    """Writes what a page must not run."""

    def read(self, images: np.ndarray) -> list[Reading]:
        return [
            replace(self.answer(image), findings=f"There is edema. {SCRIPT}", impression=f"Edema {SCRIPT}")
            for image in images
        ]


def test_40_scripts_are_text() -> None:
    source = film(80, 64, StudyDescription=SCRIPT, PatientName=SCRIPT, PatientID=SCRIPT)
    buffer = io.BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    with serving(Scripting(), Clock()) as client:
        for data, name in ((png(), f"{SCRIPT}.png"), (buffer.getvalue(), "x")):
            result = wait(client, client.post("/v1/explain", files={"image": (name, data)}).json())["result"]
            page, told = client.get(f"{result}/html"), client.get(result)
            assert SCRIPT not in page.text and "&lt;script&gt;" in page.text
            assert SCRIPT in told.json()["findings"] and told.headers["content-type"] == "application/json"
            assert told.headers["x-content-type-options"] == page.headers["x-content-type-options"] == "nosniff"
            pdf = pypdf.PdfReader(io.BytesIO(client.get(f"{result}/pdf").content))
            assert "alert(1)" in "".join(sheet.extract_text() for sheet in pdf.pages)
            assert not any(key in str(pdf.trailer["/Root"]) for key in ("/JavaScript", "/OpenAction", "/AA"))


def test_40_an_address_is_never_fetched(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, room.client() as client:
        url = f"http://127.0.0.1:{other.getsockname()[1]}/film.png"
        buffer = io.BytesIO()
        film(80, 64, RetrieveURL=url, RetrieveURI=url).save_as(buffer, enforce_file_format=True)
        assert client.post("/v1/explain", content=url).status_code == 415
        assert client.post("/v1/explain", json={"url": url, "image": url}).status_code == 415
        assert client.post("/v1/explain", data={"image": url, "url": url}).status_code == 415
        assert (
            client.post("/v1/explain", files={"image": ("x.url", f"[InternetShortcut]\nURL={url}")}).status_code == 415
        )
        assert client.post("/v1/explain", files={"image": (None, url)}).status_code == 400
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        assert client.post("/v1/explain", content=svg, params={"url": url}).status_code == 415
        wait(client, client.post("/v1/explain", content=buffer.getvalue()).json())  # type: ignore[arg-type]
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "reading.example", ""])
def test_40_an_open_address_needs_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(PolicyError, match="can be reached from other machines"):
        serve_run(tmp_path, {"host": host}, announce=print)


SMUGGLED = head("DELETE /v1/results/x")


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Content-Length: 5", "Content-Length: 6"), b"12345"),
        (("Content-Length: 0", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (("Transfer-Encoding: chunked", "Content-Length: 4"), b"0\r\n\r\n"),
        (("Transfer-Encoding: identity, chunked",), b"0\r\n\r\n"),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: x"), b"0\r\n\r\n"),
        (("Transfer-Encoding : chunked",), b"0\r\n\r\n"),
        (("Content-Length: +5",), b"12345"),
        (("Content-Length: -1",), b""),
        (("X: y\r\n Content-Length: 5\x00",), b"12345"),
        (("Transfer-Encoding: chunked",), b"zz\r\n"),
        (("X: " + "y" * 1_000_000,), b""),
    ],
    ids=[
        "two lengths", "length and chunks", "chunks and length", "two codings", "two coding lines",
        "space before colon", "signed", "negative", "control character", "no chunk", "long head",
    ],
)  # fmt: skip
def test_40_a_request_within_a_request(room: Room, lines: tuple[str, ...], body: bytes) -> None:
    """Where two programs could disagree about a request's end, it is refused and nothing after it is believed."""
    with connected(room.port) as client:
        client.sendall(head("POST /v1/explain", *lines) + body + SMUGGLED)
        answers = re.findall(rb"HTTP/1\.1 (\d+)", everything(client))
    assert len(answers) == 1 and answers[0] in (b"400", b"501", b"431")
    assert room.is_well()


# 41: whose result it is


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
    def one(seed: int) -> tuple[bool, bool]:
        data = png(seed)
        with room.client() as client:
            while (sent := client.post("/v1/explain", content=data)).status_code == 429:
                time.sleep(0.1)
            result = client.get(wait(client, sent.json())["result"]).json()  # type: ignore[arg-type]
        image = decoded(data)
        expected = float(Telling.answer(image.pixels).probabilities[INDEX["Edema"]])  # type: ignore[index]
        told = result["observations"][INDEX["Edema"]]["probability"]
        return result["image_sha256"] == hashlib.sha256(data).hexdigest(), told == pytest.approx(expected, abs=1e-6)

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(one, range(20))) == {(True, True)}


# 42: workers that die


def test_42_a_decoder_is_killed_in_a_request(room: Room) -> None:
    assert room.is_well()  # it has started
    child = decoder_pid()
    os.kill(child, signal.SIGSTOP)
    with room.client() as client, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client.post, "/v1/explain", content=png())
        time.sleep(0.5)
        os.kill(child, signal.SIGKILL)
        answer = sent.result()
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
