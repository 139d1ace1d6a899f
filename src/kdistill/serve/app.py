"""The HTTP API and the page. What an answer says comes from `explain`, as on the command line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import generate_latest

from kdistill import __version__
from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.batch import FileImage
from kdistill.explain.config import ENDINGS, ExplainFormat
from kdistill.explain.explanation import NOTICE, Explanation
from kdistill.explain.exports import export
from kdistill.records import Record
from kdistill.serve.comparison_routes import add_comparisons
from kdistill.serve.config import ServeConfig
from kdistill.serve.contract import (
    ACCEPTED,
    ENTRY,
    FULL,
    LINKS,
    MISSING,
    NOT_READY,
    NOT_YET,
    REFUSALS,
    SAMPLE_LINKS,
    Answers,
    Refusal,
    answer_wrong_methods,
    describe_token,
    upload_schema,
)
from kdistill.serve.counterfactuals import add_counterfactuals
from kdistill.serve.desk import Desk
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.feedback_routes import FeedbackWriter, add_feedback
from kdistill.serve.jobs import ENDED, Job, Jobs, JobStage
from kdistill.serve.model_routes import add_model
from kdistill.serve.models import Models
from kdistill.serve.page_files import PAGE_FILES, PageFile
from kdistill.serve.pixels import LONGEST_PX, add_pixels
from kdistill.serve.refusals import add_refusals
from kdistill.serve.samples import Sample, Samples, Truth
from kdistill.serve.security import COOKIE, Guard, Sessions, is_session, new_session
from kdistill.studies.decoding import DecoderPool

logger = logging.getLogger(__name__)

MEDIA_TYPES: Final[dict[ExplainFormat, str]] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
    "fhir": "application/fhir+json",
    "dicom-sr": "application/dicom",
    "dicom-sc": "application/dicom",
}
_POLL_S: Final = 0.1
#: A comment so often keeps proxies from closing a quiet stream, and finds out that its reader has gone.
_BEAT_S: Final = 15.0
#: Exports made at once; a PDF takes a third of a second of a processor, which the model needs too.
_NUM_EXPORTING: Final = 2


class JobStatus(Record):
    """Where a job stands. `result` is the path of the explanation, once there is one."""

    id: str
    stage: JobStage
    result: str | None = None
    notice: str = NOTICE


class SessionState(Record):
    """What the page needs to know before it asks."""

    needs_token: bool
    may_ask: bool
    model: str
    feedback: bool = False
    version: str = __version__
    notice: str = NOTICE


def create_app(
    jobs: Jobs,
    config: ServeConfig,
    samples: Samples | None = None,
    feedback: FeedbackStore | None = None,
    models: Models | None = None,
) -> FastAPI:
    """The application.

    Args:
        jobs: The model and its queue; closed with the application.
        config: Sizes, times, token.
        samples: Test studies to try; None: none are offered. Those of `models` take their place.
        feedback: Where readers' words go, closed with the application; None: nobody is asked.
        models: The students that can take the place of the one that answers; None: it stays.
    """
    sessions, pool = Sessions(config.token), DecoderPool(config.decoders, depth_px=LONGEST_PX)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with pool:
            yield
        await asyncio.to_thread(jobs.close)
        if feedback is not None:
            feedback.close()

    app = FastAPI(
        title="kdistill",
        version=__version__,
        description=f"{NOTICE} Chest radiograph in, explanation out.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from a content network
        redoc_url=None,
    )
    app.add_middleware(Guard, sessions=sessions)
    add_refusals(app)
    desk = Desk(jobs, config, pool)
    _add_health(app, desk)
    _add_page(app)
    _add_session(app, sessions, jobs, feedback=feedback is not None)
    _add_upload(app, desk)
    add_pixels(app, desk, MISSING)
    writer = None if feedback is None else FeedbackWriter(feedback)
    add_feedback(app, desk, writer, comments=config.feedback_text, may_export=sessions.needs_token)
    add_comparisons(app, desk, writer, comments=config.feedback_text)
    _add_results(app, desk)

    def offered() -> Samples | None:
        return models.samples if models else samples

    _add_samples(app, desk, offered)
    add_counterfactuals(app, desk, offered, session_of=_session_of)
    add_model(app, jobs, models, may_swap=sessions.needs_token)
    if models is not None:
        models.on_refusal = lambda: desk.metrics.swaps.labels("refused").inc()
    answer_wrong_methods(app)
    if sessions.needs_token:
        describe_token(app)
    return app


def _session_of(request: Request, response: Response) -> str:
    """The session of a request; a new one gets its cookie with the answer."""
    found = request.cookies.get(COOKIE, "")
    return found if is_session(found) else _new_session(request, response)


def _new_session(request: Request, response: Response) -> str:
    session = new_session()
    response.set_cookie(
        COOKIE, session, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return session


SessionId = Annotated[str, Depends(_session_of)]
JobId = Annotated[str, Path(max_length=64)]
SampleNumber = Annotated[int, Path(ge=0, le=10_000)]


def _add_health(app: FastAPI, desk: Desk) -> None:
    # Both answer on the event loop: threads may all be busy with other people's exports.
    @app.get("/healthz", tags=["operation"], responses=ENTRY)
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"], responses=NOT_READY)
    async def readyz(response: Response) -> dict[str, str]:
        """The model is loaded and its thread runs."""
        if not desk.jobs.is_alive:
            response.status_code = 503
            return {"status": "the reading thread has ended"}
        return {"status": "ready"}

    told: Answers = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text."}
    }

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={**REFUSALS, **told})
    def measured() -> Response:
        """Prometheus metrics."""
        content = generate_latest(desk.metrics.registry)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    def shipped(file: PageFile) -> Callable[[], Response]:
        return lambda: Response(file.content, media_type=file.media_type)

    for path, file in PAGE_FILES.items():
        app.get(path, include_in_schema=False)(shipped(file))


def _add_session(app: FastAPI, sessions: Sessions, jobs: Jobs, *, feedback: bool) -> None:
    @app.get("/v1/session", tags=["session"], responses=REFUSALS)
    def look(request: Request, session: SessionId) -> SessionState:
        """Whether this session may ask, and which model answers."""
        may_ask = sessions.may_ask(request.headers, session)
        model = jobs.reader.name if may_ask else ""
        asked = feedback and may_ask
        return SessionState(needs_token=sessions.needs_token, may_ask=may_ask, model=model, feedback=asked)

    @app.post("/v1/session", tags=["session"], responses=REFUSALS)
    def enter(request: Request, response: Response) -> SessionState:
        """Show the token once (Authorization: Bearer TOKEN); the session's cookie stands for it from then on."""
        if not sessions.may_ask(request.headers, request.cookies.get(COOKIE)):
            raise HTTPException(401, "the token is not the right one", {"WWW-Authenticate": "Bearer"})
        sessions.admit(_new_session(request, response))  # never a name that somebody else may have planted
        name = jobs.reader.name
        return SessionState(needs_token=sessions.needs_token, may_ask=True, model=name, feedback=feedback)


