"""Where images come in: counted, decoded, queued, and refused with the status that says why."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect

from kdistill.errors import InputError
from kdistill.explain.batch import FileImage, image_of
from kdistill.explain.explanation import Explanation
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs, QueueFull
from kdistill.serve.uploads import read_upload
from kdistill.studies.decoding import DecoderPool

#: Seconds after which a client that was turned away may try again.
RETRY_AFTER_S: Final = 5
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
        jobs.on_end = self._ended
        Gauge("kdistill_waiting", "Images that wait for the model.", registry=self.registry).set_function(
            lambda: jobs.num_waiting
        )

    def _ended(self, job: Job, seconds: float) -> None:
        self.requests.labels(job.stage).inc()
        self.seconds.observe(seconds)


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
        #: Images on their way in; they count as waiting, or memory would have no bound.
        self._uploading = 0

    async def take(self, request: Request) -> FileImage:
        """Read and decode the image of a request.

        Raises:
            HTTPException: 429 too many wait; 408 it took too long; 413 too large; 400 no image; 415 none that is read.
        """
        if self.jobs.num_waiting + self._uploading >= self._config.max_waiting:
            raise self.busy()
        self._uploading += 1
        try:
            async with asyncio.timeout(self._config.deadline_s):
                data = await read_upload(request, self._config.max_upload_mb * 1_000_000)
            return await asyncio.to_thread(image_of, UPLOADED, data, self.jobs.reader.size_px, self._pool)
        except TimeoutError:
            raise HTTPException(408, "the image took too long to arrive", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "broken off") from None
        except InputError as error:
            self.metrics.requests.labels("unreadable").inc()
            told = f"The file {error.what}." + (f" {error.remedy}" if error.remedy else "")
            raise HTTPException(415, told) from error
        finally:
            self._uploading -= 1

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
    ) -> list[Job]:
        """Queue several images for the model, all or none (see `Jobs.submit_all`).

        Raises:
            HTTPException: 429 too many would wait; 404 the job that they were made from has been deleted.
        """
        try:
            jobs = self.jobs.submit_all(session, images, made_from=made_from, first=first)
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

    def busy(self) -> HTTPException:
        """What a client is told that has to come again; counted."""
        self.metrics.requests.labels("turned_away").inc()
        return HTTPException(429, "too many images wait; try again", {"Retry-After": str(RETRY_AFTER_S)})


def _gone() -> HTTPException:
    return HTTPException(404, "no such result in this session (results are deleted after an hour)")
