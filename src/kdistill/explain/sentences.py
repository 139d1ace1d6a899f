"""Rationale text -> sentences, each with the observation that it belongs to.

A rationale is a run of entries, each opened by a statement in canonical words (`teacher.statements`: "Moderate left
pleural effusion in the lower zone", "No pneumothorax") and followed by sentences that give its sign and mechanism. So a
sentence that is a statement opens an entry, and every other sentence belongs to the entry before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from kdistill.teacher.statements import Fact, all_facts, of_fact

#: A full stop ends a sentence unless it stands inside a number ("0.5 cm") or after one of a few abbreviations.
_END: Final = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bFig)(?<!\bDr)[.!?]+(?=\s|$)")


class AssignedSentence(NamedTuple):
    """A sentence, the fact that its entry states (None: no statement came before), and whether it is the statement."""

    text: str
    fact: Fact | None
    is_statement: bool


def split_sentences(text: str) -> list[str]:
    """Split text into sentences, each stripped and ended as it was written.

    >>> split_sentences("No pneumothorax. Fluid of 0.5 cm blunts the angle.")
    ['No pneumothorax.', 'Fluid of 0.5 cm blunts the angle.']
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence.strip(" .!?")]


@lru_cache(maxsize=1)
def _facts() -> Mapping[str, Fact]:
    return MappingProxyType({of_fact(fact).lower(): fact for fact in all_facts()})


def parse_statement(sentence: str) -> Fact | None:
    """Read a canonical statement; None for any other sentence, even one that names an observation.

    >>> parse_statement("Moderate left pleural effusion in the lower zone.").side
    'left'
    >>> parse_statement("Pleural effusion blunts the costophrenic angle.") is None
    True
    """
    return _facts().get(" ".join(sentence.lower().split()).rstrip(" .!?"))


def assign_sentences(rationale: str) -> list[AssignedSentence]:
    """Split a generated rationale and give every sentence to the entry that it belongs to."""
    assigned: list[AssignedSentence] = []
    current: Fact | None = None
    for sentence in split_sentences(rationale):
        fact = parse_statement(sentence)
        current = fact or current
        assigned.append(AssignedSentence(sentence, current, fact is not None))
    return assigned


def stated_facts(rationale: str) -> list[Fact]:
    """The facts that a rationale states, in their order."""
    return [a.fact for a in assign_sentences(rationale) if a.is_statement and a.fact is not None]
