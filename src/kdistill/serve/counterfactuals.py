"""The paths of the counterfactuals: what if it were not there? (`counterfactual_sets`; docs/serving.md.)"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from PIL import Image

from kdistill.explain.explanation import Explanation
from kdistill.observations import FINDINGS, INDEX, OBSERVATIONS
from kdistill.serve.contract import FULL, REFUSALS, SET_LINKS, Answers, Refusal
from kdistill.serve.counterfactual_sets import (
    Counterfactual,
    CounterfactualDesk,
    occluded_by,
    occluded_steps,
    removed_by,
    sample_steps,
)
from kdistill.serve.desk import Desk
from kdistill.serve.occlusion import occlude
from kdistill.serve.removals import Removables, Removals
from kdistill.serve.samples import Samples
from kdistill.serve.security import COOKIE

SetId = Annotated[str, Path(max_length=64)]
Observation = Annotated[
    str, Path(max_length=64, description="One of the 14, but No Finding.", json_schema_extra={"enum": list(FINDINGS)})
]
OTHER_MODEL: Final = (
    "another model answers by now, and the evidence is that of the one before: delete this result, read the image again"
)
NumSteps = Annotated[int, Query(ge=2, le=11, description="Images to read, the first as it is, the last without.")]


def add_counterfactuals(
    app: FastAPI,
    desk: Desk,
    samples: Callable[[], Samples | None],
    *,
    session_of: Callable[[Request, Response], str],
) -> None:
    """Add the paths of this module.

    Args:
        app: The application.
        desk: Where images are queued.
        samples: Test studies on offer now (they follow the model); None: there are none.
        session_of: The session of a request; a new one gets its cookie with the answer.
    """
    made = CounterfactualDesk(desk)
    _add_removals(app, made, _Offer(samples), session_of)
    _add_occlusions(app, desk, made)
    _add_sets(app, made)


class _Offer:
    """The samples of the model that answers, and what can be taken away from them."""

    def __init__(self, samples: Callable[[], Samples | None]) -> None:
        self._samples = samples
        self._known: tuple[Samples, Removals] | None = None

    def of(self, number: int) -> tuple[Samples, Removals]:
        """Both.

        Raises:
            HTTPException: 404 there is no such sample.
        """
        samples, known = self._samples(), self._known
        if samples is None or number >= len(samples):
            raise HTTPException(404, "no such sample")
        if known is None or known[0] is not samples:
            known = self._known = (samples, Removals(samples))
        return known


def _add_removals(
    app: FastAPI,
    made: CounterfactualDesk,
    offer: _Offer,
    session_of: Callable[[Request, Response], str],
) -> None:
    missing: Answers = {**REFUSALS, 404: {"model": Refusal, "description": "No such sample, or no such observation."}}

    @app.get("/v1/samples/{number}/counterfactuals", tags=["counterfactuals"], responses=missing)
    def offered(number: Annotated[int, Path(ge=0, le=10_000)]) -> Removables:
        """Which findings can be taken away from a sample: this tells what is present in it."""
        _, known = offer.of(number)
        return known.of(number)

    @app.post(
        "/v1/samples/{number}/counterfactuals/{observation}",
        status_code=202,
        tags=["counterfactuals"],
        responses={
            **missing,
            409: {
                "model": Refusal,
                "description": "Not present, no image without it known, or too many steps.",
            },
            **FULL,
            **SET_LINKS,
        },
    )
    def remove(
        number: Annotated[int, Path(ge=0, le=10_000)],
        observation: Observation,
        request: Request,
        response: Response,
        steps: NumSteps = 6,
    ) -> Counterfactual:
        """Read a sample again while one of its findings fades away: the same patient, everything else as it was."""
        samples, known = offer.of(number)
        _known_finding(observation)
        removed = made.drawn(steps, lambda: known.without(number, observation))
        if removed is None:
            reason = known.of(number).reason or f"{observation} is not present in this sample: nothing to take away"
            raise HTTPException(409, reason)
        images = sample_steps(samples.image(number), removed.pixels, observation, steps)
        return _told(response, made.start(session_of(request, response), removed_by(removed), images))


def _known_finding(observation: str) -> None:
    if observation not in OBSERVATIONS:
        raise HTTPException(404, "no such observation")
    if observation not in FINDINGS:
        raise HTTPException(409, f"{observation} is the absence of all others: it cannot be taken away")


def _told(response: Response, found: Counterfactual) -> Counterfactual:
    response.headers["Location"] = f"/v1/counterfactuals/{found.id}"
    return found


def _add_occlusions(app: FastAPI, desk: Desk, made: CounterfactualDesk) -> None:
    @app.post(
        "/v1/results/{job_id}/counterfactuals/{observation}",
        status_code=202,
        tags=["counterfactuals"],
        responses={
            **REFUSALS,
            404: {"model": Refusal, "description": "No such result in this session, or no such observation."},
            409: {
                "model": Refusal,
                "description": "Not done yet, no answer, no evidence map, another model's, or too many steps.",
            },
            **FULL,
            **SET_LINKS,
        },
    )
    def blur(
        job_id: SetId, observation: Observation, request: Request, response: Response, steps: NumSteps = 6
    ) -> Counterfactual:
        """Read an image again while the patches that hold 60% of one observation's evidence are blurred over.

        An occlusion test: no picture of the patient without the finding.
        """
        session = request.cookies.get(COOKIE, "")
        job = desk.find(job_id, session)
        _known_finding(observation)
        evidence = _evidence(job.explanation, observation)
        job.is_told = True  # the first step is the answer itself
        model = job.explanation.model if job.explanation else ""
        if model != desk.jobs.context.model:
            raise HTTPException(409, OTHER_MODEL)
        occluded = made.drawn(steps, lambda: occlude(job.image.pixels, job.image.display, evidence))
        images = occluded_steps(job.image, occluded, observation, steps)
        return _told(response, made.start(session, occluded_by(occluded, observation, model), images, job.id))


def _evidence(explanation: Explanation | None, observation: str) -> tuple[tuple[float, ...], ...]:
    if explanation is None:
        raise HTTPException(409, "the image itself has no explanation yet")
    if explanation.abstained:
        raise HTTPException(409, "the model gave no answer about this image, so there is no evidence to blur")
    found = explanation.observations[INDEX[observation]].evidence_map
    if found is None:
        raise HTTPException(409, "this model has no evidence maps")
    return found


def _add_sets(app: FastAPI, made: CounterfactualDesk) -> None:
    missing: Answers = {**REFUSALS, 404: {"model": Refusal, "description": "No such counterfactual in this session."}}

    @app.get("/v1/counterfactuals/{set_id}", tags=["counterfactuals"], responses=missing)
    def look(set_id: SetId, request: Request) -> Counterfactual:
        """Where the steps stand; once all are done, what happened in one line."""
        return made.look(set_id, request.cookies.get(COOKIE, ""))

    @app.get(
        "/v1/counterfactuals/{set_id}/steps/{step}/image",
        tags=["counterfactuals"],
        response_class=Response,
        responses={**missing, 200: {"content": {"image/png": {}}, "description": "What was read at this step."}},
    )
    def image(set_id: SetId, step: Annotated[int, Path(ge=0, le=10)], request: Request) -> Response:
        """The picture of one step, at the size at which pages show it."""
        _, jobs = made.jobs(set_id, request.cookies.get(COOKIE, ""))
        if step >= len(jobs):
            raise HTTPException(404, "no such step")
        buffer = io.BytesIO()
        Image.fromarray(jobs[step].image.display).save(buffer, format="PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    @app.delete("/v1/counterfactuals/{set_id}", status_code=204, tags=["counterfactuals"], responses=missing)
    def delete(set_id: SetId, request: Request) -> None:
        """Forget all steps now."""
        made.delete(set_id, request.cookies.get(COOKIE, ""))
