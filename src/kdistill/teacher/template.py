"""The template control: the text form of a rationale without a teacher, a literature or a language model.

Statements come from explicit mentions alone; the two sentences that follow carry no knowledge, but have the length of a
sign and a mechanism sentence, so that an arm trained on them differs from `full` in what the text knows, not in its
form.
"""

from __future__ import annotations

from typing import Final

from kdistill.observations import NO_FINDING, OBSERVATION_TERMS
from kdistill.records import RationaleEntry
from kdistill.teacher.writers import Request, plain_entry

#: Rotated by observation, so that the control's text varies from observation to observation as the literature's does.
_FIRST: Final = (
    "The report of this study names {term} in its own words, and this sentence adds little to them.",
    "This sentence on {term} repeats what the report of this study has stated.",
    "A reader of the report finds {term} named there among the statements of this study.",
)
_SECOND: Final = (
    "In {term}, this sentence holds the place of a reason that the report has left open.",
    "For {term}, the reason is left to the reader, since the report leaves it open.",
    "The sentence after {term} is kept the same for each study and stands for a reason.",
)


def template_entry(request: Request) -> RationaleEntry:
    """The statement, and for a present observation two fixed sentences that say nothing about it."""
    plain = plain_entry(Request(request.fact))
    fact = request.fact
    if fact.state != "present" or fact.observation == NO_FINDING:
        return plain
    term = OBSERVATION_TERMS[fact.observation]
    number = sum(term.encode()) % len(_FIRST)
    text = f"{plain.text} {_FIRST[number].format(term=term)} {_SECOND[number].format(term=term)}"
    return plain.model_copy(update={"text": text})
