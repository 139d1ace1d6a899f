"""A receiver, a model and a way back, put together: an image comes in by C-STORE, its results go out.

Three stages with a thread of their own: associations decode and queue, the reading thread of `Jobs` explains, one
courier sends. One number bounds them all: images accepted and not yet answered. Where the destination is away, it
fills, and senders are told "out of resources": the archive, which has a queue on a disk, waits in our place. Where the
archive is asked to commit to results, an image is answered when it has, and a thread for each question waits for that.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from types import TracebackType
from typing import Final, NamedTuple

from kdistill.dicom_network.commitment import Confirmer, Transactions
from kdistill.dicom_network.config import ListenConfig, SendConfig, StoreTarget
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.courier import Courier
from kdistill.dicom_network.desk import SESSION, Desk
from kdistill.dicom_network.destinations import Destination, FolderDestination
from kdistill.dicom_network.parts import Outcome, Part, part_of
from kdistill.dicom_network.receiver import Receiver
from kdistill.errors import KDistillError
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainFormat
from kdistill.explain.exports import export
from kdistill.explain.reading import ImageReader
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs
from kdistill.studies.decoding import DecoderPool

logger = logging.getLogger(__name__)

#: Images whose results go out in one association.
_BATCH: Final = 16
#: What was accepted is read, however long it waits: `max_open` bounds the wait, and a sender was told "success".
_NEVER_S: Final = 1e9
#: A model that has taken no waiting image for so long is not waited for at the end.
_STUCK_S: Final = 120.0


class _Sent(NamedTuple):
    job_id: str
    part: Part
    outcome: Outcome


class Listener:
    """A context manager that listens; on leaving, everything accepted is explained and sent before it returns.

    Args:
        reader: The student.
        context: See `ExplanationContext`.
        pool: Where images are decoded, with `require_chest=False`: the desk judges, with a status of its own.
        config: Where, to whom, how much.
        sending: How results travel.
        destination: Where to.
        outbox: Where a result is kept that could not be delivered; None: it is lost, and counted so.
        archive: Who is asked to commit to results, where `sending` says so.
    """

    def __init__(
        self,
        reader: ImageReader,
        context: ExplanationContext,
        pool: DecoderPool,
        config: ListenConfig,
        sending: SendConfig,
        destination: Destination,
        outbox: FolderDestination | None = None,
        archive: StoreTarget | None = None,
    ) -> None:
        self.counts, self._config = Counts(), config
        self._formats: tuple[ExplainFormat, ...] = ("dicom-sr", "dicom-sc") if config.overlay else ("dicom-sr",)
        self._jobs = Jobs(reader, context, _queue_config(config))
        self._jobs.on_end = lambda job, seconds: self._ended.put(job)
        self._desk = Desk(self._jobs, pool, config, self.counts)
        self._ended: queue.Queue[Job | None] = queue.Queue()
        self._hurry = threading.Event()
        self._courier = Courier(destination, sending, self.counts, outbox=outbox, wait=self._hurry.wait)
        self._sender = threading.Thread(target=self._send, name="dicom-courier")
        self._receiver: Receiver | None = None
        self._transactions = Transactions(self.counts) if sending.commit else None
        self._confirmer: Confirmer | None = None
        if self._transactions is not None and archive is not None:
            self._confirmer = Confirmer(archive, sending, self._transactions)
        self._confirming: list[threading.Thread] = []

    def __enter__(self) -> Listener:
        try:
            self._receiver = Receiver(self._config, self.counts, desk=self._desk, transactions=self._transactions)
        except BaseException:
            self._jobs.close()
            raise
        self._sender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._receiver is not None
        self._desk.end()
        if self._confirmer is None:
            self._receiver.close()
        else:
            self._receiver.settle()  # it stays: reports of the archive come to it
        self._read_on()
        self._jobs.close()
        self._hurry.set()
        self._ended.put(None)
        self._sender.join()
        for thread in self._confirming:
            thread.join()
        if self._confirmer is not None:
            self._receiver.close()
        if self.num_unanswered:
            logger.error("%d accepted images have no answer: the model has stopped", self.num_unanswered)

    def _read_on(self) -> None:
        """Wait while the model gets on: `Jobs.close` gives it half a minute, and 64 films may take longer."""
        left, since = self._jobs.num_waiting, time.monotonic()
        while left and time.monotonic() - since < _STUCK_S:
            time.sleep(0.05)
            if (now := self._jobs.num_waiting) < left:
                left, since = now, time.monotonic()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._receiver is not None, "use the listener in a with statement"
        return self._receiver.port

    @property
    def num_open(self) -> int:
        """Images accepted and not yet answered."""
        return self._desk.num_open

    @property
    def num_unanswered(self) -> int:
        """Images that were accepted, and are neither explained nor have failed."""
        return self.counts["accepted"] - self.counts["explained"] - self.counts["failed"]

    def _send(self) -> None:
        while (jobs := self._next()) is not None:
            try:
                self._answer(jobs)
            except Exception as error:  # the thread must live: whatever fails costs its own batch
                logger.error("sending results failed (%s)", type(error).__name__)

    def _next(self) -> list[Job] | None:
        """Jobs that have ended, at least one; None after the last."""
        jobs = [self._ended.get()]
        while jobs[-1] is not None and len(jobs) < _BATCH:
            try:
                jobs.append(self._ended.get_nowait())
            except queue.Empty:
                break
        found = [job for job in jobs if job is not None]
        if jobs[-1] is None and found:
            self._ended.put(None)
        return found or None

    def _answer(self, jobs: list[Job]) -> None:
        sent: list[_Sent] = []
        try:
            made = [(job.id, part) for job in jobs for part in self._results(job)]
            outcomes = self._courier.deliver([part for _, part in made]) if made else []
            sent = [_Sent(*one, outcome) for one, outcome in zip(made, outcomes, strict=True)]
        finally:
            if self._confirmer is not None and any(one.outcome.fate == "delivered" for one in sent):
                thread = threading.Thread(target=self._confirm, args=[self._confirmer, jobs, sent], name="dicom-commit")
                self._confirming = [*(one for one in self._confirming if one.is_alive()), thread]
                thread.start()
            else:
                self._close(jobs, sent)

    def _confirm(self, confirmer: Confirmer, jobs: list[Job], sent: list[_Sent]) -> None:
        """Ask the archive to commit to what it has got; what it does not commit to is kept."""
        final = [one for one in sent if one.outcome.fate != "delivered"]
        try:
            there = [one for one in sent if one.outcome.fate == "delivered"]
            outcomes = confirmer.confirm([one.part for one in there])
            for one, outcome in zip(there, outcomes, strict=True):
                self.counts.add("objects_committed" if outcome.fate == "delivered" else "objects_uncommitted")
                if outcome.fate != "delivered":
                    self._courier.keep(one.part, outcome)
                final.append(one._replace(outcome=outcome))
        finally:
            self._close(jobs, final)

    def _close(self, jobs: list[Job], sent: list[_Sent]) -> None:
        """These images need nothing more; one whose results did not all arrive may come again."""
        lost = {one.job_id for one in sent if one.outcome.fate != "delivered"}
        answered = {one.job_id for one in sent} - lost
        for job in jobs:
            self._jobs.delete(job.id, SESSION)
            self._desk.close(str(job.image.header.SOPInstanceUID), forget=job.id not in answered)  # type: ignore[union-attr]

    def _results(self, job: Job) -> list[Part]:
        """The objects that answer an image; none where the model failed or its header is too odd for a result."""
        if job.stage != "done" or job.explanation is None:
            self.counts.add("failed")
            return []
        image = job.image
        try:
            made = [
                part_of(kind, export(kind, job.explanation, image.display, image.header, recorded=job.recorded))
                for kind in self._formats
            ]
        except Exception as error:  # whatever it is, it costs this image only, and is counted
            why = error.what if isinstance(error, KDistillError) else f"cannot be exported ({type(error).__name__})"
            logger.error("an image has no result: it %s", why)
            self.counts.add("failed")
            return []
        self.counts.add("explained")
        return made


def _queue_config(config: ListenConfig) -> ServeConfig:
    return ServeConfig(
        max_waiting=config.max_open,
        max_results=2 * config.max_open,
        batch_size=config.batch_size,
        deadline_s=_NEVER_S,
        keep_s=_NEVER_S,
    )
