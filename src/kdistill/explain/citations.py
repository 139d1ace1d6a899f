"""Which article does a generated sentence come from? Answered by looking it up, never by asking the model.

The teacher's verified rationales hold every literature sentence that the student has learned from, with its article
and verbatim quote. A generated sentence gets that citation only if it repeats the quote (or lies within it) word for
word, or nearly so; otherwise it gets none and is flagged. So a citation can be missing, but cannot be invented.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final

from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import ExplanationCitation
from kdistill.records import Article, Citation, Rationale, read_jsonl

Words = tuple[str, ...]

_WORD: Final = re.compile(r"[^\W_]+(?:\.\d+)?")
#: A near-verbatim match may not differ in one of these: they turn a sentence round.
_POLAR: Final = frozenset(
    {
        *("no", "not", "without", "never", "none", "absent", "absence", "lacks", "spares"),
        *("left", "right", "bilateral", "unilateral", "upper", "middle", "lower", "above", "below"),
        *("increase", "increased", "decrease", "decreased", "higher", "larger", "smaller", "more", "less"),
    }
)


def words_of(text: str) -> Words:
    """Lower-case words of a sentence, without punctuation (numbers keep their decimals)."""
    return tuple(_WORD.findall(text.lower()))


class CitationLookup:
    """Finds the citation of a generated sentence among the quotes of verified rationales.

    Args:
        quotes: (observation, citation) of every entry of every accepted rationale.
        articles: article_id -> Article, for title and year (an unknown id yields no citation).
        config: Thresholds of a match.
    """

    def __init__(
        self, quotes: Iterable[tuple[str, Citation]], articles: Mapping[str, Article], config: ExplainConfig
    ) -> None:
        self._config = config
        self._exact: dict[Words, ExplanationCitation] = {}
        self._by_observation: dict[str, dict[Words, ExplanationCitation]] = defaultdict(dict)
        for observation, citation in quotes:
            article = articles.get(citation.article_id)
            words = words_of(citation.quote)
            if article is None or article.retracted or len(words) < config.min_citation_words:
                continue
            full = ExplanationCitation(
                article_id=citation.article_id,
                pmid=citation.pmid or article.pmid,
                quote=citation.quote,
                title=article.title,
                year=article.year,
            )
            self._exact.setdefault(words, full)
            self._by_observation[observation].setdefault(words, full)

    def __len__(self) -> int:
        """How many distinct quotes are known."""
        return len(self._exact)

    def find(self, sentence: str, observation: str | None) -> ExplanationCitation | None:
        """The citation of a sentence, or None.

        An exact repetition is looked up among all quotes; a near-verbatim one only among those of its observation.
        """
        words = words_of(sentence)
        if len(words) < self._config.min_citation_words:
            return None
        if words in self._exact:
            return self._exact[words]
        candidates = self._by_observation.get(observation or "", {})
        return self._within(words, candidates) or self._nearest(words, candidates)

    @staticmethod
    def _within(words: Words, candidates: Mapping[Words, ExplanationCitation]) -> ExplanationCitation | None:
        text = f" {' '.join(words)} "
        return next((found for quote, found in candidates.items() if text in f" {' '.join(quote)} "), None)

    def _nearest(self, words: Words, candidates: Mapping[Words, ExplanationCitation]) -> ExplanationCitation | None:
        best, best_ratio = None, self._config.min_citation_similarity
        polar, distinct = _polar(words), set(words)
        for quote, found in candidates.items():
            # Two cheap bounds first: a long run labels some hundred thousand sentences against as many quotes.
            if 2 * min(len(quote), len(words)) < best_ratio * (len(quote) + len(words)):
                continue
            if len(distinct.intersection(quote)) < 0.75 * len(distinct) or _polar(quote) != polar:
                continue
            matcher = SequenceMatcher(None, words, quote, autojunk=False)
            if matcher.quick_ratio() >= best_ratio and matcher.ratio() >= best_ratio:
                best, best_ratio = found, matcher.ratio()
        return best


def _polar(words: Words) -> list[str]:
    return sorted(word for word in words if word in _POLAR or word[0].isdigit())


def load_articles(literature_dir: Path) -> dict[str, Article]:
    """article_id -> Article of the published literature stage (retracted articles were dropped there)."""
    return {article.id: article for article in read_jsonl(literature_dir / "articles.jsonl", Article)}


def load_citations(rationales_dir: Path, literature_dir: Path, config: ExplainConfig) -> CitationLookup:
    """Read the accepted rationales and the articles they cite.

    Raises:
        InputError: A file is missing or damaged.
    """
    cited: dict[tuple[str, str], tuple[str, Citation]] = {}
    for rationale in read_jsonl(rationales_dir / "rationales.jsonl", Rationale):
        for entry in rationale.entries:
            for citation in entry.citations:
                cited.setdefault((entry.observation, citation.quote), (entry.observation, citation))
    return CitationLookup(cited.values(), load_articles(literature_dir), config)
