"""Where objects come in: checked, decoded, queued for the model, or refused with the status that says why."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, Final, NamedTuple

from kdistill.dicom_network.config import ListenConfig
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.statuses import Answer
from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.batch import image_of
from kdistill.explain.dicom_sr import MANUFACTURER
from kdistill.serve.jobs import Jobs, QueueFull
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.dicom import dicom_header

logger = logging.getLogger(__name__)

#: In place of a name: an instance UID names a patient to who has the archive.
RECEIVED: Final = "received image"
#: Jobs of this desk; no session of a browser is called so.
SESSION: Final = "dicom"
_NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


class Arrived(NamedTuple):
    """One object as it came: what the request calls it, and the file that its data set makes."""

    sop_class: str
    instance: str
    data: bytes


class Desk:
    """Takes objects in for a model. Used by one thread for each association.

    Args:
        jobs: The model and its queue.
        pool: Where images are decoded; it must not refuse other body parts by itself (`require_chest=False`).
        config: Sizes and policies.
        counts: Told of each answer.
    """

    def __init__(self, jobs: Jobs, pool: DecoderPool, config: ListenConfig, counts: Counts) -> None:
        self._jobs, self._pool, self._config, self._counts = jobs, pool, config, counts
        self._lock = threading.Lock()
        #: Instances, and whether each was accepted: one that is still being looked at may be refused yet.
        self._known: OrderedDict[str, bool] = OrderedDict()
        self._open = self._taking = 0
        self._ending = False

    @property
    def num_open(self) -> int:
        """Images accepted, or being looked at, that have not been answered yet."""
        return self._open

    @property
    def num_taking(self) -> int:
        """Objects whose sender waits for a status."""
        return self._taking

    def end(self) -> None:
        """Accept nothing more."""
        self._ending = True

    def take(self, arrived: Arrived) -> Answer:
        """Accept or refuse an object; what is accepted will be explained."""
        self._counts.add("received")
        answer = self._reserve(arrived.instance)
        if answer is None:
            answer = self._look(arrived)
        if answer is not Answer.ACCEPTED and answer is not Answer.DUPLICATE:
            logger.warning("an object was refused (0x%04X): %s", answer.status, answer.comment)
        self._counts.add(answer.counted_as)
        return answer

    def close(self, instance: str, *, forget: bool) -> None:
        """An accepted image needs nothing more.

        Args:
            instance: Its SOP Instance UID.
            forget: Nobody has got its result: the same object may come again.
        """
        with self._lock:
            self._open -= 1
            if forget:
                self._known.pop(instance, None)
            while len(self._known) > self._config.remember:
                self._known.popitem(last=False)

    def _reserve(self, instance: str) -> Answer | None:
        with self._lock:
            if instance in self._known:
                return Answer.DUPLICATE if self._known[instance] else Answer.BUSY
            if self._ending:
                return Answer.ENDING
            if self._open >= self._config.max_open:
                return Answer.BUSY
            self._open += 1
            self._taking += 1
            self._known[instance] = False
        return None

    def _look(self, arrived: Arrived) -> Answer:
        accepted = False
        try:
            answer = self._judged(arrived)
            accepted = answer is Answer.ACCEPTED
            return answer
        finally:
            if not accepted:
                self.close(arrived.instance, forget=True)
            with self._lock:
                self._taking -= 1
                if accepted and arrived.instance in self._known:
                    self._known[arrived.instance] = True

    def _judged(self, arrived: Arrived) -> Answer:
        try:
            wrong = _wrong_header(dicom_header(arrived.data), arrived)
            if wrong is not None:
                return wrong
            policy = self._jobs.context.config.quality
            image = image_of(RECEIVED, arrived.data, self._jobs.reader.size_px, self._pool, policy)
        except InputError as error:
            logger.warning("an image cannot be used: it %s", error.what)
            return Answer.UNREADABLE
        except EnvironmentFault as error:
            logger.error("%s", error.what)
            return Answer.NO_DECODER
        if "not_a_chest_radiograph" in image.notes:
            return Answer.NOT_CHEST
        if "lateral_view" in image.notes and self._config.lateral == "refuse":
            return Answer.LATERAL
        try:
            self._jobs.submit(SESSION, image)
        except QueueFull:
            return Answer.BUSY
        return Answer.ACCEPTED


def _wrong_header(header: Any, arrived: Arrived) -> Answer | None:
    """What can be said against an object before its pixels are looked at."""
    if header is None or not all(header.get(keyword) for keyword in _NEEDED):
        return Answer.NO_IDENTIFIERS
    if (str(header.SOPClassUID), str(header.SOPInstanceUID)) != (arrived.sop_class, arrived.instance):
        return Answer.OTHER_CLASS
    if str(header.get("Manufacturer") or "") == MANUFACTURER:  # an archive that routes everything sends it back
        return Answer.OWN_RESULT
    return None
