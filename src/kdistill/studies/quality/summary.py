"""Many films' checks as a few lines, for a report on a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kdistill.studies.quality.assess import Quality


def quality_warnings(qualities: Iterable[Quality]) -> list[str]:
    """One line for each kind of check that is raised on some film, the commonest first.

    Args:
        qualities: What `assess` said of each film; consumed once.
    """
    found = list(qualities)
    texts: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for flag in (flag for quality in found for flag in quality.flags):
        counts[flag.kind] += 1
        texts[flag.kind] = flag.text
    return [f"{count} of {len(found)} images: {kind}. {texts[kind]}" for kind, count in counts.most_common()]
