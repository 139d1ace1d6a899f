"""Clients that a library would not let misbehave: plain sockets."""

from __future__ import annotations

import socket
import struct
import time


def connected(port: int, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection to loopback; `receive_bytes`: how little the client's side takes in unread."""
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def head(line: str, *headers: str) -> bytes:
    """A request's head."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1")


def status(client: socket.socket) -> int:
    """The status of the next answer; 0 where the connection was closed without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        try:
            more = client.recv(65536)
        except ConnectionError:
            break
        if not more:
            break
        received += more
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0


def everything(client: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    while True:
        try:
            more = client.recv(65536)
        except ConnectionError:
            return received
        if not more:
            return received
        received += more


def seconds_until_closed(client: socket.socket, *, trickle: bytes = b"", limit_s: float = 20) -> float:
    """How long the other side keeps a connection that sends one byte of `trickle` every tenth of a second."""
    begun, sent = time.monotonic(), 0
    client.settimeout(0.1)
    while time.monotonic() - begun < limit_s:
        try:
            if sent < len(trickle):
                client.sendall(trickle[sent : sent + 1])
                sent += 1
            if client.recv(65536) == b"":
                return time.monotonic() - begun
        except TimeoutError:
            continue
        except ConnectionError:
            return time.monotonic() - begun
    return limit_s


def break_off(client: socket.socket) -> None:
    """Close as a client that dies does: with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
