"""FAULTS 40 over real sockets: who may ask, and what an answer may do. docs/faults.md has all rows."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pypdf
import pytest
from fastapi.testclient import TestClient

from kdistill.errors import PolicyError
from kdistill.explain.reading import Reading
from kdistill.serve.run import serve_run

from ..explain.test_exports import film
from .room import SCRIPT, Room
from .sockets import connected, everything, head
from .telling import TOKEN, Clock, Telling, png, serving, wait


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
