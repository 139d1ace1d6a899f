"""Which of two answers a reader prefers, and what is kept of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from kdistill.records import Record
from kdistill.serve.judgements import ReaderWord

Choice = Literal["a_better", "b_better", "equal", "both_wrong", "withdrawn"]


class PreferenceWord(ReaderWord):
    """What a reader says of the two answers, A and B as they were shown. `withdrawn` takes an earlier word back."""

    choice: Choice


class ModelNames(Record):
    """Which model is A and which is B: arm, seed and the first digits of the weights' hash."""

    a: str
    b: str


class Preference(Record):
    """What is kept of a word.

    Attributes:
        image_sha256: The image that both models read.
        models: Who was shown as A and who as B.
        choice: The reader's word.
        preferred: The model that it names as the better one; None: neither.
        blinded: Whether the order was drawn, and neither the names nor an answer under a name had been told to the
            session when the word was stored.
        comment: Free text.
        reader: Name or pseudonym.
        time: When (UTC).
    """

    image_sha256: str
    models: ModelNames
    choice: Choice
    preferred: str | None
    blinded: bool
    comment: str = ""
    reader: str = ""
    time: str

    def says_the_same(self, other: Preference) -> bool:
        """Whether two differ at most in their time and in what was known by then."""
        return self == other.model_copy(update={"time": self.time, "blinded": self.blinded})


def prefer(image_sha256: str, models: ModelNames, word: PreferenceWord, now: datetime, *, blinded: bool) -> Preference:
    """The preference that a word makes.

    Args:
        image_sha256: The image that both models read.
        models: Who was shown as A and who as B.
        word: What the reader says.
        now: When.
        blinded: See `Preference`.
    """
    preferred = {"a_better": models.a, "b_better": models.b}.get(word.choice)
    return Preference(
        image_sha256=image_sha256,
        models=models,
        choice=word.choice,
        preferred=preferred,
        blinded=blinded,
        comment=word.comment,
        reader=word.reader,
        time=now.astimezone(UTC).isoformat(timespec="seconds"),
    )
