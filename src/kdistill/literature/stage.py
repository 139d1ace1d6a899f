"""The literature stage: articles in, passages and their index out, every drop counted by its reason."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TextIO

from kdistill.artifact import StageWriter
from kdistill.errors import InputError
from kdistill.literature.collect import Candidate, Collector, Level, read_sources
from kdistill.literature.config import LiteratureConfig
from kdistill.literature.dedupe import DuplicateFilter, NgramExclusion
from kdistill.literature.index import INDEX_DIR, write_index
from kdistill.literature.search import ARTICLES, PASSAGES
from kdistill.literature.select import unfit
from kdistill.records import Article, Passage, write_jsonl

logger = logging.getLogger(__name__)

HELDOUT: Final = "heldout.jsonl"
DROPPED: Final = "dropped.jsonl"


class _Drops:
    """Counts every drop and writes it to dropped.jsonl, but for passages about something else: those only count."""

    def __init__(self, stage: StageWriter, file: TextIO) -> None:
        self._stage, self._file = stage, file
        self.reasons: Counter[str] = Counter()

    def __call__(self, level: Level, item_id: str, reason: str, detail: str = "") -> None:
        self._stage.count(f"{level}s_dropped_{reason}")
        self.reasons[f"{level} {reason}"] += 1
        if level == "passage" and reason == "not_chest_relevant":
            return
        line = {"id": item_id, "reason": reason, "detail": detail, "level": level}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


class _Written:
    """What goes into the three files, in reading order."""

    def __init__(self) -> None:
        self.articles: list[Article] = []
        self.passages: list[Passage] = []
        self.heldout: list[Passage] = []


def build_literature(
    stage: StageWriter,
    config: LiteratureConfig,
    *,
    extra_articles: Iterable[Article] = (),
    excluded_texts: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Read all sources and write articles.jsonl, passages.jsonl, heldout.jsonl, dropped.jsonl and index/.

    The text to train on is passages.jsonl. articles.jsonl holds the cleaned text of the same articles, to verify
    quotes; text shared with `excluded_texts` is cut out there as well. Articles set aside (heldout.jsonl) are in
    neither. The counts add up: articles_in = articles_kept + articles_heldout + articles_dropped_*, and the same for
    passages.

    Args:
        stage: Where to write and count.
        config: The literature section.
        extra_articles: Curated articles (the phantom world's): one about the chest keeps all its passages.
        excluded_texts: Reports of the evaluation split; what shares a run of words with them is dropped.
        on_progress: Called with (files read, files in all).

    Raises:
        InputError: A source path is missing, or no passage is left.
    """
    with (stage.dir / DROPPED).open("w", encoding="utf-8", newline="\n") as file:
        drops = _Drops(stage, file)
        collector = Collector(config, drops)
        for incoming in read_sources(config, extra_articles, on_progress):
            stage.count("articles_in")
            collector.add(incoming)
        written = _select_passages(collector.finish(), config, excluded_texts, stage, drops)
        file.flush()
        os.fsync(file.fileno())
    if not written.passages:
        raise _nothing_left(stage, drops)
    _write(stage.dir, written)
    stage.log("literature", **dict(sorted(stage.counts.items())))
    logger.info("%d passages of %d articles", len(written.passages), len(written.articles))


def _select_passages(
    candidates: Sequence[Candidate],
    config: LiteratureConfig,
    excluded_texts: Sequence[str],
    stage: StageWriter,
    drops: _Drops,
) -> _Written:
    exclusion = NgramExclusion(excluded_texts, config.evaluation_ngram)
    duplicates = DuplicateFilter(config.near_duplicate)
    aside = heldout_groups([candidate.article for candidate in candidates], config.heldout_share)
    written = _Written()
    for candidate in candidates:
        article = candidate.article
        touched = exclusion.touched(candidate.passages)
        passages = _passages_of(candidate, touched, duplicates, config, drops)
        is_aside = _group(article) in aside
        stage.count("passages_in", len(candidate.passages))
        stage.count("passages_heldout" if is_aside else "passages_kept", len(passages))
        stage.count("articles_heldout" if is_aside else "articles_kept")
        (written.heldout if is_aside else written.passages).extend(passages)
        if not is_aside:
            written.articles.append(_without(candidate, touched))
    return written


def _passages_of(
    candidate: Candidate, touched: set[int], duplicates: DuplicateFilter, config: LiteratureConfig, drops: _Drops
) -> list[Passage]:
    article = candidate.article
    kept: list[Passage] = []
    for number, (text, score) in enumerate(zip(candidate.passages, candidate.scores, strict=True)):
        passage_id = f"{article.id}#{number}"
        if reason := unfit(text, config.passages):
            drops("passage", passage_id, reason)
        elif score < config.relevance_threshold:
            drops("passage", passage_id, "not_chest_relevant")
        elif number in touched:
            drops("passage", passage_id, "evaluation_ngram")
        elif repeated := duplicates.check(text):
            drops("passage", passage_id, repeated)
        else:
            kept.append(
                Passage(
                    id=passage_id,
                    article_id=article.id,
                    pmid=article.pmid,
                    title=article.title,
                    year=article.year,
                    text=text,
                )
            )
    return kept


def _without(candidate: Candidate, touched: set[int]) -> Article:
    if not touched:
        return candidate.article
    rest = [text for number, text in enumerate(candidate.passages) if number not in touched]
    return candidate.article.model_copy(update={"text": "\n".join(rest)})


def heldout_groups(articles: Sequence[Article], share: float) -> set[str]:
    """The publications set aside, by a hash of their identifier: the same ones when a corpus grows.

    Parts of one publication (captions of one PMC article) go together. At least one publication is set aside where
    there are two and the share is not zero.
    """
    positions = {group: _position(group) for group in sorted({_group(article) for article in articles})}
    chosen = {group for group, position in positions.items() if position < share}
    if not chosen and share > 0 and len(positions) > 1:
        chosen = {min(positions, key=lambda group: positions[group])}
    return chosen if len(chosen) < len(positions) else set()


def _group(article: Article) -> str:
    return article.pmid or article.pmcid or article.doi or article.id


def _position(group: str) -> float:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def _nothing_left(stage: StageWriter, drops: _Drops) -> InputError:
    reasons = ", ".join(f"{name}: {count}" for name, count in drops.reasons.most_common(8)) or "nothing was read"
    return InputError(
        f"no passage is left of {stage.counts['articles_in']} records ({reasons})",
        where="literature",
        remedy="Check the source paths and `fields`, or lower literature.relevance_threshold.",
    )


def _write(folder: Path, written: _Written) -> None:
    write_jsonl(folder / ARTICLES, written.articles)
    write_jsonl(folder / PASSAGES, written.passages)
    write_jsonl(folder / HELDOUT, written.heldout)
    write_index([passage.text for passage in written.passages], folder / INDEX_DIR)
