"""Which model answers, and how to put another one in its place."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import FastAPI, HTTPException
from pydantic import Field

from kdistill.errors import KDistillError
from kdistill.records import Record
from kdistill.serve.contract import REFUSALS, Answers, Refusal
from kdistill.serve.jobs import Jobs
from kdistill.serve.models import Models
from kdistill.serve.refusals import IS_NUMBER

_RESPONSES: Final[Answers] = {
    **REFUSALS,
    403: {"model": Refusal, "description": "A request that another site started, or a server that asks for no token."},
    409: {"model": Refusal, "description": "It was refused, or another is being loaded; the present model stays."},
}


class ModelChoice(Record):
    """A student of the run. Without an arm: the present one, loaded again; without a seed: the arm's first."""

    arm: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$", max_length=60)
    seed: Annotated[int, Field(ge=0, le=2**31), IS_NUMBER] | None = None


class ServedModel(Record):
    """The model that answers now; `size_px` is the side of the square that it reads.

    `against` is the one that it is compared with; None: there is none.
    """

    model: str
    size_px: int
    swaps: int
    against: str | None = None


def add_model(app: FastAPI, jobs: Jobs, models: Models | None, *, may_swap: bool) -> None:
    """Add the endpoints of the model to an application.

    Args:
        app: The application.
        jobs: Where the model answers.
        models: What it can be swapped for; None: nothing.
        may_swap: Whether requests may change it (only where a token is asked for).
    """

    @app.get("/v1/model", tags=["model"], responses=REFUSALS)
    def look() -> ServedModel:
        """The model that answers now."""
        return _served(jobs)

    @app.post("/v1/model", tags=["model"], responses=_RESPONSES)
    async def change(choice: ModelChoice) -> ServedModel:
        """Put another student of the run in its place, once it is loaded and checked; no request is dropped."""
        if models is None or not may_swap:
            raise HTTPException(403, "the model is changed only on a server that was started with a token")
        try:
            await asyncio.to_thread(models.swap, choice.arm, choice.seed)
        except KDistillError as error:
            told = f"{error.what}. {error.remedy or ''}".strip()  # not where: a path of this machine
            raise HTTPException(409, f"Not changed, {jobs.reader.name} stays: {told}") from error
        return _served(jobs)


def _served(jobs: Jobs) -> ServedModel:
    reader, other = jobs.reader, jobs.against
    against = None if other is None else other.reader.name
    return ServedModel(model=reader.name, size_px=reader.size_px, swaps=jobs.num_swaps, against=against)
