"""SIGINT and SIGTERM: the first lets the running step save and stop, the second exits at once.

Long work reports its progress through a callable; the callable of a watched process raises `Interrupted`. So there is
one channel and no global flag, and whoever trains catches it, saves a checkpoint and lets it go on (see `checkpoints`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from kdistill.errors import KDistillError

OnProgress = Callable[[int, int], None] | None


class Interrupted(KDistillError):
    """A signal asked to stop. `exit_code` is 130 (SIGINT) or 143 (SIGTERM), as shells expect."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}", remedy="Go on with the same command and --resume."
        )
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        # It crosses process borders (a worker stops too), and the base class's arguments would not fit.
        return (Interrupted, (self.signal_number,))


class SignalWatch:
    """Context manager that turns the first of its signals into `Interrupted` at the next progress report."""

    def __init__(self, signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.received: int | None = None
        self._signals = signals
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        for number in self._signals:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    def watched(self, on_progress: OnProgress) -> Callable[[int, int], None]:
        """Wrap a progress callable so that each report is also a place to stop."""

        def report(done: int, total: int) -> None:
            if on_progress:
                on_progress(done, total)
            self.check()

        return report
