"""Sockets that never ask: uvicorn's own timer starts after a first answer, so an idle one would stay for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from kdistill.serve.config import ServeConfig


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose first request head has not come within the keep-alive time."""

    _first_head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer."""
        super().connection_made(transport)
        self._first_head = self.loop.call_later(self.timeout_keep_alive, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop it at the first whole request head."""
        super().data_received(data)
        if self.cycle is not None:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it with the connection."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._first_head is not None:
            self._first_head.cancel()
            self._first_head = None


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
        log_level="warning",
        access_log=False,  # it would hold addresses of readers
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=30,
    )
    return uvicorn.Server(settings)
