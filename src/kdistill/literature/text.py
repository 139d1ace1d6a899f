"""Cleaning, words, sentences: the one place that says what a word is for selection, deduplication and search."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

#: Invisible or unassigned-meaning characters: controls, soft hyphen, zero-width, bidi marks and overrides, tags,
#: private use and lone surrogates. They hide instructions from a reader and split words for a tokenizer.
_INVISIBLE: Final = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e0fff"
    "\U000f0000-\U0010ffff]"
)
_SPACES: Final = re.compile(r"[^\S\n]+")
_LINES: Final = re.compile(r" ?\n[ \n]*")
#: "BACKGROUND: ", "MAIN OUTCOME MEASURES: " at the start of a line or sentence: layout, not language.
_LABEL: Final = re.compile(r"(?:^|(?<=[.!?] ))[A-Z][A-Z &/,()-]{3,60}: ?(?=[A-Z0-9\"'(])", re.MULTILINE)
#: What stays behind when bibliographic references are taken out: "[]", "(, )", "[–]".
_EMPTY_BRACKETS: Final = re.compile(r" ?[\[(][\s,;–-]*[\])]")
_SPACE_BEFORE: Final = re.compile(r" +(?=[,.;:)\]])")
_WORD: Final = re.compile(r"[^\W_]+")
_BOUNDARY: Final = re.compile(r"[.!?][\"'”’)\]]*;?\s+(?=[\"'“‘(\[]*[A-Z0-9])")
_LAST_TOKEN: Final = re.compile(r"\S+$")
_ABBREVIATIONS_TEXT: Final = (
    "e.g. i.e. al. fig. figs. vs. cf. ca. dr. drs. mr. mrs. ms. prof. st. no. nos. approx. ref. refs. eq. eqs. "
    "resp. sp. spp. subsp. var. vol. inc. ltd. co. jr. sr. tab. sec. dept. viz. ed. eds. pp. wt."
)
_ABBREVIATIONS: Final = frozenset(_ABBREVIATIONS_TEXT.split())
_INITIAL: Final = re.compile(r"^[\"'(\[]*[A-Z]\.$")


def clean_line(text: str) -> str:
    """One line of plain text: no invisible characters, single spaces, NFC."""
    return _visible(text).replace("\n", " ")


def clean_text(text: str) -> str:
    """Plain text with one paragraph a line: as clean_line, without section labels and emptied reference brackets."""
    return _LABEL.sub("", _SPACE_BEFORE.sub("", _EMPTY_BRACKETS.sub("", _visible(text))))


def _visible(text: str) -> str:
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _LINES.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text))).strip()


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Fold plurals only ("lungs", "opacities"): anything stronger merges words that radiology keeps apart."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")):
        return word[:-1]
    return word


def sentences(paragraph: str) -> list[str]:
    """Split one paragraph into sentences; abbreviations and initials do not end one."""
    found: list[str] = []
    start = 0
    for boundary in _BOUNDARY.finditer(paragraph):
        candidate = paragraph[start : boundary.end()].rstrip()
        if not _is_abbreviation(candidate):
            found.append(candidate)
            start = boundary.end()
    rest = paragraph[start:].strip()
    return [*found, rest] if rest else found


def _is_abbreviation(candidate: str) -> bool:
    last = _LAST_TOKEN.search(candidate)
    if last is None:
        return False
    token = last.group()
    return token.lower().lstrip("([\"'") in _ABBREVIATIONS or bool(_INITIAL.match(token))
