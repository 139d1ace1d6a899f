"""Is a text English, empty, or only placeholders? Cheap heuristics: they keep a labeler from guessing, no more.

The labeler's words are English; a German "kein Pneumothorax" must not be read as a stated pneumothorax.
"""

from __future__ import annotations

import re
from typing import Final

_ENGLISH: Final = re.compile(
    r"\b(?:the|of|and|are|with|without|there|heart|lungs?|clear|chest|seen|evidence|acute|effusions?|left|right|or|has"
    r"|upper|lower|size|limits|mild|moderate|possible|not|which|this|was)\b"
)
_FOREIGN_TEXT: Final = (
    "der die das und kein keine keinen nicht ohne mit ein eine im ist sind beidseits rechts links vergrößert "
    "el la los las del sin hay con una por se derrame izquierdo derecho sem não nao uma esquerdo direito "
    "le les du des pas sans avec est une gauche droit droite épanchement au il della non senza nel sono "
    "het een geen van zonder niet och ingen utan ikke uden og nie bez oraz jest"
)
_FOREIGN_WORDS: Final = frozenset(_FOREIGN_TEXT.split())
_FOREIGN: Final = re.compile(rf"\b(?:{'|'.join(sorted(_FOREIGN_WORDS))})\b")
_WORD: Final = re.compile(r"[^\W\d_]+")


def is_placeholder_only(text: str) -> bool:
    """Whether a text that is not blank has no word besides de-identification marks (`___`, `XXXX`)."""
    return bool(text.strip()) and not any(match.group().strip("xX") for match in _WORD.finditer(text))


def is_english(lowered: str) -> bool:
    """Whether lower-case text can be read by English rules.

    Foreign function words without a single English one, or mostly non-Latin letters, say no. Text with neither (a lone
    "cardiomegaly") is taken as English. Only the first 2,000 characters are looked at.
    """
    head = lowered[:2000]
    if not head.isascii():
        letters = sum(letter.isalpha() for letter in head)
        latin = sum(letter.isalpha() and letter < "\u0250" for letter in head)
        if latin * 2 < letters:
            return False
    if _FOREIGN_WORDS.isdisjoint(head.split()) and not _FOREIGN.search(head[:80]):
        return True  # the usual case, three times as fast as the full search
    return len(_ENGLISH.findall(head)) * 2 >= len(_FOREIGN.findall(head))
