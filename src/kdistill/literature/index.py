"""The BM25 index over passages: own tokeniser, plain arrays and JSON on disk, no pickle."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kdistill.errors import InputError
from kdistill.literature.text import stem, words

if TYPE_CHECKING:
    import bm25s

INDEX_DIR: Final = "index"
_STOP_WORDS_TEXT: Final = (
    "a about after all also although an and any are as at be because been before being between both but by can could "
    "did do does each either for from had has have he her here his how i if in into is it its itself may might more "
    "most must of on only or other our over per s shall she should so some such t than that the their them then there "
    "therefore these they this those through to under until up upon us very was we were what when where whether which "
    "while who whom whose why will with within would you your"
)
_STOP_WORDS: Final = frozenset(_STOP_WORDS_TEXT.split())


def index_tokens(text: str) -> list[str]:
    """Tokens as the index knows them: lower case, no stop words, plurals folded, "x-ray" and "x ray" one word.

    "no", "not" and "without" are kept: they separate a sign from its absence.
    """
    tokens: list[str] = []
    for word in words(text):
        if tokens and tokens[-1] == "x" and word in ("ray", "rays"):
            tokens[-1] = "xray"
        elif word not in _STOP_WORDS:
            tokens.append(stem(word))
    return tokens


@contextmanager
def _without_jax() -> Iterator[None]:
    """Let bm25s be imported without JAX, which it uses where it finds it, and which we do not ask it for.

    Its import runs a sort on JAX's default device, and JAX then takes three quarters of a GPU's memory: beside students
    in training that was 60 GB of 79.
    """
    hidden = "jax" not in sys.modules and "bm25s" not in sys.modules
    if hidden:
        sys.modules["jax"] = None  # type: ignore[assignment]  # the import system's own sign for "not to be found"
    try:
        yield
    finally:
        if hidden:
            del sys.modules["jax"]


def write_index(passages: Sequence[str], folder: Path) -> None:
    """Build and save the index; row i of it is passage i.

    Source: Robertson and Zaragoza 2009 (BM25), in the variant of Lucene; Lu 2024, arXiv:2407.03618 (bm25s).

    Raises:
        InputError: There is no passage, or none of them holds a word.
    """
    with _without_jax():
        import bm25s

    tokenised = [index_tokens(passage) for passage in passages]
    # Sorted, since bm25s numbers its own vocabulary in the order of a set, which differs from run to run.
    vocabulary = {token: number for number, token in enumerate(sorted({t for tokens in tokenised for t in tokens}))}
    if not vocabulary:
        raise InputError("no passage to index", where="literature", remedy="Add sources or lower relevance_threshold.")
    retriever = bm25s.BM25(method="lucene", backend="numpy", csc_backend="numpy")
    ids = [[vocabulary[token] for token in tokens] for tokens in tokenised]
    retriever.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    retriever.save(folder, allow_pickle=False, show_progress=False)


def read_index(folder: Path) -> bm25s.BM25:
    """Load what write_index saved; object arrays are refused by numpy.

    Raises:
        InputError: A file is missing or damaged.
    """
    with _without_jax():
        import bm25s

    try:
        return bm25s.BM25.load(folder, load_corpus=False, allow_pickle=False, show_progress=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Build the literature again: kdistill literature build."
        raise InputError("the index is missing or damaged", where=str(folder), remedy=remedy) from error


def query_scores(retriever: bm25s.BM25, query: str) -> Any:
    """BM25 scores of all passages, float32 [N]; zeros where the query has no word of the vocabulary."""
    import numpy as np

    numbers = retriever.get_tokens_ids(sorted(set(index_tokens(query))))
    if not numbers:
        return np.zeros(retriever.scores["num_docs"], dtype=np.float32)
    return retriever.get_scores_from_ids(numbers)
