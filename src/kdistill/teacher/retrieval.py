"""Literature sentences that can stand in a rationale: short, verbatim, and about the one observation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from kdistill.labelers.rules import RuleLabeler
from kdistill.literature.search import PassageIndex
from kdistill.literature.text import words
from kdistill.observations import OBSERVATION_TERMS
from kdistill.records import Citation, Passage
from kdistill.teacher.untrusted import prose

Role = Literal["sign", "mechanism", "definition", "differential"]

#: The sentence keeps the condition apart from others: true, but no reason to call it.
_DIFFERENTIAL: Final = re.compile(
    r"\b(?:mimic\w*|differential|look[- ]?alikes?|similar|called with care|may be due|may each|not every|on its own"
    r"|kept apart|rather than|instead of|exclud\w+|versus)\b",
    re.IGNORECASE,
)
_DEFINITION: Final = re.compile(r"\b(?:by definition|defin\w+|means that|refers? to)\b", re.IGNORECASE)
#: "A fracture is a break of the cortex": a definition, unless it speaks of the film.
_COPULA: Final = re.compile(r"^(?:an? |the )?(?:[\w-]+ ){1,4}is (?:an? |any |the )?\w+ (?:\w+ )?of\b", re.IGNORECASE)
#: The sentence says what the film shows.
_DESCRIBES: Final = re.compile(
    r"\b(?:signs?|film|radiograph\w*|shows?|shown|showed|appears?|seen|visible|look for|recogni[sz]ed|suggests?"
    r"|indicates?|points? to|speaks for|typical|finds?|found|present when|x-?ray|projection)\b",
    re.IGNORECASE,
)
#: The sentence says why.
_CAUSAL: Final = re.compile(
    r"\b(?:because|since|due to|owing to|caused? by|causes?|results? (?:from|in)|arises?|leads? to|as a result"
    r"|mechanism|comes about|thereby|develops? (?:when|from)|secondary to)\b",
    re.IGNORECASE,
)
_PRIOR: Final = re.compile(
    r"\b(?:previous|prior|earlier|compared|comparison|interval|unchanged|again|new since|follow-up|since the last"
    r"|(?:im|pro)proved|worsen\w*|progress\w*|resol\w+|increased since|decreased since)\b",
    re.IGNORECASE,
)
#: The sentence tells of one patient or points at a picture: true there, misleading in another patient's rationale.
_ONE_PATIENT: Final = re.compile(
    r"\b(?:he|she|his|her|hers|him|(?:the|a|our|this|one) patient|patient's|(?:year|month|day)s?[- ]old|prescribed"
    r"|admitted|admission|discharged|underwent|all (?:two|three|four|five|six)|arrow(?:s|heads?)?|fig(?:ure)?s?)\b",
    re.IGNORECASE,
)
_LEAST_WORDS: Final = 5


@dataclass(frozen=True)
class Quote:
    """A verbatim sentence of an article and what it does. `describes`: it speaks of what the film shows."""

    text: str
    article_id: str
    pmid: str | None
    role: Role
    describes: bool

    def citation(self) -> Citation:
        """The citation that goes into the rationale."""
        return Citation(article_id=self.article_id, pmid=self.pmid, quote=self.text)


def role_of(sentence: str) -> Role:
    """Whether a sentence on a condition differentiates, defines, explains or (else) gives a sign of it."""
    if _DIFFERENTIAL.search(sentence):
        return "differential"
    if _DEFINITION.search(sentence):
        return "definition"
    if _DESCRIBES.search(sentence):
        return "sign"
    if _COPULA.search(sentence):
        return "definition"
    return "mechanism" if _CAUSAL.search(sentence) else "sign"


def tells_of_one_patient(sentence: str) -> bool:
    """Whether a sentence is about somebody in particular instead of the condition."""
    return bool(_ONE_PATIENT.search(sentence))


def mentions_prior(text: str) -> bool:
    """Whether a text compares with an earlier study."""
    return _PRIOR.search(text) is not None


class LiteratureSentences:
    """Finds quotable sentences for an observation and its findings.

    Args:
        index: The published literature.
        top: Passages retrieved for a query.
        max_words: Longest sentence.
    """

    def __init__(self, index: PassageIndex, *, top: int, max_words: int) -> None:
        self.index = index
        self.top = top
        self.max_words = max_words
        self._labeler = RuleLabeler()
        self._states = lru_cache(maxsize=100_000)(self._read_states)
        self._quotes = lru_cache(maxsize=100_000)(self._of_passage)

    def candidates(self, observation: str, findings: str) -> list[Quote]:
        """Sentences that name the observation as present and state no other, each text once.

        Those that share most words with the findings come first, then in the order of retrieval.

        Args:
            observation: One of FINDINGS.
            findings: What the report says of it; "" retrieves by the observation's name alone.
        """
        query = f"{OBSERVATION_TERMS[observation]} {findings}"
        found: dict[str, Quote] = {}
        for passage, _ in self.index.search(query, self.top):
            for quote in self._quotes(passage, observation):
                found.setdefault(quote.text.lower(), quote)
        wanted = set(words(findings))
        return sorted(found.values(), key=lambda quote: -len(wanted.intersection(words(quote.text))))

    def _of_passage(self, passage: Passage, observation: str) -> list[Quote]:
        return [
            Quote(
                sentence,
                passage.article_id,
                passage.pmid,
                role_of(sentence),
                _DESCRIBES.search(sentence) is not None,
            )
            for sentence in prose(passage.text)
            if self._fits(sentence, observation)
        ]

    def _fits(self, sentence: str, observation: str) -> bool:
        num_words = len(sentence.split())
        if not _LEAST_WORDS <= num_words <= self.max_words or not sentence.endswith(".") or ":" in sentence:
            return False
        if mentions_prior(sentence) or tells_of_one_patient(sentence):
            return False
        return self._states(sentence) == ((observation, 1),)

    def _read_states(self, sentence: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            sorted({(m.observation, m.state) for m in self._labeler.mentions(sentence) if m.state is not None})
        )
