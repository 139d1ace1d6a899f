"""Checks on generated text that need no image: repetition, mention of a prior study, stated sides."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from kdistill.explain.sentences import split_sentences
from kdistill.labelers.rules import RuleLabeler
from kdistill.records import Side
from kdistill.sites import SITES

#: A loop and no report: the same sentence three times, the same three words three times running, a word four times, a
#: few characters eight times.
MAX_SENTENCE_REPEATS: Final = 2
_LOOP: Final = re.compile(r"\b(\w+\W+\w+\W+\w+)(?:\W+\1\b){2,}|\b(\w+)(?:\W+\2\b){3,}|(\S{1,3})\3{7,}", re.IGNORECASE)

#: Words that compare with an earlier study. "Stable" and "improved" alone may describe a patient, so they need company.
_PRIOR: Final = re.compile(
    r"\b(compared (?:with|to)|comparison (?:with|to|is made)|in comparison|prior (?:study|exam\w*|film|radiograph)"
    r"|previous(?:ly)?\b|since the (?:last|prior)"
    r"|interval (?:change|increase|decrease|improvement|development|resolution)"
    r"|unchanged|no (?:significant |relevant )?change|again (?:seen|noted|demonstrated)"
    r"|has (?:improved|worsened|resolved)"
    r"|(?:new|newly) (?:since|compared))",
    re.IGNORECASE,
)


def is_degenerate(text: str) -> bool:
    """Whether a text repeats itself as a stuck generator does.

    >>> is_degenerate("No edema. No edema. No edema.")
    True
    """
    counts = Counter(sentence.lower().strip(" .") for sentence in split_sentences(text))
    return any(n > MAX_SENTENCE_REPEATS for n in counts.values()) or _LOOP.search(text) is not None


def mentions_prior(text: str) -> str | None:
    """The words that compare with an earlier study, or None.

    >>> mentions_prior("The heart is unchanged.")
    'unchanged'
    """
    match = _PRIOR.search(text)
    return match.group(0) if match else None


def stated_sides(text: str, labeler: RuleLabeler) -> dict[str, Side]:
    """Observation -> the side that the first mention stating it names (only where one is named, and it has sides)."""
    sides: dict[str, Side] = {}
    for mention in labeler.mentions(text):
        if mention.state in (1, -1) and mention.side is not None and SITES[mention.observation].lateralised:
            sides.setdefault(mention.observation, mention.side)
    return sides
