"""The `select` writer: verbatim literature sentences, ranked by the language model's likelihood given the findings.

Grounded by construction: the model chooses, it does not write. The rank is what the findings add, per token: (log
p(sentence | findings, observation) - log p(sentence | observation)) / tokens, so that a sentence is chosen for the sign
that it shares with the report, not for being short, common or about the observation at large.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from kdistill.literature.text import words
from kdistill.observations import NO_FINDING, OBSERVATION_TERMS
from kdistill.records import RationaleEntry
from kdistill.teacher.attributes import attributes
from kdistill.teacher.retrieval import LiteratureSentences, Quote
from kdistill.teacher.scoring import Row, Scorer
from kdistill.teacher.writers import Request, Written, plain_entry, quoted_entry

_PLACE_WORDS: Final = re.compile(
    r"\b(?:on|in)\s+(?:the\s+)?(?:left|right|both)\s*(?:upper|middle|mid|lower)?\s*(?:zones?|sides?|lungs?)?\b"
    r"|\b(?:in the )?(?:upper|middle|mid|lower) zones?\b|\b(?:left|right|bilateral(?:ly)?)\b",
    re.IGNORECASE,
)
#: Sentences scored for an entry; retrieval has ordered them already.
_MOST_SIGNS, _MOST_REASONS = 16, 8
#: A sign sentence speaks of the film, or shares a word of at least this length with the report's sign.
_CONTENT_LETTERS: Final = 5
#: Words that retrieve sentences on the mechanism.
_REASON: Final = "mechanism because arises caused"


def without_place(sentence: str) -> str:
    """A sentence without side and zone: mirrored findings share one ranking.

    >>> without_place("Filled costophrenic recess on the left.")
    'filled costophrenic recess'
    """
    text = _PLACE_WORDS.sub(" ", sentence.lower())
    return re.sub(r"\s+([.,;])", r"\1", re.sub(r"\s+", " ", text)).strip(" .")


class SelectWriter:
    """Composes entries from retrieved sentences.

    Args:
        scorer: The trained teacher.
        literature: Where sentences come from.
        mechanism: Whether a sentence on the mechanism is added.
    """

    def __init__(self, scorer: Scorer, literature: LiteratureSentences, *, mechanism: bool) -> None:
        self.scorer = scorer
        self.literature = literature
        self.mechanism = mechanism
        self._ranked: dict[tuple[str, str], list[Quote]] = {}

    def write(self, requests: Sequence[Request]) -> list[Written]:
        """Write entries; only present observations get literature, since a hedge and a quote would contradict."""
        return [Written(self._entry(request)) for request in requests]

    def _entry(self, request: Request) -> RationaleEntry:
        if request.fact.state != "present" or request.fact.observation == NO_FINDING:
            return plain_entry(request)
        quotes = [quote for quote in self.ranked(request) if _place_fits(quote.text, request)]
        signs = [quote for quote in quotes if quote.role == "sign"]
        shown = _content_words(without_place(request.evidence))
        signs = [quote for quote in signs if quote.describes or shown & _content_words(quote.text)]
        sign = next(iter(signs), None)
        why = next((quote for quote in quotes if quote.role == "mechanism"), None) if self.mechanism else None
        return quoted_entry(request, sign, why)

    def ranked(self, request: Request) -> list[Quote]:
        """The quotable sentences of an observation and its findings, most likely first (cached)."""
        key = (request.fact.observation, without_place(request.evidence))
        if key not in self._ranked:
            self._ranked[key] = self._rank(*key)
        return self._ranked[key]

    def _rank(self, observation: str, evidence: str) -> list[Quote]:
        signs = [q for q in self.literature.candidates(observation, evidence) if q.role == "sign"]
        reasons = [q for q in self.literature.candidates(observation, _REASON) if q.role == "mechanism"]
        quotes = [*signs[:_MOST_SIGNS], *reasons[:_MOST_REASONS]]
        if not quotes:
            return []
        name = OBSERVATION_TERMS[observation]
        informed, plain = f"Findings: {evidence}. Interpretation: {name}.", f"Interpretation: {name}."
        if not evidence:
            informed, plain = plain, "Interpretation:"
        scores = self._log_likelihoods(informed, quotes) - self._log_likelihoods(plain, quotes)
        order = np.argsort(-scores, kind="stable")
        return [quotes[index] for index in order]

    def _log_likelihoods(self, prompt: str, quotes: Sequence[Quote]) -> np.ndarray:
        texts = tuple(self.scorer.encode(" " + quote.text) for quote in quotes)
        ((_, sums),) = self.scorer.score_rows([Row(self.scorer.encode_prompt(prompt), texts)])
        return sums / np.array([len(text) for text in texts])


def _content_words(text: str) -> set[str]:
    return {word for word in words(text) if len(word) >= _CONTENT_LETTERS}


def _place_fits(sentence: str, request: Request) -> bool:
    """A quoted sentence names no side, zone and degree, or the entry's own."""
    fact, said = request.fact, attributes(sentence, request.fact.observation)
    pairs = ((said.side, fact.side), (said.zone, fact.zone), (said.severity, fact.severity))
    return all(quoted in (None, own) for quoted, own in pairs)
