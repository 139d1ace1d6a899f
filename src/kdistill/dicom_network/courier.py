"""Brings objects to their destination: again with growing pauses while it is away, in the end into an outbox or lost.

Nothing is lost in silence: each object is delivered, kept in the outbox or lost, and counted so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from kdistill.dicom_network.config import SendConfig
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.destinations import Destination, FolderDestination
from kdistill.dicom_network.parts import Outcome, Part

logger = logging.getLogger(__name__)


class Courier:
    """Delivers objects, one call at a time.

    Args:
        destination: Where to.
        config: How often, how long.
        counts: Told what became of each object.
        outbox: Where an object is kept that could not be delivered; None: it is lost.
        loses: False: the objects are files that stay where they are, so that none is lost, and whoever sends them is
            told what `deliver` returns instead of reading it in a log.
        wait: Waits for so many seconds, and says whether to hurry: then one last attempt is made at once. None: it
            waits, and never hurries.
    """

    def __init__(
        self,
        destination: Destination,
        config: SendConfig,
        counts: Counts,
        *,
        outbox: FolderDestination | None = None,
        loses: bool = True,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._destination, self._config, self._counts = destination, config, counts
        self._outbox, self._wait = outbox, wait or threading.Event().wait
        self._loses = loses

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        """Send objects until each is there or given up; one last outcome each.

        Args:
            parts: The objects; those that may be sent again are.
        """
        outcomes = [Outcome("again")] * len(parts)
        pause, hurry = self._config.first_pause_s, False
        for attempt in range(1, self._config.attempts + 1):
            left = [n for n, outcome in enumerate(outcomes) if outcome.fate == "again"]
            for n, outcome in zip(left, self._destination.deliver([parts[n] for n in left]), strict=True):
                outcomes[n] = outcome
            waiting = [outcome for outcome in outcomes if outcome.fate == "again"]
            if waiting:
                self._counts.add("attempts_failed")
            if waiting and (self._loses or attempt < self._config.attempts):
                logger.warning("%d objects were not delivered at attempt %d: %s", len(waiting), attempt, waiting[0][1])
            if not waiting or hurry:
                break
            if attempt < self._config.attempts:
                hurry = self._wait(pause)
                pause = min(2 * pause, self._config.longest_pause_s)
        for part, outcome in zip(parts, outcomes, strict=True):
            self._settle(part, outcome)
        return outcomes

    def _settle(self, part: Part, outcome: Outcome) -> None:
        if outcome.fate == "delivered":
            self._counts.add("objects_delivered")
        else:
            self.keep(part, outcome)

    def keep(self, part: Part, outcome: Outcome) -> None:
        """Put an object that is not safe with its destination into the outbox; without one it is lost.

        Args:
            part: The object.
            outcome: What became of it.
        """
        if self._outbox is not None and self._outbox.deliver([part])[0].fate == "delivered":
            self._counts.add("objects_kept")
            logger.warning("an object was put into the outbox: %s", outcome.reason)
        elif self._loses:
            self._counts.add("objects_lost")
            logger.error("an object is not safe with its destination, and no outbox holds it: %s", outcome.reason)
