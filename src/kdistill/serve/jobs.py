"""From an upload to a result: a bounded queue, one thread that reads waiting images in batches, results that expire.

Nothing touches the disk. A result belongs to the session that sent its image; for any other session it does not exist.

The model can be swapped at any time: a batch that runs ends on the old one, the next starts on the new one. An image
that was decoded for a model of another input size is read by the model that it was decoded for (it waits a minute at
most), because its full-size pixels are not kept: 32 waiting films of 16 million pixels would take 2 GB.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

import numpy as np

from kdistill.explain.batch import FileImage, explain_image
from kdistill.explain.build import ExplanationContext
from kdistill.explain.explanation import Explanation
from kdistill.explain.reading import ImageReader
from kdistill.serve.config import ServeConfig

logger = logging.getLogger(__name__)

JobStage = Literal["waiting", "reading", "done", "failed", "expired"]
_FORGET_EVERY_S: Final = 30.0
#: A swap may come between an image's decoding and its place in the queue, which follow each other at once.
_STRAY_S: Final = 30.0
_CLOSE_S: Final = 30.0
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
    #: The job whose image this one's was made from; it is deleted with it.
    made_from: str | None = None
    #: The model that is compared with reads it, in place of the one that answers.
    is_against: bool = False
    #: Its session has been told the answer: a comparison is not blinded any more.
    is_told: bool = False
    #: Its session wants it no more: it is not read.
    is_deleted: bool = False


class Model(NamedTuple):
    """A student, and what its explanations need beside its reading."""

    reader: ImageReader
    context: ExplanationContext


class QueueFull(Exception):
    """As many images wait as may wait."""


class Jobs:
    """All jobs of a server.

    Args:
        reader: The student.
        context: See `ExplanationContext`.
        config: Sizes and times.
        against: A second student, which reads the same images for comparison where that is asked for; None: there is
            none. Its images wait in the same queue and count in the same batches.
        clock: Seconds that only go forward; replaced in tests.
    """

    def __init__(
        self,
        reader: ImageReader,
        context: ExplanationContext,
        config: ServeConfig,
        *,
        against: Model | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self._clock = config, clock
        self._model, self.against = Model(reader, context), against
        #: Input size -> the last model of that size, as long as an image may wait that was decoded for it.
        self._older: dict[int, Model] = {}
        self._swapped, self.num_swaps = 0.0, 0
        #: Told of each model that begins to answer.
        self.on_swap: Callable[[Model], None] = lambda model: None
        #: Told of each job that ends, with the seconds since it was sent.
        self.on_end: Callable[[Job, float], None] = lambda job, seconds: None
        self._waiting: queue.Queue[Job | None] = queue.Queue(config.max_waiting)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._closing = self._is_last = False
        self._thread = self._started()

    @property
    def reader(self) -> ImageReader:
        """The student that reads the next batch."""
        return self._model.reader

    @property
    def context(self) -> ExplanationContext:
        """What its explanations need."""
        return self._model.context

    def swap(self, model: Model, against: Model | None = None) -> None:
        """Let another model read from the next batch on, and compare with another one; None: with the present one."""
        with self._lock:
            self.against = against or self.against
            self._older[self.reader.size_px] = self._model
            self._older.pop(model.reader.size_px, None)
            self._model, self._swapped = model, self._clock()
            self.num_swaps += 1
        self.on_swap(model)

    @property
    def num_waiting(self) -> int:
        """Images that wait for the model."""
        return self._waiting.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether the reading thread runs."""
        return self._thread.is_alive()

    def submit(self, session: str, image: FileImage) -> Job:
        """Queue an image; a reading thread that has been killed is replaced.

        Raises:
            QueueFull: Too many wait, or the server ends.
        """
        return self.submit_all(session, [image])[0]

    def submit_all(
        self,
        session: str,
        images: Sequence[FileImage],
        *,
        made_from: str | None = None,
        first: Explanation | None = None,
        is_against: bool = False,
    ) -> list[Job]:
        """Queue several images, all or none.

        Args:
            session: Whose.
            images: What to read, in this order.
            made_from: See `Job`.
            first: The explanation of the first image, where it is known: it is not read again.
            is_against: Whether the model that is compared with reads them.

        Raises:
            QueueFull: Too many would wait, or the server ends.
            KeyError: `made_from` has been deleted meanwhile.
        """
        now, recorded = self._clock(), datetime.now(UTC)
        with self._lock:  # nothing else is put without it while the server runs, so there is room for all or for none
            num_unread = len(images) - (first is not None)
            if self._closing or self._waiting.qsize() + num_unread > self.config.max_waiting:
                raise QueueFull
            if made_from is not None and made_from not in self._jobs:
                raise KeyError(made_from)
            jobs = [
                Job(
                    secrets.token_urlsafe(16), session, image, now, recorded, made_from=made_from, is_against=is_against
                )
                for image in images
            ]
            if first is not None:
                jobs[0].explanation, jobs[0].stage = first, "done"
            for job in jobs:
                self._jobs[job.id] = job
                if job.stage == "waiting":
                    self._put(job)
            self._forget()
            _drop_oldest(self._jobs.values(), self.config.max_pixels_mb * 1_000_000)
            if not self.is_alive:
                self._thread = self._started()
        return jobs

    def told(self, session: str, image: FileImage) -> Explanation | None:
        """What the present model has told this session about the same image under the same name; None: nothing yet."""
        with self._lock:
            self._forget()
            known = [job.explanation for job in self._jobs.values() if job.session == session and _same(job, image)]
        return next((found for found in reversed(known) if found and found.model == self.context.model), None)

    def has_told(self, session: str, image: FileImage) -> bool:
        """Whether this session has been told an answer about the same image, by any job that is still kept."""
        with self._lock:
            return any(
                job.is_told and job.session == session and job.image.sha256 == image.sha256
                for job in self._jobs.values()
            )

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
        """Forget a job of this session now, read or not, and what was made from its image; whether there was one."""
        job = self.find(job_id, session)
        if job is None:
            return False
        with self._lock:
            self._jobs.pop(job_id, None)
            self._forget()
        job.is_deleted = True
        return True

    def close(self, *, within_s: float = _CLOSE_S) -> None:
        """Let the reading thread end after the images that wait; a model that hangs is left to the process's end."""
        self._closing = True
        end = time.monotonic() + within_s
        while self._thread.is_alive() and time.monotonic() < end:
            try:
                self._waiting.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            logger.error("the model has not answered for %.0f s: ending without it", within_s)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="kdistill-reader", daemon=True)
        thread.start()
        return thread

    def _forget(self) -> None:
        oldest = self._clock() - self.config.keep_s
        for job_id, job in list(self._jobs.items()):
            if job.created < oldest or len(self._jobs) > self.config.max_results:
                del self._jobs[job_id]
        for job_id, job in list(self._jobs.items()):  # copies of an image do not outlive it
            if job.made_from is not None and job.made_from not in self._jobs:
                self._jobs.pop(job_id).is_deleted = True
        if self._older and self._clock() - self._swapped > self.config.deadline_s + _STRAY_S:
            self._older.clear()  # whatever was decoded for them has been read, or has waited too long

    def _work(self) -> None:
        batch: list[Job] = []
        while not self._is_last:
            try:
                self._take(batch)
                self._read_in_time(batch)
            except BaseException as error:  # killed between two images: these have failed, the next are read
                logger.error("the reading thread was interrupted (%s)", type(error).__name__)
            self._fail_rest(batch)
            batch.clear()

    def _fail_rest(self, batch: Sequence[Job]) -> None:
        # Not in `_work` itself: the name of a loop there would hold the last film until the next one comes.
        for job in batch:
            if job.stage not in ENDED:
                self._end(job, "failed")

    def _take(self, batch: list[Job]) -> None:
        """Put what waits into `batch`, up to its size; at the mark that `close` leaves, this batch is the last."""
        try:
            job = self._waiting.get(timeout=_FORGET_EVERY_S)
            while job is not None:
                batch.append(job)
                if len(batch) == self.config.batch_size:
                    return
                job = self._waiting.get_nowait()
            self._is_last = True
        except queue.Empty:  # results are deleted in time, whether anybody asks or not
            with self._lock:
                self._forget()

    def _read_in_time(self, batch: Sequence[Job]) -> None:
        oldest = self._clock() - self.config.deadline_s
        for job in batch:
            if job.is_deleted:
                job.stage = "expired"
            elif job.created < oldest:
                self._end(job, "expired")
        if alive := [job for job in batch if job.stage not in ENDED]:
            for model, group in self._by_model(alive):
                if model is not None:
                    self._read(group, model)

    def _by_model(self, jobs: Sequence[Job]) -> list[tuple[Model | None, list[Job]]]:
        """Who reads what of a batch: the present model, an older one of its size, the one compared with, or none."""
        groups: dict[tuple[bool, int], list[Job]] = {}
        for job in jobs:
            groups.setdefault((job.is_against, len(job.image.pixels)), []).append(job)
        with self._lock:
            models = {(False, size): model for size, model in self._older.items()}
            models[False, self.reader.size_px] = self._model
            if self.against is not None:
                models[True, self.against.reader.size_px] = self.against
        return [(models.get(key), group) for key, group in groups.items()]

    def _read(self, jobs: Sequence[Job], model: Model) -> None:
        for job in jobs:
            job.stage = "reading"
        try:
            readings = model.reader.read(np.stack([job.image.pixels for job in jobs]))
            for job, reading in zip(jobs, readings, strict=True):
                job.explanation = explain_image(job.image, reading, model.context)
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
                    self._read([job], model)

    def _end(self, job: Job, stage: JobStage) -> None:
        job.stage = stage
        self.on_end(job, self._clock() - job.created)


def _same(job: Job, image: FileImage) -> bool:
    return (job.image.study_id, job.image.sha256) == (image.study_id, image.sha256)


def _drop_oldest(jobs: Iterable[Job], max_bytes: int) -> None:
    """Let the oldest films go, until the rest has at most `max_bytes` at full depth; their 8-bit pictures stay.

    Args:
        jobs: Oldest first.
        max_bytes: Bytes in all.
    """
    kept = 0
    for job in reversed(list(jobs)):
        depth = job.image.depth
        kept += 0 if depth is None else depth.values.nbytes
        if depth is not None and kept > max_bytes:
            job.image = job.image._replace(depth=None)
