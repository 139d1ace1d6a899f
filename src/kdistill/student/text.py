"""Text sections and tokens: what the student is asked to write, and how its answer is cut into sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

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


def split_report(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> tuple[str, str]:
    """Cut a generated report at its first impression token -> (findings, impression)."""
    marker = token_ids(tokenizer)["impression"]
    tokens = list(tokens)
    at = tokens.index(marker) if marker in tokens else len(tokens)
    return decode(tokenizer, tokens[:at]), decode(tokenizer, tokens[at + 1 :])


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Tokens -> text without special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
