"""The HTTP API and the page. What an answer says comes from `explain`, as on the command line."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Final

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
from kdistill.serve.config import ServeConfig
from kdistill.serve.counterfactuals import add_counterfactuals
from kdistill.serve.desk import Desk
from kdistill.serve.jobs import ENDED, Job, Jobs, JobStage
from kdistill.serve.samples import Sample, Samples, Truth
from kdistill.serve.security import COOKIE, Guard, Sessions
from kdistill.serve.uploads import FIELD
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
    version: str = __version__
    notice: str = NOTICE


def create_app(jobs: Jobs, config: ServeConfig, samples: Samples | None = None) -> FastAPI:
    """The application.

    Args:
        jobs: The model and its queue; closed with the application.
        config: Sizes, times, token.
        samples: Test studies to try; None: none are offered.
    """
    sessions, pool = Sessions(config.token), DecoderPool(config.decoders)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with pool:
            yield
        await asyncio.to_thread(jobs.close)

    app = FastAPI(
        title="kdistill",
        version=__version__,
        description=f"{NOTICE} Chest radiograph in, explanation out.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from a content network
        redoc_url=None,
    )
    app.add_middleware(Guard, sessions=sessions)
    desk = Desk(jobs, config, pool)
    _add_health(app, desk)
    _add_page(app)
    _add_session(app, sessions, jobs)
    _add_upload(app, desk)
    _add_results(app, desk)
    _add_samples(app, desk, samples)
    add_counterfactuals(app, desk, samples, session_of=_session_of, refusals=_REFUSALS)
    return app


def _session_of(request: Request, response: Response) -> str:
    """The session of a request; a new one gets its cookie with the answer."""
    return request.cookies.get(COOKIE) or _new_session(request, response)


def _new_session(request: Request, response: Response) -> str:
    session = secrets.token_urlsafe(24)
    response.set_cookie(
        COOKIE, session, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return session


SessionId = Annotated[str, Depends(_session_of)]
JobId = Annotated[str, Path(max_length=64)]
SampleNumber = Annotated[int, Path(ge=0, le=10_000)]
_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "No token, or a wrong one."},
    403: {"description": "A request that another site started."},
}
_MISSING: Final[dict[int | str, dict[str, Any]]] = {
    **_REFUSALS,
    404: {"description": "No such result in this session."},
}
_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    **_REFUSALS,
    400: {"description": "No image, or a form that is torn."},
    408: {"description": "The image took too long to arrive."},
    413: {"description": "Larger than allowed."},
    415: {"description": "No image that is read here; the reason is given."},
    429: {"description": "Too many images wait; see Retry-After."},
}


def _add_health(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"], responses={503: {"description": "The model cannot be asked."}})
    def readyz(response: Response) -> dict[str, str]:
        """The model is loaded and its thread runs."""
        if not desk.jobs.is_alive:
            response.status_code = 503
            return {"status": "the reading thread has ended"}
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], response_class=Response, responses=_REFUSALS)
    def measured() -> Response:
        """Prometheus metrics."""
        content = generate_latest(desk.metrics.registry)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    def shipped(name: str, media_type: str) -> Callable[[], Response]:
        content = resources.files("kdistill.serve.page").joinpath(name).read_bytes()
        return lambda: Response(content, media_type=media_type)

    for path, name, media_type in (
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/page/app.css", "app.css", "text/css; charset=utf-8"),
        ("/page/counterfactual.js", "counterfactual.js", "text/javascript; charset=utf-8"),
        ("/page/counterfactual.css", "counterfactual.css", "text/css; charset=utf-8"),
    ):
        app.get(path, include_in_schema=False)(shipped(name, media_type))


def _add_session(app: FastAPI, sessions: Sessions, jobs: Jobs) -> None:
    @app.get("/v1/session", tags=["session"], responses=_REFUSALS)
    def look(request: Request, session: SessionId) -> SessionState:
        """Whether this session may ask, and which model answers."""
        may_ask = sessions.may_ask(request.headers, session)
        model = jobs.reader.name if may_ask else ""
        return SessionState(needs_token=sessions.needs_token, may_ask=may_ask, model=model)

    @app.post("/v1/session", tags=["session"], responses=_REFUSALS)
    def enter(request: Request, response: Response) -> SessionState:
        """Show the token once (Authorization: Bearer TOKEN); the session's cookie stands for it from then on."""
        if not sessions.may_ask(request.headers, request.cookies.get(COOKIE)):
            raise HTTPException(401, "the token is not the right one", {"WWW-Authenticate": "Bearer"})
        sessions.admit(_new_session(request, response))  # never a name that somebody else may have planted
        return SessionState(needs_token=sessions.needs_token, may_ask=True, model=jobs.reader.name)


def _queued(desk: Desk, session: str, image: FileImage, response: Response) -> JobStatus:
    job = desk.queue(session, image)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _status(job)


