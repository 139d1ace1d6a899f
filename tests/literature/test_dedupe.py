"""Near-duplicates at a known Jaccard similarity, and n-grams of the evaluation split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.literature.dedupe import DuplicateFilter, NgramExclusion, shingle_hashes

WORDS = [f"w{number}" for number in range(400)]


def test_exact_duplicates_ignore_case_and_punctuation() -> None:
    seen = DuplicateFilter(0.9)
    assert seen.check("Clear lungs.") is None
    assert seen.check("clear LUNGS") == "duplicate_text"
    assert seen.check("Clear lung fields.") is None


@pytest.mark.parametrize(("changed", "expected"), [(1, "near_duplicate"), (20, None)])
def test_near_duplicates_by_shingle_overlap(changed: int, expected: str | None) -> None:
    # 400 words, 396 shingles; one changed word breaks 5 of them (Jaccard 0.975), 20 spread ones about 100 (0.6).
    other = list(WORDS)
    for position in range(10, 10 + 18 * changed, 18):
        other[position] = "changed"
    seen = DuplicateFilter(0.9)
    assert seen.check(" ".join(WORDS)) is None
    assert seen.check(" ".join(other)) == expected


def test_pairs_above_the_threshold_are_found_and_none_below() -> None:
    generator = np.random.default_rng(5)
    wrong = 0
    for _ in range(60):
        base = [str(word) for word in generator.integers(0, 10_000, 120)]
        other = list(base)
        for position in generator.integers(0, 120, int(generator.integers(1, 8))):
            other[position] = "x"
        first, second = set(shingle_hashes(base).tolist()), set(shingle_hashes(other).tolist())
        similar = len(first & second) / len(first | second) >= 0.8
        seen = DuplicateFilter(0.8)
        seen.check(" ".join(base))
        wrong += (seen.check(" ".join(other)) == "near_duplicate") != similar
    assert wrong == 0


def test_left_and_right_are_not_duplicates_in_short_passages() -> None:
    seen = DuplicateFilter(0.9)
    text = "The chest radiograph shows a small pleural effusion on the {} side with blunting of the angle."
    assert seen.check(text.format("left")) is None
    assert seen.check(text.format("right")) is None


def test_ngrams_within_and_across_passages() -> None:
    report = " ".join(f"r{number}" for number in range(20))
    exclusion = NgramExclusion([report], 13)
    inside = "before " + " ".join(f"R{number}," for number in range(13)) + " after"
    assert exclusion.touched(["clean text", inside, "more"]) == {1}
    first, second = " ".join(f"r{n}" for n in range(7)), " ".join(f"r{n}" for n in range(7, 13))
    assert exclusion.touched([first, second]) == {0, 1}
    assert exclusion.touched([" ".join(f"r{n}" for n in range(12))]) == set()


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.lists(st.sampled_from("abcde"), max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_shared_ngram_survives(report: list[str], article: list[str]) -> None:
    passages = [" ".join(article[start : start + 7]) for start in range(0, len(article), 7)]
    touched = NgramExclusion([" ".join(report)], 5).touched(passages)
    kept = " | ".join(text for number, text in enumerate(passages) if number not in touched)
    grams = {" ".join(report[start : start + 5]) for start in range(len(report) - 4)}
    assert not any(gram in kept for gram in grams)
