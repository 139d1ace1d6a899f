"""The same film twice, also after another export: found among hundreds of thousands without comparing every pair.

A film is shrunk to 64 x 64, freed of exposure and local contrast, and correlated with others. Two exports of one film
correlate at 0.9 to 1, films of different patients at less than 0.75 (measured: docs/data_check.md). Candidates come
from locality sensitive hashing: the signs of 512 low DCT coefficients, cut into 32 bands; two films are compared where
a whole band is equal (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3). Mirrored and inverted copies are
looked for in the same way.

Axes: N films, S side in pixels, C compared pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import numpy as np
from PIL import Image

SIDE_PX: Final = 64
#: Correlation from which two images are one film: between what different films of one patient reach (0.82) and what two
#: published copies of NIH films have at least (0.95).
SAME_FILM: Final = 0.88
#: Up to here every pair is compared: some seconds.
_ALL_PAIRS: Final = 2048
_NUM_BITS, _BAND_BITS = 512, 16
#: Share of differing bits above which a candidate is not correlated. At a correlation of 0.88 arccos(0.88) / pi = 16%
#: of the bits differ, between unrelated films about half.
_MAX_DIFFERING: Final = 0.3
#: A bucket that holds more films than this is compared with its first ones only: copies of one film are still linked.
_MAX_BUCKET: Final = 256
_CHUNK: Final = 512
_MAX_PAIRS_AT_ONCE: Final = 2_000_000

Relation = Literal["same", "inverted", "mirrored"]


class NearPair(NamedTuple):
    """Two images of one film: rows, `first` < `second`; how the second relates to the first; their correlation."""

    first: int
    second: int
    relation: Relation
    correlation: float


def fingerprint(pixels: np.ndarray) -> np.ndarray:
    """A small picture to compare films by, stretched to a square so that letterboxing by the reader plays no part.

    Margins are not cut off: where a margin ends depends on window and compression, and a cut at another row costs more
    than the margin does (docs/data_check.md).

    Args:
        pixels: Float [H, W] in [0, 1].

    Returns:
        uint8 [64, 64].
    """
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    small = np.asarray(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))
    return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)


def near_pairs(
    prints: np.ndarray, *, min_correlation: float = SAME_FILM, max_all_pairs: int = _ALL_PAIRS
) -> list[NearPair]:
    """Find images of the same film.

    Args:
        prints: uint8 [N, 64, 64] from `fingerprint`.
        min_correlation: From where two images are one film, in (0, 1].
        max_all_pairs: Up to so many images every pair is compared; beyond, only pairs whose hashes meet.

    Returns:
        Pairs in order of their rows, each once with its strongest relation.
    """
    pairs = _every_pair(len(prints)) if len(prints) <= max_all_pairs else _candidates(prints)
    best: dict[tuple[int, int], NearPair] = {}
    for relation, first, second in pairs:
        for pair in _verified(prints, relation, first, second, min_correlation):
            key = pair.first, pair.second
            if key not in best or best[key].correlation < pair.correlation:
                best[key] = pair
    return [best[key] for key in sorted(best)]


def local_contrast(prints: np.ndarray) -> np.ndarray:
    """What is left of prints without exposure and contrast: the local mean off, over the local deviation, unit length.

    Args:
        prints: uint8 [N, 64, 64].

    Returns:
        float32 [N, 4096]; the dot product of two rows is their correlation.
    """
    values = prints.astype(np.float32)
    fine, wide = _blur(3.0), _blur(4.0)
    high = values - fine @ values @ fine.T
    # The floor (4 of 255 grey levels) keeps the noise of empty areas from being blown up.
    high /= np.sqrt(np.maximum(wide @ (high * high) @ wide.T, 0)) + 4
    flat = high.reshape(len(prints), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _blur(deviation_px: float) -> np.ndarray:
    place = np.arange(SIDE_PX)
    weights = np.exp(-0.5 * ((place[:, None] - place) / deviation_px) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


Candidates = Iterator[tuple[Relation, np.ndarray, np.ndarray]]


def _every_pair(count: int) -> Candidates:
    """All pairs; "same" stands for "inverted" too, whose correlation is the negative one."""
    first, second = np.triu_indices(count, 1)
    for start in range(0, len(first), _MAX_PAIRS_AT_ONCE):
        part = slice(start, start + _MAX_PAIRS_AT_ONCE)
        yield "same", first[part], second[part]
        yield "mirrored", first[part], second[part]


def _verified(
    prints: np.ndarray, relation: Relation, first: np.ndarray, second: np.ndarray, least: float
) -> Iterator[NearPair]:
    """The pairs that correlate strongly enough; rows are turned into floats block by block, each block once."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    for start in range(0, int(first[-1]) + 1 if len(first) else 0, _CHUNK):
        low, high = np.searchsorted(first, [start, start + _CHUNK])
        if low == high:
            continue
        rows = local_contrast(prints[start : start + _CHUNK])
        others, place = np.unique(second[low:high], return_inverse=True)
        for begin in range(0, len(others), _CHUNK):
            here = np.flatnonzero((place >= begin) & (place < begin + _CHUNK))
            block = prints[others[begin : begin + _CHUNK]]
            table = rows @ local_contrast(block[:, :, ::-1] if relation == "mirrored" else block).T
            found = table[first[low + here] - start, place[here] - begin]
            for index in np.flatnonzero(np.abs(found) >= least):
                kind: Relation = relation if relation == "mirrored" else "same" if found[index] > 0 else "inverted"
                if found[index] > 0 or relation != "mirrored":
                    yield NearPair(
                        int(first[low + here[index]]), int(second[low + here[index]]), kind, abs(float(found[index]))
                    )


