"""Where images come in: counted, decoded, queued, and refused with the status that says why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from starlette.requests import ClientDisconnect

from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.batch import FileImage, image_of
from kdistill.explain.explanation import Explanation
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs, Model, QueueFull
from kdistill.serve.uploads import read_upload
from kdistill.studies.decoding import DecoderKilled, DecoderPool

logger = logging.getLogger(__name__)

#: Seconds after which a client that was turned away may try again.
RETRY_AFTER_S: Final = 5
#: An upload that sends nothing for so long, or goes on more slowly than this, is ended: it holds a place of others.
FIRST_BYTES_S: Final = 5.0
MIN_BYTES_PER_S: Final = 50_000
#: In place of a file's name, which may hold a patient's.
UPLOADED: Final = "uploaded image"


class Metrics:
    """Counts without a word about whose images they were."""

    def __init__(self, jobs: Jobs) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "kdistill_images", "Images by what became of them.", ["outcome"], registry=self.registry
        )
        self.seconds = Histogram(
            "kdistill_explain_seconds", "From the upload's end to the result.", registry=self.registry
        )
        self.swaps = Counter(
            "kdistill_model_swaps", "Changes of the model by what became of them.", ["outcome"], registry=self.registry
        )
        self._model = Info("kdistill_model", "The model that reads.", registry=self.registry)
        self._model.info({"model": jobs.reader.name})
        jobs.on_end, jobs.on_swap = self._ended, self._swapped
        Gauge("kdistill_waiting", "Images that wait for the model.", registry=self.registry).set_function(
            lambda: jobs.num_waiting
        )

    def _swapped(self, model: Model) -> None:
        self.swaps.labels("done").inc()
        self._model.info({"model": model.reader.name})

    def _ended(self, job: Job, seconds: float) -> None:
        self.requests.labels(job.stage).inc()
        self.seconds.observe(seconds)


class _Arriving:
    """One upload on its way in: each byte counts as held until the image is decoded, and earns it time to go on."""

    def __init__(self, desk: Desk, config: ServeConfig, limit: asyncio.Timeout) -> None:
        self._desk, self._limit, self._num_bytes = desk, limit, 0
        self._begun = asyncio.get_running_loop().time()
        self._end = self._begun + config.deadline_s

    def took(self, num_bytes: int) -> None:
        """See `Desk.took`."""
        if num_bytes:
            self._desk.took(num_bytes, is_first=not self._num_bytes)
            self._num_bytes += num_bytes
            earned = FIRST_BYTES_S + self._num_bytes / MIN_BYTES_PER_S
            self._reschedule(min(self._end, self._begun + earned))

    def all_here(self) -> None:
        """Decoding has a time limit of its own."""
        self._reschedule(None)

    def _reschedule(self, when: float | None) -> None:
        if not self._limit.expired():  # else the next await ends it
            self._limit.reschedule(when)

    def __enter__(self) -> _Arriving:
        return self

    def __exit__(self, *_: object) -> None:
        self._desk.held_bytes -= self._num_bytes
        self._desk.num_uploading -= bool(self._num_bytes)


class Desk:
    """Takes images in for a model.

    Args:
        jobs: The model and its queue.
        config: Sizes and times.
        pool: Where images are decoded.
    """

    def __init__(self, jobs: Jobs, config: ServeConfig, pool: DecoderPool) -> None:
        self.jobs, self.metrics = jobs, Metrics(jobs)
        self._config, self._pool = config, pool
        #: Images on their way in, and their bytes; they count as waiting, or memory would have no bound.
        self.num_uploading = self.held_bytes = 0

    async def take(self, request: Request) -> FileImage:
        """Read and decode the image of a request.

        Raises:
            HTTPException: 429 too many wait; 408 it took too long; 413 too large; 400 no image; 415 none that is read;
                503 its decoder was killed.
        """
        if self._is_full():
            raise self.busy()
        try:
            async with asyncio.timeout(FIRST_BYTES_S) as limit:
                with _Arriving(self, self._config, limit) as arriving:
                    data = await read_upload(request, self._config.max_upload_mb * 1_000_000, arriving.took)
                    arriving.all_here()
                    return await self._decoded(data)
        except TimeoutError:
            self.metrics.requests.labels("too_slow").inc()
            raise HTTPException(408, "the image took too long to arrive", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise self.broken_off() from None
        except (DecoderKilled, EnvironmentFault, OSError) as error:
            logger.error("an image was not decoded (%s)", type(error).__name__)
            self.metrics.requests.labels("not_decoded").inc()
            told = "its decoder was ended from outside; send it again"
            raise HTTPException(503, told, {"Retry-After": str(RETRY_AFTER_S)}) from None
        except InputError as error:
            self.metrics.requests.labels("unreadable").inc()
            told = f"The file {error.what}." + (f" {error.remedy}" if error.remedy else "")
            raise HTTPException(415, told) from error

    def _is_full(self) -> bool:
        return self.jobs.num_waiting + self.num_uploading >= self._config.max_waiting

    def took(self, num_bytes: int, *, is_first: bool) -> None:
        """Count bytes of an upload; one counts as waiting from its first byte on, or silent ones would fill the room.

        Raises:
            HTTPException: 429 too many wait, or all of them together are too large.
        """
        if self.held_bytes + num_bytes > self._config.max_held_mb * 1_000_000 or (is_first and self._is_full()):
            raise self.busy()
        self.held_bytes += num_bytes
        self.num_uploading += is_first

    async def _decoded(self, data: bytes) -> FileImage:
        while True:
            size_px = self.jobs.reader.size_px
            image = await asyncio.to_thread(image_of, UPLOADED, data, size_px, self._pool)
            if size_px == self.jobs.reader.size_px:  # else a model of another input size came meanwhile
                return image

    def queue(self, session: str, image: FileImage) -> Job:
        """Queue an image for the model.

        Raises:
            HTTPException: 429 too many wait.
        """
        return self.queue_all(session, [image])[0]

    def queue_all(
        self,
        session: str,
        images: Sequence[FileImage],
        *,
        made_from: str | None = None,
        first: Explanation | None = None,
        is_against: bool = False,
    ) -> list[Job]:
        """Queue several images for the model, all or none (see `Jobs.submit_all`).

        Raises:
            HTTPException: 429 too many would wait; 404 the job that they were made from has been deleted.
        """
        try:
            jobs = self.jobs.submit_all(session, images, made_from=made_from, first=first, is_against=is_against)
        except QueueFull:
            raise self.busy() from None
        except KeyError:
            raise _gone() from None
        self.metrics.requests.labels("accepted").inc(len(jobs) - (first is not None))
        return jobs

    def find(self, job_id: str, session: str) -> Job:
        """A job of this session.

        Raises:
            HTTPException: 404 for any other id.
        """
        job = self.jobs.find(job_id, session)
        if job is None:
            raise _gone()
        return job

    def broken_off(self) -> HTTPException:
        """The answer to a client that has gone."""
        self.metrics.requests.labels("broken_off").inc()
        return HTTPException(400, "broken off")

    def busy(self) -> HTTPException:
        """The answer to one image too many."""
        self.metrics.requests.labels("turned_away").inc()
        return HTTPException(429, "too many images wait; try again", {"Retry-After": str(RETRY_AFTER_S)})


def _gone() -> HTTPException:
    return HTTPException(404, "no such result in this session (results are deleted after an hour)")
