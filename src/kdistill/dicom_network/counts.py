"""What happened so far, in numbers: the only thing that is ever told of the images that came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

#: Received = accepted + duplicates + refused; accepted = explained + failed + those still open. Every object is
#: delivered, kept or lost; one that was delivered and not committed to is kept or lost besides.
NAMES: Final = (
    "associations",
    "received",
    "accepted",
    "duplicates",
    "refused_other",
    "refused_unreadable",
    "refused_busy",
    "explained",
    "failed",
    "objects_delivered",
    "objects_kept",
    "objects_lost",
    "objects_committed",
    "objects_uncommitted",
    "reports_unknown",
    "attempts_failed",
)


class Counts:
    """Counters that any thread may raise."""

    def __init__(self) -> None:
        self._lock, self._values = threading.Lock(), dict.fromkeys(NAMES, 0)

    def add(self, name: str, number: int = 1) -> None:
        """Raise a counter.

        Raises:
            KeyError: There is none of this name.
        """
        with self._lock:
            self._values[name] += number

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._values[name]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        with self._lock:
            return iter(list(self._values.items()))
