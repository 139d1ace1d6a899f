"""The endpoints of feedback. One thread of their own writes, so that a disk that hangs stops no explanation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

from fastapi import Body, FastAPI, HTTPException, Path, Request, Response

from kdistill.errors import InputError, KDistillError
from kdistill.explain.explanation import Explanation
from kdistill.records import Record
from kdistill.serve.contract import REFUSALS, Answers, Refusal
from kdistill.serve.desk import Desk
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.feedback_export import export_lines
from kdistill.serve.judgements import (
    FindingWord,
    Judgement,
    ReaderWord,
    Sentence,
    SentenceWord,
    Word,
    judge,
    sentences_of,
)
from kdistill.serve.security import COOKIE

T = TypeVar("T")
ResultId = Annotated[str, Path(max_length=64)]
#: Requests that may wait for the file; a locked one holds each for seconds.
_MAX_WAITING: Final = 8
_RESPONSES: Final[Answers] = {
    **REFUSALS,
    403: {"model": Refusal, "description": "Another site's request, or what the server was not started for."},
    404: {"model": Refusal, "description": "No such result in this session, or feedback is off."},
    409: {"model": Refusal, "description": "Not done yet."},
    422: {"description": "A word that makes no sense here; the reason is given."},
    503: {"model": Refusal, "description": "The feedback file cannot be used just now; nothing was stored."},
}


class ResultFeedback(Record):
    """What this session has said about a result, and what there is to say something about."""

    comments: bool
    sentences: tuple[Sentence, ...]
    judgements: tuple[Judgement, ...]


class FeedbackWriter:
    """Runs calls to the store one after the other, outside the threads that answer everything else."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._waiting = 0

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call.

        Raises:
            HTTPException: 503 with the reason, where the file cannot be used or too many wait for it.
        """
        if self._waiting >= _MAX_WAITING:
            raise HTTPException(503, "too many wait for the feedback file; try again", {"Retry-After": "5"})
        self._waiting += 1
        try:
            with _unavailable_as_503():
                return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        finally:
            self._waiting -= 1


@contextlib.contextmanager
def _unavailable_as_503() -> Iterator[None]:
    try:
        yield
    except KDistillError as error:
        told = f"Not done: {error.what}."
        raise HTTPException(503, told, {"Retry-After": "5"}) from error


def add_feedback(
    app: FastAPI, desk: Desk, writer: FeedbackWriter | None, *, comments: bool = True, may_export: bool = False
) -> None:
    """Add the endpoints of feedback to an application.

    Args:
        app: The application; its routes below /v1/results/{id}/ must be added after these.
        desk: Where results are found.
        writer: Where feedback goes; None: it is off, and the endpoints say so.
        comments: Whether free text is taken.
        may_export: Whether everything may be read back (only where a token is asked for).
    """

    @app.post("/v1/results/{job_id}/feedback", tags=["feedback"], responses=_RESPONSES)
    async def say(job_id: ResultId, word: Annotated[Word, Body()], request: Request) -> Judgement:
        """Judge one finding or one sentence of a result. The last word of a reader counts; the same twice is once."""
        on = required(writer)
        explanation = _shown(desk, job_id, request)
        judgement = _judged(explanation, word, comments=comments)
        return await on.run(lambda: on.store.add(job_id, judgement))

    @app.get("/v1/results/{job_id}/feedback", tags=["feedback"], responses=_RESPONSES)
    async def said(job_id: ResultId, request: Request) -> ResultFeedback:
        """What was said about a result, and the sentences that can be judged."""
        on = required(writer)
        explanation = _shown(desk, job_id, request)
        sentences = () if explanation.abstained else sentences_of(explanation)
        return ResultFeedback(
            comments=comments,
            sentences=tuple(sentences),
            judgements=tuple(await on.run(lambda: on.store.of_result(job_id))),
        )

    @app.get("/v1/feedback.jsonl", tags=["feedback"], response_class=Response, responses=_RESPONSES)
    async def everything() -> Response:
        """All feedback of all readers, one image a line (docs/feedback.md); only where a token is asked for."""
        on = required(writer)
        if not may_export:
            raise HTTPException(403, "feedback is given out only by a server that was started with a token")
        with _unavailable_as_503():
            content = await asyncio.to_thread(lambda: "".join(export_lines(on.store.path)))
        return Response(content, media_type="application/jsonl")


def required(writer: FeedbackWriter | None) -> FeedbackWriter:
    """The writer.

    Raises:
        HTTPException: 404 feedback is off.
    """
    if writer is None:
        raise HTTPException(404, "feedback is off on this server")
    return writer


def _shown(desk: Desk, job_id: str, request: Request) -> Explanation:
    job = desk.find(job_id, request.cookies.get(COOKIE, ""))
    if job.explanation is None:
        raise HTTPException(409, "there is no answer yet that could be judged")
    job.is_told = True
    return job.explanation


def check_comment(word: ReaderWord, *, comments: bool) -> None:
    """Refuse free text on a server that takes none.

    Raises:
        HTTPException: 422.
    """
    if word.comment and not comments:
        raise HTTPException(422, "this server takes no free text")


def _judged(explanation: Explanation, word: FindingWord | SentenceWord, *, comments: bool) -> Judgement:
    check_comment(word, comments=comments)
    try:
        return judge(explanation, word, datetime.now(UTC))
    except InputError as error:
        raise HTTPException(422, f"{error.what[0].upper()}{error.what[1:]}.") from error
