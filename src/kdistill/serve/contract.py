"""What /openapi.json says of the answers, beside what the types of the application say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.routing import Match, Route

from kdistill.records import Record
from kdistill.serve.security import COOKIE, OPEN
from kdistill.serve.uploads import FIELD

Answers = dict[int | str, dict[str, Any]]


class Refusal(Record):
    """Why a request was not answered."""

    detail: str


REFUSALS: Final[Answers] = {
    400: {"model": Refusal, "description": "A request that is torn, or gives two lengths."},
    401: {"model": Refusal, "description": "No token, or a wrong one."},
    403: {"model": Refusal, "description": "A request that another site started."},
}
MISSING: Final[Answers] = {
    **REFUSALS,
    404: {"model": Refusal, "description": "No such result in this session."},
}
NOT_YET: Final[Answers] = {
    **MISSING,
    409: {"model": Refusal, "description": "Not done yet."},
    503: {"model": Refusal, "description": "The model failed on it, or it waited too long."},
}
_RETRY: Final[dict[str, Any]] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
FULL: Final[Answers] = {
    429: {"model": Refusal, "description": "Too many images wait; see Retry-After.", "headers": _RETRY}
}
#: Operations by what they need to know of an earlier answer.
_JOB: Final = (
    "look_v1_jobs__job_id__get",
    "events_v1_jobs__job_id__events_get",
    "result_v1_results__job_id__get",
    "exported_v1_results__job_id___kind__get",
    "pixels_v1_results__job_id__pixels_get",
    "provenance_v1_results__job_id__provenance_get",
    "say_v1_results__job_id__feedback_post",
    "said_v1_results__job_id__feedback_get",
    "blur_v1_results__job_id__counterfactuals__observation__post",
    "delete_v1_results__job_id__delete",
    "compare_v1_results__job_id__comparison_post",
    "look_v1_results__job_id__comparison_get",
    "say_v1_results__job_id__comparison_preference_post",
)
_SAMPLE: Final = (
    "truth_v1_samples__number__truth_get",
    "try_sample_v1_samples__number__explain_post",
    "offered_v1_samples__number__counterfactuals_get",
    "remove_v1_samples__number__counterfactuals__observation__post",
)
_SET: Final = (
    "look_v1_counterfactuals__set_id__get",
    "image_v1_counterfactuals__set_id__steps__step__image_get",
    "delete_v1_counterfactuals__set_id__delete",
)


def _links(operations: Sequence[str], parameter: str, place: str) -> dict[str, Any]:
    return {name: {"operationId": name, "parameters": {parameter: f"$response.body#/{place}"}} for name in operations}


#: What can be asked about a job, a sample or a set of counterfactuals, for programs that read /openapi.json.
LINKS: Final[Answers] = {
    202: {"description": "Accepted; where to ask for the result.", "links": _links(_JOB, "job_id", "id")}
}
SAMPLE_LINKS: Final[Answers] = {
    200: {"description": "What is on offer.", "links": _links(_SAMPLE, "number", "0/number")}
}
SET_LINKS: Final[Answers] = {
    202: {"description": "Accepted; where to ask for the steps.", "links": _links(_SET, "set_id", "id")}
}
ACCEPTED: Final[Answers] = {
    **REFUSALS,
    **FULL,
    **LINKS,
    400: {"model": Refusal, "description": "No image, or a form that is torn."},
    408: {"model": Refusal, "description": "The image took too long to arrive."},
    413: {"model": Refusal, "description": "Larger than allowed."},
    415: {"model": Refusal, "description": "No image that is read here; the reason is given."},
    503: {"model": Refusal, "description": "Its decoder was ended from outside; send it again.", "headers": _RETRY},
}
ENTRY: Final[Answers] = {status: REFUSALS[status] for status in (400, 403)}
NOT_READY: Final[Answers] = {
    **ENTRY,
    503: {"model": dict[str, str], "description": "The model cannot be asked."},
}


def upload_schema() -> dict[str, Any]:
    """The body of an upload: the image itself, or a form with it."""
    body = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "properties": {FIELD: body["schema"]},
            "required": [FIELD],
            "additionalProperties": False,
        },
        "encoding": {FIELD: {"contentType": "image/png, image/jpeg, application/dicom"}},
    }
    contents = {"application/octet-stream": body, "application/dicom": body, "image/png": body, "image/jpeg": body}
    return {"requestBody": {"required": True, "content": {**contents, "multipart/form-data": form}}}


def describe_token(app: FastAPI) -> None:
    """Say in /openapi.json that a token, or the session that has shown it, is needed."""
    described = app.openapi

    def with_token() -> dict[str, Any]:
        schema = described()
        schema["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
        for path in schema["paths"].keys() - OPEN:
            for operation in schema["paths"][path].values():
                operation["security"] = [{"token": []}, {"session": []}]
        return schema

    app.openapi = with_token  # type: ignore[method-assign]


def answer_wrong_methods(app: FastAPI) -> None:
    """Name in 405 every method of a path: the framework names those of the first route that has the path."""

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        fitting = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
        allowed = sorted({method for route in fitting if isinstance(route, Route) for method in route.methods or ()})
        return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(allowed)})

    app.add_exception_handler(405, refuse)
