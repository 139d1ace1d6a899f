"""Where images come in: counted, decoded, queued, and refused with the status that says why."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import HTTPException, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from starlette.requests import ClientDisconnect

from kdistill.errors import InputError
from kdistill.explain.batch import FileImage, image_of
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Job, Jobs, Model, QueueFull
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
            raise self._busy()
        self._uploading += 1
        try:
            async with asyncio.timeout(self._config.deadline_s):
                data = await read_upload(request, self._config.max_upload_mb * 1_000_000)
            while True:
                size_px = self.jobs.reader.size_px
                image = await asyncio.to_thread(image_of, UPLOADED, data, size_px, self._pool)
                if size_px == self.jobs.reader.size_px:  # else a model of another input size came meanwhile
                    return image
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
        try:
            job = self.jobs.submit(session, image)
        except QueueFull:
            raise self._busy() from None
        self.metrics.requests.labels("accepted").inc()
        return job

    def find(self, job_id: str, session: str) -> Job:
        """A job of this session.

        Raises:
            HTTPException: 404 for any other id.
        """
        job = self.jobs.find(job_id, session)
        if job is None:
            raise HTTPException(404, "no such result in this session (results are deleted after an hour)")
        return job

    def _busy(self) -> HTTPException:
        self.metrics.requests.labels("turned_away").inc()
        return HTTPException(429, "too many images wait; try again", {"Retry-After": str(RETRY_AFTER_S)})
