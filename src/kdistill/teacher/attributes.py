"""Side, zone and severity from the words of one sentence, by rules; only what an observation can have is kept."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kdistill.records import Severity, Side, Zone
from kdistill.sites import SITES

_BILATERAL: Final = re.compile(r"\b(?:bilateral(?:ly)?|both|bibasilar|bibasal|biapical|either side)\b", re.IGNORECASE)
_LEFT: Final = re.compile(r"\bleft(?:ward)?(?:-sided)?\b", re.IGNORECASE)
_RIGHT: Final = re.compile(r"\bright(?:ward)?(?:-sided)?\b", re.IGNORECASE)

#: "apex" alone is not listed: the ventricle has one too.
_ZONES: Final[tuple[tuple[Zone, re.Pattern[str]], ...]] = (
    ("upper", re.compile(r"\b(?:upper|apical|apices|biapical|lung apex|suprahilar)\b", re.IGNORECASE)),
    ("middle", re.compile(r"\b(?:middle|mid|midlung|perihilar)\b", re.IGNORECASE)),
    ("lower", re.compile(r"\b(?:lower|basal|basilar|bibasilar|bibasal|base|bases|infrahilar)\b", re.IGNORECASE)),
)
_SEVERITIES: Final[tuple[tuple[Severity, re.Pattern[str]], ...]] = (
    ("severe", re.compile(r"\b(?:severe|severely|marked|markedly|large|extensive|massive|gross)\b", re.IGNORECASE)),
    ("moderate", re.compile(r"\b(?:moderate|moderately|medium)\b", re.IGNORECASE)),
    (
        "mild",
        re.compile(
            r"\b(?:mild|mildly|slight|slightly|small|minimal|minimally|tiny|trace|subtle|faint)\b", re.IGNORECASE
        ),
    ),
)
#: Sizes are degrees beside a name ("small effusion"), but in a described sign they belong to what is described
#: ("the lobe is small").
_SIZES: Final = re.compile(r"\b(?:small|large|tiny|extensive|massive|gross|medium)\b", re.IGNORECASE)


class Attributes(NamedTuple):
    """What a sentence says about where and how much; None where it does not say."""

    side: Side | None = None
    zone: Zone | None = None
    severity: Severity | None = None


def side_of(sentence: str) -> Side | None:
    """left, right, or bilateral (both named, or a word for both); None if no side is named."""
    left, right = bool(_LEFT.search(sentence)), bool(_RIGHT.search(sentence))
    if _BILATERAL.search(sentence) or (left and right):
        return "bilateral"
    if left:
        return "left"
    return "right" if right else None


def zone_of(sentence: str) -> Zone | None:
    """The zone that the sentence names; None if it names none, or several."""
    found = [zone for zone, pattern in _ZONES if pattern.search(sentence)]
    return found[0] if len(found) == 1 else None


def severity_of(sentence: str) -> Severity | None:
    """The degree that the sentence names; the greater one if it names several ("mild to moderate" is moderate)."""
    return next((severity for severity, pattern in _SEVERITIES if pattern.search(sentence)), None)


def severities_of(text: str) -> frozenset[Severity]:
    """Every degree that the text names."""
    return frozenset(severity for severity, pattern in _SEVERITIES if pattern.search(text))


def attributes(sentence: str, observation: str, *, sizes: bool = True) -> Attributes:
    """Read side, zone and severity, as far as the observation's site (sites.py) has sides and zones.

    "The right atrial border is doubled" describes cardiomegaly, which has no side: the site decides, not the word.

    Args:
        sentence: One sentence of a report or of our own.
        observation: One of OBSERVATIONS.
        sizes: Whether words of size ("small") count as degrees: not where the sentence does not name the observation.

    Raises:
        KeyError: The observation is unknown.
    """
    site = SITES[observation]
    return Attributes(
        side=side_of(sentence) if site.lateralised else None,
        zone=zone_of(sentence) if site.zoned and site.lateralised else None,
        severity=severity_of(sentence if sizes else _SIZES.sub(" ", sentence)),
    )
