"""Exact and near-duplicates, and text shared with the evaluation split."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from kdistill.literature.text import words

Hashes = npt.NDArray[np.uint64]

SHINGLE_WORDS: Final = 5
_BANDS: Final = 16
_ROWS: Final = 4
_SEED: Final = 20260


class DuplicateFilter:
    """Remembers texts and says whether a new one repeats one of them.

    Near-duplicates share at least `threshold` of their 5-word shingles (Jaccard). Candidates come from MinHash with
    banding (Broder 1997; 16 bands of 4: a pair at 0.8 is found with probability 0.9998, at 0.9 with 1 - 7e-8), then
    the exact Jaccard similarity of the hashed shingles decides, so nothing below the threshold is ever dropped.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._exact: set[bytes] = set()
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]
        self._shingles: list[Hashes] = []
        generator = np.random.default_rng(_SEED)
        self._factors = generator.integers(0, 2**63, size=(_BANDS * _ROWS, 1), dtype=np.uint64) * 2 + 1
        self._offsets = generator.integers(0, 2**63, size=(_BANDS * _ROWS, 1), dtype=np.uint64)

    def check(self, text: str) -> Literal["duplicate_text", "near_duplicate"] | None:
        """Say what the text repeats; a text that repeats nothing is remembered."""
        tokens = words(text)
        digest = hashlib.blake2b(" ".join(tokens).encode(), digest_size=16).digest()
        if digest in self._exact:
            return "duplicate_text"
        shingles = shingle_hashes(tokens)
        if shingles.size:
            keys = self._band_keys(shingles)
            if self._is_near(shingles, keys):
                return "near_duplicate"
            self._remember(shingles, keys)
        self._exact.add(digest)
        return None

    def _band_keys(self, shingles: Hashes) -> list[bytes]:
        with np.errstate(over="ignore"):
            # The high bits of a multiplicative hash are the well-mixed ones.
            minima = np.array([(f * shingles + o).min() for f, o in zip(self._factors, self._offsets, strict=True)])
        return [band.tobytes() for band in minima.reshape(_BANDS, _ROWS)]

    def _is_near(self, shingles: Hashes, keys: Sequence[bytes]) -> bool:
        candidates = {index for bucket, key in zip(self._buckets, keys, strict=True) for index in bucket.get(key, ())}
        return any(_jaccard(shingles, self._shingles[index]) >= self._threshold for index in sorted(candidates))

    def _remember(self, shingles: Hashes, keys: Sequence[bytes]) -> None:
        for bucket, key in zip(self._buckets, keys, strict=True):
            bucket.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)


def shingle_hashes(tokens: Sequence[str]) -> Hashes:
    """Distinct 64-bit hashes of all runs of 5 words, sorted; empty for a shorter text."""
    if len(tokens) < SHINGLE_WORDS:
        return np.empty(0, dtype=np.uint64)
    codes = np.array([zlib.crc32(token.encode()) for token in tokens], dtype=np.uint64)
    count = len(tokens) - SHINGLE_WORDS + 1
    mixed = np.zeros(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(SHINGLE_WORDS):
            mixed = (mixed ^ codes[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _jaccard(first: Hashes, second: Hashes) -> float:
    shared = np.intersect1d(first, second, assume_unique=True).size
    return shared / (first.size + second.size - shared)


class NgramExclusion:
    """Finds word n-grams that also occur in texts which must stay unseen (reports of the evaluation split)."""

    def __init__(self, texts: Iterable[str], size: int) -> None:
        self._size = size
        self._grams: set[str] = set()
        for text in texts:
            self._grams.update(_ngrams(words(text), size))

    def touched(self, passages: Sequence[str]) -> set[int]:
        """Indices of the consecutive passages that hold a word of a shared n-gram, also of one that spans two."""
        if not self._grams:
            return set()
        tokens: list[str] = []
        owner: list[int] = []
        for index, passage in enumerate(passages):
            found = words(passage)
            tokens += found
            owner += [index] * len(found)
        hits: set[int] = set()
        for start, gram in enumerate(_ngrams(tokens, self._size)):
            if gram in self._grams:
                hits.update(owner[start : start + self._size])
        return hits


def _ngrams(tokens: Sequence[str], size: int) -> Iterable[str]:
    return (" ".join(tokens[start : start + size]) for start in range(len(tokens) - size + 1))
