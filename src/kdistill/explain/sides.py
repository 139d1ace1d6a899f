"""Which side of a film is the patient's right? Where anything speaks against the left one, no side is stated as fact.

Every way out of an explanation asks the same question here: the page, its HTML and PDF, FHIR, SR and overlay. What a
model wrote is kept as it wrote it, with `SIDES_IN_DOUBT` beside it; sides that we would state ourselves (of a finding,
of a sentence, of a map's peak, of the film) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kdistill.explain.explanation import RationaleSentence, ReportSentence
from kdistill.studies.film import Note
from kdistill.studies.quality.assess import Quality, QualityKind

#: Stands beside the words of a model where a film's sides are in doubt.
SIDES_IN_DOUBT: Final = (
    "It is not certain which side of this film is the patient's right: "
    "“left” and “right” in the model's words may be the wrong way round."
)
#: Notes of a file and looks of a film after which nobody knows which side of the picture is the patient's right. What
#: does not look like a frontal film was not found to be upright and the right way round either.
_TURNING: Final[frozenset[Note | QualityKind]] = frozenset(
    {"orientation", "lateral_view", "mirrored", "upside_down", "turned_left", "turned_right", "not_frontal_chest"}
)


def is_side_doubtful(notes: Iterable[Note], quality: Quality | None) -> bool:
    """Whether the file's tags or the film's look speak against the patient's right on the left.

    Args:
        notes: What the file's own tags say.
        quality: What `assess` said of the film; None: nobody has looked.
    """
    seen = () if quality is None else tuple(check.kind for check in quality.flags)
    return not _TURNING.isdisjoint((*notes, *seen))


def without_sides(sentences: Iterable[RationaleSentence]) -> tuple[RationaleSentence, ...]:
    """The same sentences, none of them read as one about a side."""
    return tuple(sentence.model_copy(update={"side": None}) for sentence in sentences)


def mentions_without_sides(sentences: Iterable[ReportSentence]) -> tuple[ReportSentence, ...]:
    """The same sentences of a report, whose mentions name no side."""
    return tuple(
        sentence.model_copy(
            update={"mentions": tuple(mention.model_copy(update={"side": None}) for mention in sentence.mentions)}
        )
        for sentence in sentences
    )