def _queued(desk: Desk, session: str, image: FileImage, response: Response) -> JobStatus:
    job = desk.queue(session, image)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _status(job)


def _add_upload(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/explain", status_code=202, tags=["explain"], responses=ACCEPTED, openapi_extra=upload_schema())
    async def send(request: Request, response: Response, session: SessionId) -> JobStatus:
        """Send one chest radiograph (DICOM, PNG or JPEG); the answer says where to ask for the result."""
        image = await desk.take(request)
        if await request.is_disconnected():  # whoever sent it cannot be told its name, and so could never delete it
            raise desk.broken_off()
        return _queued(desk, session, image, response)


def _add_results(app: FastAPI, desk: Desk) -> None:
    exporting = CapacityLimiter(_NUM_EXPORTING)

    @app.get("/v1/jobs/{job_id}", tags=["explain"], responses=MISSING)
    def look(job_id: JobId, session: SessionId) -> JobStatus:
        """Where a job stands."""
        return _status(desk.find(job_id, session))

    @app.get(
        "/v1/jobs/{job_id}/events",
        tags=["explain"],
        responses={**MISSING, 200: {"content": {"text/event-stream": {}}, "description": "One event a stage."}},
        response_class=StreamingResponse,
    )
    async def events(job_id: JobId, session: SessionId) -> StreamingResponse:
        """Follow a job: a server-sent event for each stage, the last one "done", "failed" or "expired"."""
        found = _events(desk.find(job_id, session))
        return StreamingResponse(found, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.get(
        "/v1/results/{job_id}",
        tags=["explain"],
        responses=NOT_YET,
    )
    def result(job_id: JobId, session: SessionId) -> Explanation:
        """The explanation."""
        return _explanation(desk.find(job_id, session))

    @app.get(
        "/v1/results/{job_id}/{kind}",
        tags=["explain"],
        response_class=Response,
        responses={
            **NOT_YET,
            200: {"content": {media.partition(";")[0]: {} for media in MEDIA_TYPES.values()}, "description": "A file."},
            409: {"model": Refusal, "description": "Not done yet; or the image is of no DICOM study to write into."},
            501: {"model": Refusal, "description": "What writes this format is not installed."},
        },
    )
    async def exported(job_id: JobId, kind: ExplainFormat, session: SessionId) -> Response:
        """The explanation in another format (docs/exports.md)."""
        job = desk.find(job_id, session)
        explanation = _explanation(job)
        made = partial(export, kind, explanation, job.image.display, job.image.header, recorded=job.recorded)
        try:
            content = await to_thread.run_sync(made, limiter=exporting)
        except InputError as error:
            raise HTTPException(409, f"The file {error.what}.") from error
        except EnvironmentFault as error:
            raise HTTPException(501, str(error)) from error
        headers = (
            {} if kind == "html" else {"Content-Disposition": f'attachment; filename="explanation{ENDINGS[kind]}"'}
        )
        return Response(content, media_type=MEDIA_TYPES[kind], headers=headers)

    @app.delete("/v1/results/{job_id}", status_code=204, tags=["explain"], responses=MISSING)
    def delete(job_id: JobId, session: SessionId) -> None:
        """Forget an image and its result now."""
        if not desk.jobs.delete(job_id, session):
            raise HTTPException(404, "no such result in this session")


def _add_samples(app: FastAPI, desk: Desk, samples: Callable[[], Samples | None]) -> None:
    @app.get("/v1/samples", tags=["samples"], responses={**REFUSALS, **SAMPLE_LINKS})
    def offered() -> list[Sample]:
        """Test studies of the run, to try."""
        found = samples()
        return found.all() if found else []

    missing_sample: dict[int | str, dict[str, Any]] = {
        **REFUSALS,
        404: {"model": Refusal, "description": "No such sample."},
    }

    @app.post(
        "/v1/samples/{number}/explain",
        status_code=202,
        tags=["samples"],
        responses={**missing_sample, **FULL, **LINKS},
    )
    def try_sample(number: SampleNumber, response: Response, session: SessionId) -> JobStatus:
        """Explain a sample as if it had been sent."""
        return _queued(desk, session, _sample(samples(), number).image(number), response)

    @app.get("/v1/samples/{number}/truth", tags=["samples"], responses=missing_sample)
    def truth(number: SampleNumber) -> Truth:
        """What is known of a sample: its ground truth and its report."""
        return _sample(samples(), number).truth(number)


def _sample(samples: Samples | None, number: int) -> Samples:
    if samples is None or number >= len(samples):
        raise HTTPException(404, "no such sample")
    return samples


def _status(job: Job) -> JobStatus:
    return JobStatus(id=job.id, stage=job.stage, result=f"/v1/results/{job.id}" if job.stage == "done" else None)


def _explanation(job: Job) -> Explanation:
    match job.stage:
        case "done":
            assert job.explanation is not None
            job.is_told = True
            return job.explanation
        case "failed":
            raise HTTPException(503, "the model failed on this image; send it again")
        case "expired":
            raise HTTPException(503, "the image waited longer than allowed; send it again")
        case _:
            raise HTTPException(409, "not done yet")


async def _events(job: Job) -> AsyncIterator[str]:
    told: JobStage | None = None
    quiet_s = 0.0
    while told not in ENDED:
        stage = job.stage
        if stage != told:
            told, quiet_s = stage, 0.0
            yield f"event: stage\ndata: {json.dumps(_status(job).model_dump(mode='json'))}\n\n"
        elif quiet_s >= _BEAT_S:
            quiet_s = 0.0
            yield ": still here\n\n"
        else:
            quiet_s += _POLL_S
            await asyncio.sleep(_POLL_S)
