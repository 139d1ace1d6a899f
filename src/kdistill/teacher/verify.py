"""Rationales are verified before use; each refusal has one name, and the refused are kept beside the accepted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, Protocol

from kdistill.labelers.rules import RuleLabeler
from kdistill.literature.text import sentences
from kdistill.observations import INDEX, NO_FINDING, LabelState
from kdistill.records import Article, Citation, Rationale, RationaleEntry, Side
from kdistill.sites import SITES
from kdistill.teacher.attributes import side_of
from kdistill.teacher.retrieval import mentions_prior
from kdistill.teacher.statements import Fact, canonical, of_fact
from kdistill.teacher.targets import STATE_CODES
from kdistill.teacher.untrusted import speaks_to_the_model
from kdistill.teacher.writers import joined_text

Reason = Literal[
    "malformed",
    "degenerate_repetition",
    "contradicts_labels",
    "side_differs",
    "prior_mentioned",
    "citation_unknown",
    "citation_retracted",
    "citation_unsupported",
]
_MOST_ENTRY_WORDS: Final = 90
_CITED_NUMBER: Final = re.compile(r"\b(?:PMID|PMCID|PMC|doi)\b|\[\d+\]|\bet al\b", re.IGNORECASE)
#: A run of four words that stands three times in one entry is a loop; our statements and quotes have none.
_RUN_WORDS: Final = 4
_MOST_RUNS: Final = 2


class Articles(Protocol):
    """Looks articles up by id (`kdistill.literature.search.PassageIndex` does)."""

    def article(self, article_id: str) -> Article | None:
        """The article, or None if the literature does not hold it."""
        ...


class Known(NamedTuple):
    """What a rationale is held against: the report's explicit labels and sides, and whether there is a prior study."""

    labels: Mapping[str, LabelState]
    sides: Mapping[str, Side]
    has_prior: bool = False


class Verifier:
    """Checks one rationale at a time against the report and the literature.

    Args:
        articles: Where citations are looked up.
    """

    def __init__(self, articles: Articles) -> None:
        self.articles = articles
        self._labeler = RuleLabeler()
        self._citations: dict[tuple[Citation, str], Reason | None] = {}

    def reason(self, rationale: Rationale, known: Known) -> Reason | None:
        """The name of the first thing that is wrong, or None.

        Args:
            rationale: What a writer made.
            known: The report's explicit labels and sides.
        """
        checks: tuple[Callable[[], Reason | None], ...] = (
            lambda: malformed(rationale),
            lambda: _first(rationale, repetition),
            lambda: self._contradiction(rationale, known),
            lambda: _first(rationale, lambda entry: side_difference(entry, known)),
            lambda: "prior_mentioned" if not known.has_prior and mentions_prior(rationale.text) else None,
            lambda: _first(rationale, self._citation_fault),
        )
        return next((reason for check in checks if (reason := check()) is not None), None)

    def _contradiction(self, rationale: Rationale, known: Known) -> Reason | None:
        states = {entry.observation: STATE_CODES[entry.state] for entry in rationale.entries}
        for name, state in states.items():
            explicit = known.labels.get(name)
            if explicit is not None and explicit != state:
                return "contradicts_labels"
        read = self._labeler.label(rationale.text)
        for name in INDEX:
            # "No Finding" follows from the others: a text that denies everything reads as it, entry or not.
            if name != NO_FINDING and read[name] != states.get(name):
                return "contradicts_labels"
        return None

    def _citation_fault(self, entry: RationaleEntry) -> Reason | None:
        if _CITED_NUMBER.search(entry.text):  # citations are fields: a number in the text was made up
            return "citation_unknown"
        return next((fault for c in entry.citations if (fault := self._cached(c, entry.observation))), None)

    def _cached(self, citation: Citation, observation: str) -> Reason | None:
        key = (citation, observation)
        if key not in self._citations:
            self._citations[key] = self._check(citation, observation)
        return self._citations[key]

    def _check(self, citation: Citation, observation: str) -> Reason | None:
        article = self.articles.article(citation.article_id)
        if article is None or (citation.pmid is not None and citation.pmid != article.pmid):
            return "citation_unknown"
        if article.retracted:
            return "citation_retracted"
        return None if self._supports(article, citation.quote, observation) else "citation_unsupported"

    def _supports(self, article: Article, quote: str, observation: str) -> bool:
        """The quote stands in the article word for word, and it or a sentence beside it names the observation."""
        text, quote = _one_line(article.text), _one_line(quote)
        start = text.find(quote) if quote else -1
        if start < 0:
            return False
        before, after = sentences(text[:start])[-1:], sentences(text[start + len(quote) :])[:1]
        return any(self._names(part, observation) for part in (quote, *before, *after))

    def _names(self, text: str, observation: str) -> bool:
        return any(mention.observation == observation for mention in self._labeler.mentions(text))


def malformed(rationale: Rationale) -> Reason | None:
    """Refuse what lacks the form: entries in order, each beginning with its statement, plain prose throughout."""
    names = [entry.observation for entry in rationale.entries]
    ordered = all(name in INDEX for name in names) and [INDEX[n] for n in names] == sorted({INDEX[n] for n in names})
    if not names or not ordered or rationale.text != joined_text(rationale.entries):
        return "malformed"
    return _first(rationale, _malformed_entry)


def _malformed_entry(entry: RationaleEntry) -> Reason | None:
    fact = Fact(entry.observation, entry.state, entry.side, entry.zone, entry.severity)
    if entry.observation == NO_FINDING and entry.state != "present":
        return "malformed"
    begins = entry.text.startswith(of_fact(fact)) and fact == canonical(fact)
    plain = entry.text.isprintable() and not speaks_to_the_model(entry.text)
    complete = entry.text.endswith(".") and len(entry.text.split()) <= _MOST_ENTRY_WORDS
    return None if begins and plain and complete else "malformed"


def repetition(entry: RationaleEntry) -> Reason | None:
    """Refuse a loop: a sentence that stands twice, or a run of four words that stands three times."""
    parts = [part.lower() for part in sentences(entry.text)]
    words = re.findall(r"\w+", entry.text.lower())
    runs = Counter(tuple(words[i : i + _RUN_WORDS]) for i in range(len(words) - _RUN_WORDS + 1))
    looped = len(parts) != len(set(parts)) or max(runs.values(), default=0) > _MOST_RUNS
    return "degenerate_repetition" if looped else None


def side_difference(entry: RationaleEntry, known: Known) -> Reason | None:
    """Refuse a side that is not the report's, in the entry's field or in its words."""
    if not SITES[entry.observation].lateralised:
        return None
    stated = known.sides.get(entry.observation)
    if stated is not None and entry.side != stated and entry.state != "absent":
        return "side_differs"
    said = {side for part in sentences(entry.text) if (side := side_of(part)) is not None}
    return None if said <= {entry.side} else "side_differs"


def _first(rationale: Rationale, check: Callable[[RationaleEntry], Reason | None]) -> Reason | None:
    return next((reason for entry in rationale.entries if (reason := check(entry)) is not None), None)


def _one_line(text: str) -> str:
    return " ".join(text.split())
