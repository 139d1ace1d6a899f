"""Literature sentences that can stand in a rationale: short, verbatim, and about the one observation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kdistill.labelers.rules import RuleLabeler
from kdistill.literature.search import PassageIndex
from kdistill.observations import OBSERVATION_TERMS
from kdistill.records import Citation, Passage
from kdistill.teacher.untrusted import prose

#: Words by which a sentence explains rather than describes.
_CAUSAL: Final = re.compile(
    r"\b(?:because|since|due to|owing to|caused? by|causes?|results? (?:from|in)|arises?|leads? to|reflects?|so that"
    r"|as a result|explain\w*|accumulat\w+|collects?|produces?|when|mechanism|by means of|thereby|is why|brings?)\b",
    re.IGNORECASE,
)
_PRIOR: Final = re.compile(
    r"\b(?:previous|prior|earlier|compared|comparison|interval|unchanged|again|new since|follow-up|since the last"
    r"|(?:im|pro)proved|worsen\w*|progress\w*|resol\w+|increased since|decreased since)\b",
    re.IGNORECASE,
)
_LEAST_WORDS: Final = 5


@dataclass(frozen=True)
class Quote:
    """A verbatim sentence of an article, and whether it explains a mechanism."""

    text: str
    article_id: str
    pmid: str | None
    explains: bool

    def citation(self) -> Citation:
        """The citation that goes into the rationale."""
        return Citation(article_id=self.article_id, pmid=self.pmid, quote=self.text)


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

    def candidates(self, observation: str, findings: str) -> list[Quote]:
        """Sentences that name the observation as present and state no other, best retrieved first, each text once.

        Args:
            observation: One of FINDINGS.
            findings: What the report says of it; "" retrieves by the observation's name alone.
        """
        query = f"{OBSERVATION_TERMS[observation]} {findings}"
        found: dict[str, Quote] = {}
        for passage, _ in self.index.search(query, self.top):
            for quote in self._of_passage(passage, observation):
                found.setdefault(quote.text.lower(), quote)
        return list(found.values())

    def _of_passage(self, passage: Passage, observation: str) -> list[Quote]:
        return [
            Quote(sentence, passage.article_id, passage.pmid, _CAUSAL.search(sentence) is not None)
            for sentence in prose(passage.text)
            if self._fits(sentence, observation)
        ]

    def _fits(self, sentence: str, observation: str) -> bool:
        num_words = len(sentence.split())
        if not _LEAST_WORDS <= num_words <= self.max_words or not sentence.endswith(".") or ":" in sentence:
            return False
        return self._states(sentence) == ((observation, 1),) and not mentions_prior(sentence)

    def _read_states(self, sentence: str) -> tuple[tuple[str, int], ...]:
        return tuple(
            sorted({(m.observation, m.state) for m in self._labeler.mentions(sentence) if m.state is not None})
        )
