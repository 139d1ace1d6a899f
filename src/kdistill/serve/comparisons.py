"""Two models, one image: the answer of the model that is compared with beside that of the one that answers.

The second reading is an ordinary job in the same queue, kept as long as the first. Whose answer is A and whose is B is
drawn for each image where the comparison is blinded, and told only once a preference is stored.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from fastapi import HTTPException

from kdistill.explain.explanation import NOTICE, Explanation
from kdistill.records import Record
from kdistill.serve.desk import Desk
from kdistill.serve.differences import Difference, differences
from kdistill.serve.jobs import Job, JobStage
from kdistill.serve.preferences import ModelNames, Preference

#: Stands for a model's name while it is not told.
_A, _B = "A", "B"
#: These three are told to people as they stand.
SEEN: Final = "this session has been told an answer about this film, so nothing can be blinded any more: compare openly"
SAME: Final = "this film was read by the very model that it would be compared with"
OTHER_SIZE: Final = "the model that it would be compared with reads films of another size: read the film again"
NO_SECOND: Final = "this server has no second model (kdistill serve RUN --against ARM)"


class Comparison(Record):
    """Two answers about one image.

    Attributes:
        stage: Where the second reading stands; `a`, `b` and `differences` are there once it is "done".
        blinded: Whether the order was drawn and the names are told only once a preference is stored.
        models: Who is A and who is B; None while that is not told.
        a: One answer; its `model` is "A" while the names are not told.
        b: The other one.
        differences: Where they differ.
        preference: What this session has stored last.
        comments: Whether free text is taken with it.
        notice: Research use only.
    """

    stage: JobStage
    blinded: bool
    models: ModelNames | None = None
    a: Explanation | None = None
    b: Explanation | None = None
    differences: tuple[Difference, ...] = ()
    preference: Preference | None = None
    comments: bool
    notice: str = NOTICE


@dataclass
class _Pair:
    """What is known of a comparison beside its two jobs; kept as long as the first of them."""

    second: str
    blinded: bool
    #: The model that is compared with is A.
    is_turned: bool
    #: The names have been told.
    is_open: bool
    preference: Preference | None = None


class ComparisonDesk:
    """Makes comparisons and finds them again: one for each result.

    Args:
        desk: Where images are queued.
        comments: Whether free text is taken with a preference.
    """

    def __init__(self, desk: Desk, *, comments: bool) -> None:
        self._desk, self._comments = desk, comments
        self._pairs = WeakKeyDictionary[Job, _Pair]()
        self._lock = threading.Lock()

    def start(self, job_id: str, session: str, *, blinded: bool) -> Comparison:
        """Let the second model read the image of a result; the same again where that was asked for before.

        An open comparison of a blinded one tells the names, and it is blinded no more.

        Raises:
            HTTPException: 404 no such result, or no second model; 409 not done, nothing to compare with, or blinded too
                late; 429 too many images wait.
        """
        first = self._first(job_id, session)
        with self._lock:
            pair = self._pairs.get(first)
            if pair is None or self._has_failed(pair, session):
                self._pairs[first] = pair = self._queued(first, session, blinded=blinded)
            elif not blinded:
                pair.is_open = True
        return self._look(first, pair, session)

    def look(self, job_id: str, session: str) -> Comparison:
        """Where a comparison stands.

        Raises:
            HTTPException: 404 there is none of this result in this session.
        """
        first = self._first(job_id, session)
        return self._look(first, self._pair(first), session)

    def shown(self, job_id: str, session: str) -> tuple[str, ModelNames, bool]:
        """What a preference is about: the image's hash, who is A and who is B, and whether that is blinded until now.

        Raises:
            HTTPException: 404 there is no comparison; 409 it is not done; 422 neither model gave an answer.
        """
        first = self._first(job_id, session)
        pair = self._pair(first)
        a, b = self._answers(first, pair, session)
        if a is None or b is None:
            raise HTTPException(409, "the second model has not read this film yet")
        if a.abstained and b.abstained:
            raise HTTPException(422, "Neither model gave an answer about this film, so that none can be preferred.")
        return a.image_sha256, ModelNames(a=a.model, b=b.model), self._is_blind(first, pair, session)

    def preferred(self, job_id: str, session: str, preference: Preference) -> Comparison:
        """Tell the names, now that a preference is stored.

        Raises:
            HTTPException: 404 the result was deleted meanwhile.
        """
        first = self._first(job_id, session)
        pair = self._pair(first)
        pair.preference, pair.is_open = preference, True
        return self._look(first, pair, session)

    def _first(self, job_id: str, session: str) -> Job:
        return self._desk.find(job_id, session)

    def _pair(self, first: Job) -> _Pair:
        pair = self._pairs.get(first)
        if pair is None:
            raise HTTPException(404, "this result is not compared with another model's")
        return pair

    def _has_failed(self, pair: _Pair, session: str) -> bool:
        second = self._desk.jobs.find(pair.second, session)
        return second is None or second.stage in ("failed", "expired")

    def _queued(self, first: Job, session: str, *, blinded: bool) -> _Pair:
        other = self._desk.jobs.against
        if other is None:
            raise HTTPException(404, NO_SECOND)
        if first.explanation is None:
            raise HTTPException(409, "the film itself has not been read yet")
        if other.context.model == first.explanation.model:
            raise HTTPException(409, SAME)
        if other.reader.size_px != len(first.image.pixels):
            raise HTTPException(409, OTHER_SIZE)
        if blinded and self._desk.jobs.has_told(session, first.image):
            raise HTTPException(409, SEEN)
        image = first.image._replace(depth=None)  # the first job keeps it, and it must not count twice
        (second,) = self._desk.queue_all(session, [image], made_from=first.id, is_against=True)
        return _Pair(second.id, blinded, is_turned=blinded and secrets.randbelow(2) == 1, is_open=not blinded)

    def _answers(self, first: Job, pair: _Pair, session: str) -> tuple[Explanation | None, Explanation | None]:
        """A and B as they are shown."""
        second = self._desk.find(pair.second, session)
        found = (first.explanation, second.explanation)
        return found[::-1] if pair.is_turned else found

    def _is_blind(self, first: Job, pair: _Pair, session: str) -> bool:
        return pair.blinded and not pair.is_open and not self._desk.jobs.has_told(session, first.image)

    def _look(self, first: Job, pair: _Pair, session: str) -> Comparison:
        stage = self._desk.find(pair.second, session).stage
        a, b = self._answers(first, pair, session)
        if stage != "done" or a is None or b is None:
            return Comparison(stage=stage, blinded=pair.blinded, comments=self._comments)
        if pair.is_open:
            first.is_told = True
            models = ModelNames(a=a.model, b=b.model)
        else:
            models = None
            a, b = a.model_copy(update={"model": _A}), b.model_copy(update={"model": _B})
        return Comparison(
            stage=stage,
            blinded=pair.blinded,
            models=models,
            a=a,
            b=b,
            differences=differences(a, b),
            preference=pair.preference,
            comments=self._comments,
        )
