"""Items of all readers to the articles that are taken: licence, retraction, relevance, duplicates, each drop told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from kdistill.literature.config import LiteratureConfig
from kdistill.literature.dedupe import DuplicateFilter
from kdistill.literature.files import list_files, read_file
from kdistill.literature.items import (
    ArticleReason,
    Dropped,
    Item,
    PassageReason,
    ReadReason,
    canonical_license,
    keys_of,
)
from kdistill.literature.relevance import has_chest_heading, passage_scores
from kdistill.literature.select import cut_passages
from kdistill.records import Article

Level = Literal["article", "passage"]
#: Points of a passage from a curated article about the chest: only the article is asked, not each passage.
CURATED: Final = float("inf")


class DropLog(Protocol):
    """Where drops are told: one call per dropped article or passage."""

    def __call__(
        self, level: Level, item_id: str, reason: ReadReason | ArticleReason | PassageReason, detail: str = ""
    ) -> None: ...


@dataclass(frozen=True)
class Incoming:
    """One item with what its source says of it."""

    item: Item
    curated: bool = False
    parts: bool = False
    license_allow: frozenset[str | None] | None = None


@dataclass(frozen=True)
class Candidate:
    """An article that is taken, its passages in order, and the relevance of each."""

    article: Article
    passages: tuple[str, ...]
    scores: tuple[float, ...]
    parts: bool = False


def read_sources(
    config: LiteratureConfig,
    extra_articles: Iterable[Article],
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Incoming]:
    """Yield every item of every source in order, the extra articles (curated) last.

    Args:
        config: The literature section; phantom sources come as extra articles.
        extra_articles: Articles from elsewhere in the pipeline.
        on_progress: Called with (files read, files in all).

    Raises:
        InputError: A path does not exist.
    """
    planned = [(source, path) for source in config.sources if source.kind == "files" for path in list_files(source)]
    for number, (source, path) in enumerate(planned, start=1):
        allow = source.license_allow
        allowed = None if allow is None else frozenset(canonical_license(name) for name in allow)
        for item in read_file(path, source, config):
            yield Incoming(item, parts=source.parts, license_allow=allowed)
        if on_progress:
            on_progress(number, len(planned))
    for article in extra_articles:
        yield Incoming(article, curated=True)


class Collector:
    """Takes items one by one; memory grows with the articles that are taken, not with those that are read."""

    def __init__(self, config: LiteratureConfig, drop: DropLog) -> None:
        self._config = config
        self._drop = drop
        self._texts = DuplicateFilter(config.near_duplicate)
        self._taken: list[Candidate | None] = []
        self._slots: dict[str, int] = {}
        self._retracted: set[str] = set()
        self._count = 0

    def add(self, incoming: Incoming) -> None:
        """Take one item, or tell why not."""
        match incoming.item:
            case Dropped() as dropped:
                self._retracted.update(dropped.retracts)
                self._drop("article", dropped.id, dropped.reason, dropped.detail)
            case Article() as article:
                self._add_article(article, incoming)

    def _add_article(self, article: Article, incoming: Incoming) -> None:
        allow = incoming.license_allow
        if article.retracted:
            self._retracted.update(keys_of(article))
            return self._drop("article", article.id, "retracted", article.source or "")
        if allow is not None and article.license not in allow:
            return self._drop("article", article.id, "license", article.license or "none stated")
        candidate = self._score(article, incoming)
        if not candidate.scores or max(candidate.scores) < self._config.relevance_threshold:
            return self._drop("article", article.id, "not_chest_relevant")
        return self._take(candidate)

    def _score(self, article: Article, incoming: Incoming) -> Candidate:
        passages = tuple(cut_passages(article.text, self._config.passages))
        scores = tuple(passage_scores(article, passages))
        relevant = has_chest_heading(article) or max(scores, default=0.0) >= self._config.relevance_threshold
        if self._config.relevance_threshold == 0 or (incoming.curated and relevant):
            scores = (CURATED,) * len(passages)
        return Candidate(article, passages, scores, incoming.parts)

    def _take(self, candidate: Candidate) -> None:
        article = candidate.article
        same = sorted({self._slots[key] for key in _identity(candidate) if key in self._slots})
        if same:
            return self._merge(candidate, same)
        if reason := self._texts.check(article.text):
            return self._drop("article", article.id, reason, article.source or "")
        if self._config.max_articles is not None and self._count >= self._config.max_articles:
            return self._drop("article", article.id, "max_articles")
        self._count += 1
        self._taken.append(candidate)
        return self._register(candidate, len(self._taken) - 1)

    def _merge(self, candidate: Candidate, same: list[int]) -> None:
        """One publication from several files: the longest text stays, the others give it what it lacks."""
        group = [found for slot in same if (found := self._taken[slot]) is not None] + [candidate]
        best = max(group, key=lambda entry: len(entry.article.text))
        for other in group:
            if other is not best:
                self._drop("article", other.article.id, "duplicate_id", f"same publication as {best.article.id}")
        merged = best.article
        for other in group:
            merged = _filled(merged, other.article)
        for slot in same:
            self._taken[slot] = None
        self._count -= len(group) - 2
        self._taken[same[0]] = Candidate(merged, best.passages, best.scores, best.parts)
        for entry in group:
            self._register(entry, same[0])

    def _register(self, candidate: Candidate, slot: int) -> None:
        for key in _identity(candidate):
            self._slots[key] = slot

    def finish(self) -> list[Candidate]:
        """The articles that stay, in reading order, without those that any file called retracted.

        Must come after the last item: a notice may stand in a later file than the article.
        """
        kept: list[Candidate] = []
        for candidate in self._taken:
            if candidate is None:
                continue
            if self._retracted.intersection(keys_of(candidate.article)):
                self._drop("article", candidate.article.id, "retracted", "said by another record")
            else:
                kept.append(candidate)
        return kept


def _identity(candidate: Candidate) -> tuple[str, ...]:
    own = f"id:{candidate.article.id}"
    return (own,) if candidate.parts else (own, *keys_of(candidate.article))


def _filled(article: Article, other: Article) -> Article:
    # Not the licence: it belongs to the text.
    names = ("title", "pmid", "pmcid", "doi", "year")
    missing = {name: getattr(other, name) for name in names if not getattr(article, name)}
    mesh = tuple(dict.fromkeys((*article.mesh, *other.mesh)))
    return article.model_copy(update={**missing, "mesh": mesh})
