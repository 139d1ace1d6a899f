"""Phrases -> one compiled regular expression (a trie), and the meaning of what it matched.

One scan over the text yields every cue, finding and punctuation mark in order; everything else is skipped inside the
regex engine. A trie keeps the scan linear: at a word's first letter only phrases that begin with it are tried.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from kdistill.labelers import phrases
from kdistill.observations import NO_FINDING

# What a match can mean. Plain integers: they are compared a few dozen times per report.
FINDING: Final = 0
OTHER: Final = 1
SUBJECT: Final = 2
ENLARGED: Final = 3
BORDERLINE: Final = 4
NORMAL: Final = 5
NEGATION: Final = 6
NEGATION_AFTER: Final = 7
UNCERTAIN: Final = 8
UNCERTAIN_AFTER: Final = 9
HISTORY: Final = 10
CHANGE: Final = 11
BREAK: Final = 12
SOFT_BREAK: Final = 13
OR: Final = 14
VERSUS: Final = 15
AND: Final = 16
COMMA: Final = 17
SENTENCE: Final = 18
QUESTION: Final = 19
IGNORED: Final = 20
NEWLINE: Final = 21
COLON: Final = 22
NEUTRAL: Final = 23
JOIN: Final = 24


class Meaning(NamedTuple):
    """What a phrase means.

    Attributes:
        kind: One of the integers above.
        observations: What it is about.
        negates: Opens a negation besides ("no acute abnormality or effusion").
        trails: Hedges what stands before it when nothing follows ("pneumonia possible").
        lists: Reaches over commas ("differential includes edema, infection").
    """

    kind: int
    observations: tuple[str, ...] = ()
    negates: bool = False
    trails: bool = False
    lists: bool = False


_PUNCTUATION: Final = {
    ",": Meaning(COMMA),
    ";": Meaning(BREAK),
    ":": Meaning(COLON),
    "?": Meaning(QUESTION),
    "!": Meaning(SENTENCE),
    ".": Meaning(SENTENCE),
    "\n": Meaning(NEWLINE),
}
_SEPARATOR: Final = r"[\s\-]{1,8}"
_WORD_REST: Final = "[a-z]*"
#: Cached surface forms per Lexicon. English reports use a few hundred; hostile text must not grow the cache for ever.
_MAX_SURFACES: Final = 4096


def _split(text: str) -> Iterator[str]:
    for phrase in text.split("|"):
        if cleaned := " ".join(phrase.split()):
            yield cleaned


def _simple_groups() -> Iterator[tuple[str, Meaning]]:
    # Later groups win where a phrase stands in two.
    yield phrases.NEGATION_BEFORE, Meaning(NEGATION)
    yield phrases.NEGATION_AFTER, Meaning(NEGATION_AFTER)
    yield phrases.UNCERTAIN_BEFORE, Meaning(UNCERTAIN)
    yield phrases.DIFFERENTIAL, Meaning(UNCERTAIN, lists=True)
    yield phrases.TRAILING_HEDGES, Meaning(UNCERTAIN, trails=True)
    yield phrases.UNCERTAIN_AFTER, Meaning(UNCERTAIN_AFTER)
    yield phrases.HISTORY_BEFORE, Meaning(HISTORY)
    yield phrases.CHANGE, Meaning(CHANGE)
    yield phrases.ENLARGED, Meaning(ENLARGED)
    yield phrases.BORDERLINE, Meaning(BORDERLINE)
    yield phrases.NORMAL, Meaning(NORMAL)
    yield phrases.NEUTRAL, Meaning(NEUTRAL)
    yield phrases.BREAKS, Meaning(BREAK)
    yield phrases.JOINS, Meaning(JOIN)
    yield phrases.UNMENTIONS, Meaning(IGNORED)
    yield phrases.OR, Meaning(OR)
    yield phrases.VERSUS, Meaning(VERSUS)
    yield phrases.AND, Meaning(AND)
    yield "|".join(f"and {word}" for word in _split(phrases.ASSERTS)), Meaning(SOFT_BREAK)


def _meanings() -> dict[str, Meaning]:
    found = {phrase: Meaning(OTHER) for phrase in _split(phrases.ABNORMAL)}
    for text, meaning in _simple_groups():
        found |= dict.fromkeys(_split(text), meaning)
    for name, text in phrases.SUBJECTS.items():
        found |= {phrase: Meaning(SUBJECT, (name,) if name else ()) for phrase in _split(text)}
    both = ("Cardiomegaly", "Enlarged Cardiomediastinum")
    found |= {phrase: Meaning(SUBJECT, both) for phrase in _split(phrases.BOTH_HEART_AND_MEDIASTINUM)}
    mentioned: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for name, text in phrases.MENTIONS.items():
        for phrase in dict.fromkeys(_split(text)):
            mentioned[phrase] += (name,)
    for phrase, names in mentioned.items():
        found[phrase] = Meaning(FINDING, names, negates=NO_FINDING in names and phrase.startswith("no "))
    return found


def _trie(entries: list[tuple[str, ...]]) -> str:
    """Regex source that matches the longest of the entries (each a tuple of regex atoms) at a position."""
    branches: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for entry in entries:
        if entry:
            branches[entry[0]].append(entry[1:])
    # A wild card is tried after the letters, so that a longer literal phrase wins over a stem.
    ordered = sorted(branches, key=lambda atom: (len(atom) > 1 and atom != _SEPARATOR, atom))
    choices = [atom + _trie(branches[atom]) for atom in ordered]
    if () in entries:
        choices.append(r"\b")
    return choices[0] if len(choices) == 1 else "(?:" + "|".join(choices) + ")"


def _atoms(phrase: str) -> tuple[str, ...]:
    special = {" ": _SEPARATOR, "*": _WORD_REST}
    return tuple(special.get(letter, re.escape(letter)) for letter in phrase)


class Lexicon:
    """The compiled phrases. `pattern` scans lower-case text; `meaning` says what a match is.

    Attributes:
        revision: Hash of all phrases, so that a change of the data changes the labeler's revision.
    """

    def __init__(self) -> None:
        self._meanings = _meanings()
        listing = "\n".join(f"{phrase}={meaning}" for phrase, meaning in sorted(self._meanings.items()))
        self.revision = hashlib.sha256(listing.encode()).hexdigest()[:12]
        asserts = "|".join(sorted(_split(phrases.ASSERTS), key=len, reverse=True))
        words = _trie([_atoms(phrase) for phrase in self._meanings])
        soft = rf",\s+(?:and\s+)?(?=(?:{asserts})\b)"
        self.pattern = re.compile(rf"\b{words}|{soft}|[,;:?!\n]|\.(?!\d)")
        self._surfaces: dict[str, Meaning] = {}
        self._by_start: dict[str, list[tuple[re.Pattern[str], Meaning]]] = defaultdict(list)
        for phrase in sorted(self._meanings, key=lambda p: ("*" in p, -len(p))):
            pattern = re.compile("".join(_atoms(phrase)))
            self._by_start[phrase[0]].append((pattern, self._meanings[phrase]))

    def meaning(self, surface: str) -> Meaning:
        """Return the meaning of one match of `pattern`."""
        known = self._surfaces.get(surface)
        if known is None:
            if len(self._surfaces) >= _MAX_SURFACES:
                self._surfaces.clear()
            known = self._surfaces[surface] = self._resolve(surface)
        return known

    def _resolve(self, surface: str) -> Meaning:
        if surface in _PUNCTUATION:
            return _PUNCTUATION[surface]
        if surface[0] == ",":
            return Meaning(SOFT_BREAK)
        for pattern, meaning in self._by_start[surface[0]]:
            if pattern.fullmatch(surface):
                return meaning
        raise ValueError(f"matched but unknown: {surface!r}")
