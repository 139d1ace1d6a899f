"""Slots of the knowledge file's wordings: sides, zones and degrees become words; wordings become sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from kdistill.records import Severity, Side, Zone

DEGREES: Final[Mapping[Severity, str]] = MappingProxyType(
    {"mild": "slight", "moderate": "moderate", "severe": "marked"}
)
SLOTS: Final = frozenset({"{side}", "{on_side}", "{where}", "{degree}"})
_SLOT = re.compile(r"\{[a-zA-Z_]+\}")


@dataclass(frozen=True)
class Place:
    """What fills the slots. None leaves a slot empty."""

    side: Side | None = None
    zone: Zone | None = None
    severity: Severity | None = None


def slots(template: str) -> frozenset[str]:
    """The slots of a wording, braces included."""
    return frozenset(_SLOT.findall(template))


def fits(template: str, place: Place) -> bool:
    """Whether the wording can be said of the place: "{side}" needs one side."""
    return "{side}" not in template or place.side in ("left", "right")


def on_side(side: Side | None) -> str:
    """ "on the left", "on both sides", or nothing."""
    match side:
        case None:
            return ""
        case "bilateral":
            return "on both sides"
        case _:
            return f"on the {side}"


def where(side: Side | None, zone: Zone | None) -> str:
    """ "in the left upper zone", "in both lower zones", "on the left", "in the upper zone", or nothing."""
    match side, zone:
        case _, None:
            return on_side(side)
        case None, _:
            return f"in the {zone} zone"
        case "bilateral", _:
            return f"in both {zone} zones"
        case _:
            return f"in the {side} {zone} zone"


def fill(template: str, place: Place) -> str:
    """Fill the slots of a wording; the full stop of a clause stays.

    Raises:
        ValueError: The wording needs one side and the place has none (see `fits`).
    """
    if not fits(template, place):
        raise ValueError(f"{template!r} needs a left or right side, not {place.side!r}")
    degree = DEGREES[place.severity] if place.severity else ""
    text = template.replace("{degree}ly", f"{degree}ly" if degree else "")
    text = text.replace("{degree}", degree).replace("{side}", place.side or "")
    text = text.replace("{on_side}", on_side(place.side)).replace("{where}", where(place.side, place.zone))
    return tidy(text)


def tidy(text: str) -> str:
    """Single spaces, none before punctuation, "a" before consonants and "an" before vowels."""
    text = re.sub(r"\s+([.,:;?])", r"\1", re.sub(r"\s+", " ", text)).strip()
    return re.sub(r"\b([Aa])n? (?=(?!uni|one)[aeiouAEIO])", r"\1n ", text)


def is_clause(template: str) -> bool:
    """A wording that ends in a full stop is a clause; one without is a noun phrase."""
    return template.endswith(".")


def has_article(template: str) -> bool:
    """A noun phrase in the singular, told by its article."""
    return not is_clause(template) and template.startswith(("a ", "an "))


def telegraphic(template: str) -> str:
    """A noun phrase without its article, as reports are dictated; clauses stay."""
    return template.split(" ", 1)[1] if has_article(template) else template


def bare(text: str) -> str:
    """A wording without its full stop."""
    return text.removesuffix(".")


def capitalised(text: str) -> str:
    """The first letter in upper case, the rest as it is ("ET tube" stays)."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """A wording as a sentence of a report: capital letter and one full stop."""
    return f"{capitalised(bare(tidy(text)))}."


def frame(pattern: str, **parts: str) -> str:
    """Fill a frame such as "{Name} is recognised by {np}."; a capitalised slot takes the part with a capital letter."""
    text = pattern
    for key, value in parts.items():
        text = text.replace("{" + key + "}", value).replace("{" + capitalised(key) + "}", capitalised(value))
    if missing := _SLOT.findall(text):
        raise ValueError(f"{pattern!r} was left with {missing}")
    return tidy(text)
