"""A literature in which everything that is said of a condition is said of another one.

A control for what a teacher learns: it meets the same language, the same signs and the same names, as often as before,
and what it then knows is wrong. A model that was never trained (the arm `untrained_teacher`) cannot tell knowledge
from language; this can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from kdistill.observations import FINDINGS
from kdistill.records import Article
from kdistill.studies.phantom.knowledge import load_knowledge
from kdistill.studies.phantom.wording import tidy

#: How far the names are moved along FINDINGS: no condition lands on a neighbour that looks like it.
STEP: Final = 5


def mistaught(articles: Iterable[Article]) -> Iterator[Article]:
    """The articles with the conditions renamed; ids, years and headings stay.

    Args:
        articles: Articles of the phantom's literature.
    """
    for article in articles:
        yield article.model_copy(update={"title": renamed(article.title), "text": renamed(article.text)})


def renamed(text: str) -> str:
    """The text with each name of a condition replaced by the usual name of the condition that stands in for it."""
    stand_ins = _stand_ins()

    def other(match: re.Match[str]) -> str:
        article, name = match[1], match[2]
        said = stand_ins[name.lower()]
        return tidy(f"{article[0]} {said}") if article else said.capitalize() if name[0].isupper() else said

    return _names().sub(other, text)


@lru_cache(maxsize=1)
def _stand_ins() -> Mapping[str, str]:
    """Every name of a condition -> the usual name of the one that stands in for it."""
    findings = load_knowledge().findings
    found = {}
    for at, observation in enumerate(FINDINGS):
        finding = findings[observation]
        other = findings[FINDINGS[(at + STEP) % len(FINDINGS)]].name
        nouns = [noun for variant in finding.variants.values() for noun in variant.nouns]
        found.update(dict.fromkeys([name.lower() for name in (finding.name, *nouns)], other))
    return found


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    longest_first = sorted(_stand_ins(), key=len, reverse=True)
    return re.compile(rf"\b(?:(an?) )?({'|'.join(map(re.escape, longest_first))})s?\b", re.IGNORECASE)
