"""From an upload to a result: a bounded queue, one thread that reads waiting images in batches, results that expire.

Nothing touches the disk. A result belongs to the session that sent its image; for any other session it does not exist.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

from kdistill.explain.batch import FileImage, explain_image
from kdistill.explain.build import ExplanationContext
from kdistill.explain.explanation import Explanation
from kdistill.explain.reading import ImageReader
from kdistill.serve.config import ServeConfig

logger = logging.getLogger(__name__)

JobStage = Literal["waiting", "reading", "done", "failed", "expired"]
_FORGET_EVERY_S: Final = 30.0
ENDED: Final[frozenset[JobStage]] = frozenset({"done", "failed", "expired"})


@dataclass(eq=False)  # a job is itself and no other; its arrays have no one truth value to compare by
class Job:
    """One image on its way. `explanation` stands once `stage` is "done".

    `made_from` is the id of the job whose image this one is a changed copy of; it is deleted with that job.
    """

    id: str
    session: str
    image: FileImage
    created: float
    recorded: datetime
    stage: JobStage = "waiting"
    explanation: Explanation | None = None
    made_from: str | None = None


class QueueFull(Exception):
    """As many images wait as may wait."""


class Jobs:
    """All jobs of a server.

    Args:
        reader: The student.
        context: See `ExplanationContext`.
        config: Sizes and times.
        clock: Seconds that only go forward; replaced in tests.
    """

    def __init__(
        self,
        reader: ImageReader,
        context: ExplanationContext,
        config: ServeConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader, self.context, self.config, self._clock = reader, context, config, clock
        #: Told of each job that ends, with the seconds since it was sent.
        self.on_end: Callable[[Job, float], None] = lambda job, seconds: None
        self._waiting: queue.Queue[Job | None] = queue.Queue(config.max_waiting)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="kdistill-reader", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Images that wait for the model."""
        return self._waiting.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether the reading thread runs."""
        return self._thread.is_alive()

    def submit(self, session: str, image: FileImage) -> Job:
        """Queue an image.

        Raises:
            QueueFull: Too many wait, or nothing reads any more.
        """
        return self.submit_all(session, [image])[0]

    def submit_all(
        self,
        session: str,
        images: Sequence[FileImage],
        *,
        made_from: str | None = None,
        first: Explanation | None = None,
    ) -> list[Job]:
        """Queue several images, all or none.

        Args:
            session: Whose.
            images: What to read, in this order.
            made_from: See `Job`.
            first: The explanation of the first image, where it is known: it is not read again.

        Raises:
            QueueFull: Too many would wait, or nothing reads any more.
            KeyError: `made_from` has been deleted meanwhile.
        """
        now, recorded = self._clock(), datetime.now(UTC)
        with self._lock:  # nothing else is put without it while the server runs, so there is room for all or for none
            num_unread = len(images) - (first is not None)
            if not self.is_alive or self._waiting.qsize() + num_unread > self.config.max_waiting:
                raise QueueFull
            if made_from is not None and made_from not in self._jobs:
                raise KeyError(made_from)
            jobs = [
                Job(secrets.token_urlsafe(16), session, image, now, recorded, made_from=made_from) for image in images
            ]
            if first is not None:
                jobs[0].explanation, jobs[0].stage = first, "done"
            for job in jobs:
                self._jobs[job.id] = job
                if job.stage == "waiting":
                    self._put(job)
            self._forget()
        return jobs

    def told(self, session: str, image: FileImage) -> Explanation | None:
        """What the present model has told this session about the same image under the same name; None: nothing yet."""
        with self._lock:
            self._forget()
            known = [job.explanation for job in self._jobs.values() if job.session == session and _same(job, image)]
        return next((found for found in reversed(known) if found and found.model == self.context.model), None)

    def _put(self, job: Job) -> None:
        try:
            self._waiting.put_nowait(job)
        except queue.Full:  # `close` has left its mark in between, and nothing is read any more
            self._jobs.pop(job.id, None)
            raise QueueFull from None

    def find(self, job_id: str, session: str) -> Job | None:
        """A job of this session; None for any other id, so that nobody learns which ids exist."""
        with self._lock:
            self._forget()
            job = self._jobs.get(job_id)
        return job if job is not None and secrets.compare_digest(job.session.encode(), session.encode()) else None

    def delete(self, job_id: str, session: str) -> bool:
        """Forget a job of this session now, and what was made from its image; whether there was one."""
        if self.find(job_id, session) is None:
            return False
        with self._lock:
            for other in [job.id for job in self._jobs.values() if job.made_from == job_id]:
                del self._jobs[other]
            self._jobs.pop(job_id, None)
        return True

    def close(self) -> None:
        """Let the reading thread end after the images that wait."""
        while self._thread.is_alive():
            try:
                self._waiting.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _forget(self) -> None:
        oldest = self._clock() - self.config.keep_s
        for job_id, job in list(self._jobs.items()):
            if job.created < oldest or len(self._jobs) > self.config.max_results:
                del self._jobs[job_id]

    def _work(self) -> None:
        for batch in self._batches():
            oldest = self._clock() - self.config.deadline_s
            for job in batch:
                if job.created < oldest:
                    self._end(job, "expired")
            if alive := [job for job in batch if job.stage not in ENDED]:
                self._read(alive)

    def _batches(self) -> Iterator[list[Job]]:
        """What waits, at most a batch at a time; ends at the mark that `close` leaves."""
        while True:
            try:
                job = self._waiting.get(timeout=_FORGET_EVERY_S)
            except queue.Empty:  # results are deleted in time, whether anybody asks or not
                with self._lock:
                    self._forget()
                continue
            if job is None:
                return
            batch = [job]
            while len(batch) < self.config.batch_size:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    yield batch
                    return
                batch.append(following)
            yield batch

    def _read(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.stage = "reading"
        try:
            readings = self.reader.read(np.stack([job.image.pixels for job in jobs]))
            for job, reading in zip(jobs, readings, strict=True):
                job.explanation = explain_image(job.image, reading, self.context)
                self._end(job, "done")
        except BaseException as error:  # a panic of a Rust library is no Exception, and must not end the thread
            # No detail of an image may reach a log.
            logger.error("reading a batch of %d images failed (%s)", len(jobs), type(error).__name__)
            left = [job for job in jobs if job.stage not in ENDED]
            if len(jobs) == 1:
                for job in left:
                    self._end(job, "failed")
            else:  # one image must not cost the others of its batch
                for job in left:
                    self._read([job])

    def _end(self, job: Job, stage: JobStage) -> None:
        job.stage = stage
        self.on_end(job, self._clock() - job.created)


def _same(job: Job, image: FileImage) -> bool:
    return (job.image.study_id, job.image.sha256) == (image.study_id, image.sha256)
