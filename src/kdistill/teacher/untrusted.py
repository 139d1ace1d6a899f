"""Reports and literature are data: cleaned, delimited, and never obeyed.

A sentence that speaks to a reader of prompts, hides characters or carries markup is not read, retrieved or cited. This
is a filter on top of the real defence: no text of a report or an article ever stands where an instruction stands, and
what a model writes is accepted only if it fits the schema and agrees with the labels.
"""

from __future__ import annotations

import re
from typing import Final

from kdistill.literature.text import clean_line, sentences

_ADDRESSED: Final = re.compile(
    r"""\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|previous|prior|above|rule|prompt|everything)
    |\b(?:system|assistant|user|developer|human|ai)\s*(?:prompt|message|instruction)?\s*[:>\]]
    |\b(?:you\s+are|you\s+must|you\s+should|you\s+will|act\s+as|pretend|as\s+an?\s+ai|language\s+model|chatgpt|prompt)\b
    |\b(?:output|print|respond|reply|answer|repeat|say|write|state|report|label|mark|classify|return|add|emit|generate)
      \s+(?:only|with|that|every|all|this|the|exactly|nothing|it|as|normal|positive|negative|no|json|["'])
    |\bnew\s+(?:instruction|task|rule)s?\b|\binstructions?\s*:|\bjailbreak|\bdeveloper\s+mode
    |</?[a-z_|]+/?>|<\||\|>|\[/?(?:inst|sys)\]|\#\#\#|```|\{\{|\}\}|\{\s*["']|https?://|<script|javascript:
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ROLE: Final = re.compile(r"\b(?:SYSTEM|ASSISTANT|USER|DEVELOPER|PROMPT)\s*[:>]")
_STOP: Final = re.compile(r"(?<=[.!?])\s+")
_MAX_REPORT_CHARS: Final = 20_000


def speaks_to_the_model(sentence: str) -> bool:
    """Whether a sentence reads like an instruction, a role marker or markup rather than prose."""
    return _ADDRESSED.search(sentence) is not None


def clean_report(report: str) -> str:
    """A report as one line of plain text: no invisible characters; at most 20,000 characters of it."""
    return clean_line(report[:_MAX_REPORT_CHARS])


def prose(text: str) -> list[str]:
    """The sentences of a report or passage that are prose, cleaned, in order."""
    return [sentence for sentence in _sentences(text) if not speaks_to_the_model(sentence)]


def num_sentences(text: str) -> int:
    """How many sentences `prose` has chosen from."""
    return len(_sentences(text))


def _sentences(text: str) -> list[str]:
    """Sentences of a text; a suspicious one is cut at every full stop, so that what stands beside it is kept."""
    found: list[str] = []
    for line in text[:_MAX_REPORT_CHARS].split("\n"):
        # In lower case, since cleaning takes "SYSTEM:" for a section label and drops it.
        marked = _ROLE.sub(lambda match: match.group().lower(), line)
        for sentence in sentences(clean_line(marked)):
            found += _STOP.split(sentence) if speaks_to_the_model(sentence) else [sentence]
    return [sentence for sentence in found if sentence]
