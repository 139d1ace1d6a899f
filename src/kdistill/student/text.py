"""Text sections and tokens: what the student is asked to write, and how its answer is cut into sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from transformers import PreTrainedTokenizerBase

from kdistill.errors import WeightsError

#: Section -> the special token that starts it; the teacher's tokenizer holds all three (checked in the tests).
SECTION_TOKENS: Final[Mapping[str, str]] = {
    "report": "<report>",
    "impression": "<impression>",
    "rationale": "<rationale>",
}


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the section tokens and of the end token.

    Raises:
        WeightsError: The tokenizer lacks one of them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SECTION_TOKENS.values() if token not in vocabulary]
    if missing or tokenizer.eos_token_id is None:
        raise WeightsError(
            f"the tokenizer has no {', '.join(missing) or 'end token'}",
            remedy="Take the tokenizer that the teacher stage published, or add the tokens.",
        )
    ids = {section: vocabulary[token] for section, token in SECTION_TOKENS.items()}
    return {**ids, "eos": int(tokenizer.eos_token_id)}


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, no special token added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def report_sequence(
    tokenizer: PreTrainedTokenizerBase, findings: str, impression: str, max_tokens: int
) -> tuple[list[int], bool]:
    """`<report> findings <impression> impression <eos>`.

    Returns:
        The token ids, and whether the text had to be cut to `max_tokens` (the end token stays).
    """
    ids = token_ids(tokenizer)
    body = [*encode_plain(tokenizer, findings), ids["impression"], *encode_plain(tokenizer, impression)]
    cut = len(body) > max_tokens - 2
    return [ids["report"], *body[: max_tokens - 2], ids["eos"]], cut


def rationale_sequence(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> tuple[list[int], bool]:
    """`<rationale> text <eos>`; see `report_sequence` for the result."""
    ids = token_ids(tokenizer)
    body = encode_plain(tokenizer, text)
    cut = len(body) > max_tokens - 2
    return [ids["rationale"], *body[: max_tokens - 2], ids["eos"]], cut


def joined_sequence(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Two sequences as one: the second's start token takes the place of the first's end token."""
    return [*first[:-1], *second]


class Texts(NamedTuple):
    """What a student wrote about one image; a section that it did not write is ""."""

    findings: str
    impression: str
    rationale: str


def split_texts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], start: str) -> Texts:
    """Cut generated tokens at the tokens that start a section; the first time that one is seen counts.

    Args:
        tokenizer: The student's.
        tokens: Without the start token and the end token.
        start: The section that they begin in: "report" or "rationale".
    """
    section_of = {number: section for section, number in token_ids(tokenizer).items()}
    parts: dict[str, list[int]] = {start: []}
    current = start
    for token in tokens:
        section = section_of.get(token)
        if section is not None and section not in parts:
            parts[section], current = [], section
        else:
            parts[current].append(token)
    return Texts(*(decode(tokenizer, parts.get(section, [])) for section in ("report", "impression", "rationale")))


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Tokens -> text without special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
