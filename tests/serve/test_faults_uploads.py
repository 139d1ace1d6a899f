"""FAULTS 38 over real sockets: uploads that are no images, or far too much. docs/faults.md has all rows."""

from __future__ import annotations

import time

import httpx
import numpy as np
import pytest

from .room import SCRIPT, Room, resident_mb
from .sockets import connected, head, status
from .telling import png, wait

GIB = 2**30


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
