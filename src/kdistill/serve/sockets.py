"""Sockets that keep others waiting: uvicorn times only the pause between two requests, and any byte ends that pause."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from kdistill.serve.config import ServeConfig

#: Below the 1,024 files that a process may usually open; the rest is for decoders and the model's files.
MAX_CONNECTIONS: Final = 800
#: A reader that takes nothing of its answer for so long has gone.
WRITE_S: Final = 30


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection which asks nothing, asks too slowly, or does not take its answer.

    One timer runs from the moment a request head is awaited (the connection is new, or an answer is complete) until
    that head is whole. Bytes do not renew it: neither a head that trickles in, the first or a later one, nor a body
    that goes on after it was refused holds a connection open.
    """

    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer; where very many are connected, the one that has asked nothing for longest must go."""
        super().connection_made(transport)
        self._look()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Stop the timer at a whole request head."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Start it again for the next one."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """The reader is slow: it has `WRITE_S` seconds to take what is ready."""
        super().pause_writing()
        if self._write is None:
            self._write = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader has taken it."""
        super().resume_writing()
        self._stop_write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both timers with the connection."""
        self._stop_head()
        self._stop_write()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size() and self._write is None:
                self._write = self.loop.call_later(WRITE_S, self.transport.abort)
        elif self.cycle is not None and not self.cycle.response_complete:
            self._stop_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_write(self) -> None:
        if self._write is not None:
            self._write.cancel()
            self._write = None

    def _give_up(self) -> None:
        self._stop_head()  # closing waits for bytes that nobody takes; aborting does not
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _make_room(self) -> None:
        found = [other for other in self.connections if isinstance(other, ImpatientProtocol)]
        min(found, key=ImpatientProtocol._waits_until).transport.abort()  # at least this one waits: it is new

    def _waits_until(self) -> float:
        return math.inf if self._head is None else self._head.when()


def server_of(app: FastAPI, config: ServeConfig, *, idle_s: int = 10) -> uvicorn.Server:
    """The server of an application.

    Args:
        app: The application.
        config: Where it listens.
        idle_s: Seconds after which a connection that asks nothing is closed.
    """
    settings = uvicorn.Config(
        app,
        config.host,
        config.port,
        http=ImpatientProtocol,
        ws="none",  # nothing here speaks it, and an upgraded connection would have no timer
        log_level="warning",
        access_log=False,  # it would hold addresses of readers
        server_header=False,
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=30,
    )
    return uvicorn.Server(settings)