def _candidates(prints: np.ndarray) -> Candidates:
    """Pairs that agree in a whole band of hash bits and in enough bits altogether."""
    sample = prints[np.linspace(0, len(prints) - 1, min(len(prints), 4096)).astype(int)]
    # What all chests share would put most of them into few buckets.
    common = local_contrast(sample).mean(axis=0)
    codes = _codes(prints, common)
    yield from _meeting("same", codes, codes)
    yield from _meeting("same", codes, _codes(prints, common, sign=-1))
    yield from _meeting("mirrored", codes, _codes(prints[:, :, ::-1], common))


def _codes(prints: np.ndarray, common: np.ndarray, sign: int = 1) -> np.ndarray:
    """Hash bits as uint16 [N, 32]: the signs of low DCT coefficients, dealt to the bands by a fixed shuffle."""
    order, place = np.arange(SIDE_PX)[:, None], np.arange(SIDE_PX)
    cosine = np.cos(np.pi * (2 * place + 1) * order / (2 * SIDE_PX)).astype(np.float32)
    low = np.argsort((order + place).ravel(), kind="stable")[1 : _NUM_BITS + 1]
    low = np.random.default_rng(0).permutation(low)
    codes = np.empty((len(prints), _NUM_BITS // _BAND_BITS), dtype=np.uint16)
    for start in range(0, len(prints), _CHUNK):
        rows = sign * local_contrast(prints[start : start + _CHUNK]) - common
        spectrum = cosine @ rows.reshape(-1, SIDE_PX, SIDE_PX) @ cosine.T
        bits = np.ascontiguousarray(np.packbits(spectrum.reshape(len(rows), -1)[:, low] > 0, axis=1))
        codes[start : start + _CHUNK] = bits.view(np.uint16)
    return codes


def _meeting(relation: Relation, codes: np.ndarray, others: np.ndarray) -> Candidates:
    found = [np.empty(0, dtype=np.int64)]
    count = len(codes)
    for band in range(codes.shape[1]):
        order = np.argsort(others[:, band], kind="stable")
        keys = others[order, band]
        left = np.searchsorted(keys, codes[:, band], "left")
        num = np.minimum(np.searchsorted(keys, codes[:, band], "right") - left, _MAX_BUCKET)
        for low, high in _slices(num):
            first = np.repeat(np.arange(low, high), num[low:high])
            within = np.arange(len(first)) - np.repeat(np.cumsum(num[low:high]) - num[low:high], num[low:high])
            second = order[np.repeat(left[low:high], num[low:high]) + within]
            apart = first != second
            first, second = first[apart], second[apart]
            close = _share_differing(codes[first], others[second]) <= _MAX_DIFFERING
            smaller, larger = np.minimum(first[close], second[close]), np.maximum(first[close], second[close])
            found.append(np.unique(smaller * count + larger))
    pairs = np.unique(np.concatenate(found))
    yield relation, pairs // count, pairs % count


def _slices(num: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose candidates fit into memory together."""
    total = np.cumsum(num)
    low = 0
    while low < len(num):
        before = total[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(total, before + _MAX_PAIRS_AT_ONCE, "right")))
        yield low, high
        low = high


def _share_differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Share of the hash bits in which rows differ, float64 [C]."""
    differing = np.bitwise_xor(first, second).view(np.uint8)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint16)
    return bits[differing].sum(axis=1) / _NUM_BITS
