"""Sockets that never ask: uvicorn's own timer starts after a first answer, so an idle one would stay for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


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
