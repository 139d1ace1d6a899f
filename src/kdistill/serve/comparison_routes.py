"""The paths of comparisons: two models, one image (`comparisons`; docs/serving.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Body, FastAPI, HTTPException, Path, Request, Response
from pydantic import StrictBool

from kdistill.records import Record
from kdistill.serve.comparisons import Comparison, ComparisonDesk
from kdistill.serve.contract import FULL, MISSING, Answers, Refusal
from kdistill.serve.desk import Desk
from kdistill.serve.feedback_routes import FeedbackWriter, check_comment, required
from kdistill.serve.preferences import PreferenceWord, prefer
from kdistill.serve.security import COOKIE

ResultId = Annotated[str, Path(max_length=64)]
_NONE: Final[Answers] = {
    404: {"model": Refusal, "description": "No such result in this session, no comparison of it, or no second model."}
}
_STARTED: Final[Answers] = {
    **MISSING,
    **_NONE,
    **FULL,
    409: {
        "model": Refusal,
        "description": "Not read yet, by the same model, by one of another size, or it cannot be blinded any more.",
    },
}
_PREFERRED: Final[Answers] = {
    **MISSING,
    404: {"model": Refusal, "description": "No such result or comparison in this session, or feedback is off."},
    409: {"model": Refusal, "description": "The second model has not read the film yet."},
    422: {"description": "A word that makes no sense here; the reason is given."},
    503: {"model": Refusal, "description": "The feedback file cannot be used just now; nothing was stored."},
}


class ComparisonWish(Record):
    """How to compare. `blinded`: in an order that is drawn, the names told only once a preference is stored."""

    blinded: StrictBool = False


def add_comparisons(app: FastAPI, desk: Desk, writer: FeedbackWriter | None, *, comments: bool) -> None:
    """Add the paths of this module; before `/v1/results/{id}/{kind}`, which would take them for formats.

    Args:
        app: The application.
        desk: Where images are queued.
        writer: Where preferences go; None: feedback is off, and nothing can be blinded.
        comments: Whether free text is taken.
    """
    made = ComparisonDesk(desk, comments=comments)

    @app.post("/v1/results/{job_id}/comparison", status_code=202, tags=["comparison"], responses=_STARTED)
    def compare(
        job_id: ResultId, wish: Annotated[ComparisonWish, Body()], request: Request, response: Response
    ) -> Comparison:
        """Let the second model read the image of a result; one comparison a result, asked for again it is the same."""
        if wish.blinded and writer is None:
            raise HTTPException(409, "nothing is blinded here: feedback is off, so no preference can be stored")
        found = made.start(job_id, _session_of(request), blinded=wish.blinded)
        response.headers["Location"] = f"/v1/results/{job_id}/comparison"
        return found

    @app.get("/v1/results/{job_id}/comparison", tags=["comparison"], responses={**MISSING, **_NONE})
    def look(job_id: ResultId, request: Request) -> Comparison:
        """Where a comparison stands; once the second model has read the image, both answers and their differences."""
        return made.look(job_id, _session_of(request))

    @app.post("/v1/results/{job_id}/comparison/preference", tags=["comparison"], responses=_PREFERRED)
    async def say(job_id: ResultId, word: PreferenceWord, request: Request) -> Comparison:
        """Store which answer is better. The last word of a reader counts; the names are told from then on."""
        on, session = required(writer), _session_of(request)
        sha256, models, blinded = made.shown(job_id, session)
        check_comment(word, comments=comments)
        preference = prefer(sha256, models, word, datetime.now(UTC), blinded=blinded)
        kept = await on.run(lambda: on.store.prefer(job_id, preference))
        return made.preferred(job_id, session, kept)


def _session_of(request: Request) -> str:
    return request.cookies.get(COOKIE, "")
