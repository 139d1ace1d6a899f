from __future__ import annotations

import pytest

from kdistill.explain.citations import CitationLookup

from .conftest import QUOTE, RETRACTED_QUOTE


@pytest.mark.parametrize(
    ("sentence", "cited"),
    [
        (QUOTE, True),
        (QUOTE.upper().replace(".", ""), True),
        # Lies within the quote.
        ("Blunting of the lateral costophrenic angle is the earliest sign of pleural fluid.", True),
        # One word of seventeen differs.
        (QUOTE.replace("earliest", "first"), True),
        # One word differs, and turns the sentence round.
        (QUOTE.replace("lateral", "left"), False),
        (QUOTE.replace("is the", "is not the"), False),
        ("Pleural fluid blunts the angle.", False),
        ("pleural fluid", False),
        ("", False),
        # In the library's rationales, but retracted, or of an article that the library does not hold.
        (RETRACTED_QUOTE, False),
        ("An article that is in no library says this about edema.", False),
    ],
)
def test_find(library: CitationLookup, sentence: str, cited: bool) -> None:
    found = library.find(sentence, "Pleural Effusion")
    assert (found is not None) == cited
    if found is not None:
        assert (found.article_id, found.quote, found.year, found.pmid) == ("PMC1", QUOTE, 2014, "24")


def test_near_matches_stay_within_their_observation(library: CitationLookup) -> None:
    assert library.find(QUOTE, "Edema") is not None
    assert library.find(QUOTE.replace("earliest", "first"), "Edema") is None


def test_only_usable_quotes_are_kept(library: CitationLookup) -> None:
    assert len(library) == 1
