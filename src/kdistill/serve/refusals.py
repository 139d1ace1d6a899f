"""Answers to requests that are not of the form asked for. They never repeat what was sent."""

from __future__ import annotations

import json
from typing import Annotated, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator


def _is_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("a whole number is needed")
    return value


#: Stands behind the limits of a number: before them, pydantic writes "ge" and "le", which JSON Schema has not.
IS_NUMBER: Final = BeforeValidator(_is_number)
#: JSON's integer: 1 and 1.0, as JSON Schema has it, and neither "1" nor true.
WholeNumber = Annotated[int, IS_NUMBER]


def add_refusals(app: FastAPI) -> None:
    """Answer 422 with place and reason of each problem.

    The framework's own answer repeats the input: a reader's free text would come back in an error, and half a
    surrogate pair or a NaN in it cannot be written as JSON, which made a 500 of it.
    """

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        told = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
        return Response(json.dumps({"detail": told}), 422, media_type="application/json")