def _upload_schema() -> dict[str, Any]:
    body = {"schema": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "properties": {FIELD: body["schema"]}, "required": [FIELD]}}
    contents = {"application/octet-stream": body, "application/dicom": body, "image/png": body, "image/jpeg": body}
    return {"requestBody": {"required": True, "content": {**contents, "multipart/form-data": form}}}


def _add_upload(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/explain", status_code=202, tags=["explain"], responses=_ACCEPTED, openapi_extra=_upload_schema())
    async def send(request: Request, response: Response, session: SessionId) -> JobStatus:
        """Send one chest radiograph (DICOM, PNG or JPEG); the answer says where to ask for the result."""
        return _queued(desk, session, await desk.take(request), response)


def _add_results(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/jobs/{job_id}", tags=["explain"], responses=_MISSING)
    def look(job_id: JobId, session: SessionId) -> JobStatus:
        """Where a job stands."""
        return _status(desk.find(job_id, session))

    @app.get(
        "/v1/jobs/{job_id}/events",
        tags=["explain"],
        responses={**_MISSING, 200: {"content": {"text/event-stream": {}}, "description": "One event a stage."}},
        response_class=StreamingResponse,
    )
    async def events(job_id: JobId, session: SessionId) -> StreamingResponse:
        """Follow a job: a server-sent event for each stage, the last one "done", "failed" or "expired"."""
        return StreamingResponse(_events(desk.find(job_id, session)), media_type="text/event-stream")

    @app.get(
        "/v1/results/{job_id}",
        tags=["explain"],
        responses={**_MISSING, 409: {"description": "Not done yet."}, 503: {"description": "The model failed on it."}},
    )
    def result(job_id: JobId, session: SessionId) -> Explanation:
        """The explanation."""
        return _explanation(desk.find(job_id, session))

    @app.get(
        "/v1/results/{job_id}/{kind}",
        tags=["explain"],
        response_class=Response,
        responses={
            **_MISSING,
            409: {"description": "Not done yet."},
            415: {"description": "The image was no DICOM object, so there is no study to write into."},
            501: {"description": "What writes this format is not installed."},
            503: {"description": "The model failed on it."},
        },
    )
    def exported(job_id: JobId, kind: ExplainFormat, session: SessionId) -> Response:
        """The explanation in another format (docs/exports.md)."""
        job = desk.find(job_id, session)
        explanation = _explanation(job)
        try:
            content = export(kind, explanation, job.image.display, job.image.header, recorded=job.recorded)
        except InputError as error:
            raise HTTPException(415, f"The file {error.what}.") from error
        except EnvironmentFault as error:
            raise HTTPException(501, str(error)) from error
        headers = (
            {} if kind == "html" else {"Content-Disposition": f'attachment; filename="explanation{ENDINGS[kind]}"'}
        )
        return Response(content, media_type=MEDIA_TYPES[kind], headers=headers)

    @app.delete("/v1/results/{job_id}", status_code=204, tags=["explain"], responses=_MISSING)
    def delete(job_id: JobId, session: SessionId) -> None:
        """Forget an image and its result now."""
        if not desk.jobs.delete(job_id, session):
            raise HTTPException(404, "no such result in this session")


def _add_samples(app: FastAPI, desk: Desk, samples: Samples | None) -> None:
    @app.get("/v1/samples", tags=["samples"], responses=_REFUSALS)
    def offered() -> list[Sample]:
        """Test studies of the run, to try."""
        return samples.all() if samples else []

    missing_sample: dict[int | str, dict[str, Any]] = {**_REFUSALS, 404: {"description": "No such sample."}}

    @app.post(
        "/v1/samples/{number}/explain",
        status_code=202,
        tags=["samples"],
        responses={**missing_sample, 429: _ACCEPTED[429]},
    )
    def try_sample(number: SampleNumber, response: Response, session: SessionId) -> JobStatus:
        """Explain a sample as if it had been sent."""
        return _queued(desk, session, _sample(samples, number).image(number), response)

    @app.get("/v1/samples/{number}/truth", tags=["samples"], responses=missing_sample)
    def truth(number: SampleNumber) -> Truth:
        """What is known of a sample: its ground truth and its report."""
        return _sample(samples, number).truth(number)


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
            return job.explanation
        case "failed":
            raise HTTPException(503, "the model failed on this image; send it again")
        case "expired":
            raise HTTPException(503, "the image waited longer than allowed; send it again")
        case _:
            raise HTTPException(409, "not done yet")


async def _events(job: Job) -> AsyncIterator[str]:
    told: JobStage | None = None
    while told not in ENDED:
        stage = job.stage
        if stage != told:
            told = stage
            yield f"event: stage\ndata: {json.dumps(_status(job).model_dump(mode='json'))}\n\n"
        else:
            await asyncio.sleep(_POLL_S)
