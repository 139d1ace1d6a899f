"""Articles to passages: cut, check each for fitness, and say why one was dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from kdistill.literature.config import PassageConfig
from kdistill.literature.items import PassageReason
from kdistill.literature.text import sentences

#: Text that a language model may take for its own control tokens or for an order. Literature is data: prompts mark it
#: as such too, this only keeps the plainest attempts out of training and retrieval.
_PROMPT_MARKUP: Final = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>"
    r"|</?(?:pad|bos|eos|unk|s|system|user|assistant|report|findings|impression|rationale)>"
    r"|^\W*(?:system|assistant|user)\s*:"
    r"|\b(?:ignore|disregard|forget)\s+(?:(?:all|any|the|your|of)\s+){0,3}(?:previous|prior|above|earlier|preceding)\s+"
    r"(?:instruction|prompt|message|context|direction)",
    re.IGNORECASE | re.MULTILINE,
)

#: A gap to fill in (exercises), and tables or laboratory lists that lost their layout.
_BLANK: Final = re.compile(r"_{3,}")
_LETTER_SHARE: Final = 0.75

#: Where a passage may always begin: a paragraph, or one more case in a series. A reading belongs to its findings.
_UNIT: Final = re.compile(r"\n|(?<=[.!?]) (?=(?:Findings|Case \d+): )")


def cut_passages(text: str, config: PassageConfig) -> list[str]:
    """Cut a cleaned text into passages of whole sentences that never overlap and leave nothing out.

    A passage ends at the end of its paragraph or case, unless it would be shorter than `min_words`. A last sentence
    left alone joins the passage before it where that stays within `max_words`.

    Args:
        text: One paragraph a line (see text.clean_text).
        config: Most sentences and words of a passage.
    """
    passages: list[str] = []
    carried = ""
    for unit in _UNIT.split(text):
        found = _pack([*sentences(carried), *sentences(unit)], config)
        carried = found.pop() if found and len(found[-1].split()) < config.min_words else ""
        passages += found
    return [*passages, carried] if carried else passages


def _pack(parts: Sequence[str], config: PassageConfig) -> list[str]:
    groups: list[list[str]] = []
    length = 0
    for number, sentence in enumerate(parts, start=1):
        size = len(sentence.split())
        most = config.max_sentences + (number == len(parts))
        if groups and len(groups[-1]) < most and length + size <= config.max_words:
            groups[-1].append(sentence)
            length += size
        else:
            groups.append([sentence])
            length = size
    return [" ".join(group) for group in groups]


def unfit(passage: str, config: PassageConfig) -> PassageReason | None:
    """Why a passage cannot be used whatever it is about, or None."""
    size = len(passage.split())
    if size < config.min_words:
        return "too_short"
    if size > config.max_words:
        return "too_long"
    if _PROMPT_MARKUP.search(passage):
        return "prompt_markup"
    letters = sum(character.isalpha() or character.isspace() for character in passage)
    return "not_prose" if _BLANK.search(passage) or letters < _LETTER_SHARE * len(passage) else None
