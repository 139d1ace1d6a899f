"""Many films' checks as a few lines, for a report on a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kdistill.studies.quality.assess import Quality, QualityKind


class Raised(NamedTuple):
    """One kind of check that is raised on some films.

    Attributes:
        kind: What was looked for.
        text: One sentence for a reader.
        films: Whatever names the films, in their order.
    """

    kind: QualityKind
    text: str
    films: tuple[str, ...]


def raised_checks(qualities: Iterable[tuple[str, Quality]]) -> list[Raised]:
    """Gather the films of each kind of check, the commonest first.

    Args:
        qualities: (name, what `assess` said) of each film; consumed once.
    """
    texts: dict[QualityKind, str] = {}
    films: dict[QualityKind, list[str]] = {}
    for name, flag in ((name, flag) for name, quality in qualities for flag in quality.flags):
        texts[flag.kind] = flag.text
        films.setdefault(flag.kind, []).append(name)
    return [Raised(kind, texts[kind], tuple(films[kind])) for kind in sorted(films, key=lambda kind: -len(films[kind]))]
