"""Look passages and articles up in a published literature folder."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from kdistill.errors import InputError
from kdistill.literature.index import INDEX_DIR, query_scores, read_index
from kdistill.records import Article, Passage, read_jsonl

if TYPE_CHECKING:
    import bm25s

ARTICLES: Final = "articles.jsonl"
PASSAGES: Final = "passages.jsonl"


class PassageIndex:
    """BM25 search over the passages of a literature folder. Equal queries give equal answers, ties in file order."""

    def __init__(self, folder: Path, passages: list[Passage], retriever: bm25s.BM25) -> None:
        self._folder = folder
        self._passages = passages
        self._retriever = retriever

    @classmethod
    def load(cls, folder: Path) -> PassageIndex:
        """Open a literature folder.

        Raises:
            InputError: A file is missing or damaged, or passages and index do not belong together.
        """
        passages = list(read_jsonl(folder / PASSAGES, Passage))
        retriever = read_index(folder / INDEX_DIR)
        if retriever.scores["num_docs"] != len(passages):
            raise InputError(
                f"{len(passages)} passages, but an index of {retriever.scores['num_docs']}",
                where=str(folder),
                remedy="Build the literature again: kdistill literature build.",
            )
        return cls(folder, passages, retriever)

    def __len__(self) -> int:
        return len(self._passages)

    def search(self, query: str, top: int = 5) -> list[tuple[Passage, float]]:
        """The best passages with their BM25 score, best first; only those that share a word with the query.

        Args:
            query: Words in any order.
            top: Most passages to return (at least 1).

        Raises:
            ValueError: `top` is below 1.
        """
        if top < 1:
            raise ValueError("top must be at least 1")
        scores = query_scores(self._retriever, query)
        order = np.argsort(-scores, kind="stable")[:top]
        return [(self._passages[row], float(scores[row])) for row in order if scores[row] > 0]

    @cached_property
    def _passage_rows(self) -> dict[str, int]:
        return {passage.id: row for row, passage in enumerate(self._passages)}

    def passage(self, passage_id: str) -> Passage:
        """One passage by id.

        Raises:
            KeyError: There is none.
        """
        return self._passages[self._passage_rows[passage_id]]

    @cached_property
    def _article_offsets(self) -> dict[str, int]:
        # Full texts stay on disk: only where each starts is kept.
        offsets: dict[str, int] = {}
        with (self._folder / ARTICLES).open("rb") as file:
            position = 0
            for line in file:
                offsets[json.loads(line)["id"]] = position
                position += len(line)
        return offsets

    def article(self, article_id: str) -> Article | None:
        """One article by id, or None: a citation of an article that is not in the index is fabricated."""
        offset = self._article_offsets.get(article_id)
        if offset is None:
            return None
        with (self._folder / ARTICLES).open("rb") as file:
            file.seek(offset)
            return Article.model_validate_json(file.readline())
