"""Log-likelihoods of short continuations: many candidates behind one prompt share its pass through the model.

A prompt and all of its candidates are laid in one row. Each candidate sees the prompt and itself (a block mask), and
its positions start where the prompt ends, so the result equals scoring "prompt + candidate" in a row of its own. Models
that cannot take such a mask (recurrent or windowed layers) are found out on the first prompt and scored row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn.functional import log_softmax

from kdistill.teacher.language_model import LanguageModel

logger = logging.getLogger(__name__)

#: Float32 sums taken in another order differ by less than 1e-4 nats on the models tried; a wrong mask by far more.
_SHARED_TOLERANCE: Final = 1e-2


@dataclass(frozen=True)
class Row:
    """One packed row: a prompt's tokens, then each candidate's, with the index of every candidate's first token."""

    prompt: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.candidates))


class Scorer:
    """Scores candidates behind prompts with one language model.

    Args:
        language_model: Model and tokenizer.
        batch_size: Prompts scored at once.
        max_prompt_tokens: Longer prompts lose their beginning (the bos token stays).
    """

    def __init__(self, language_model: LanguageModel, *, batch_size: int = 64, max_prompt_tokens: int = 192) -> None:
        self.language_model = language_model
        self.batch_size = batch_size
        self.max_prompt_tokens = max_prompt_tokens
        self._shared: bool | None = None

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text; special tokens inside it are read as plain bytes (the text is data)."""
        tokenizer = self.language_model.tokenizer
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """bos and the prompt's tokens, at most `max_prompt_tokens` of them."""
        ids = self.encode(text)[-(self.max_prompt_tokens - 1) :]
        return (self.language_model.tokenizer.bos_token_id, *ids)

    def log_likelihoods(self, prompts: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
        """Score the same candidates behind every prompt.

        Args:
            prompts: N texts, without a space at the end.
            candidates: C continuations, each with the space that it starts with.

        Returns:
            Sums of log-probabilities in nats, float64 of shape (N, C).
        """
        encoded = tuple(self.encode(candidate) for candidate in candidates)
        rows = [Row(self.encode_prompt(prompt), encoded) for prompt in prompts]
        result = np.zeros((len(prompts), len(candidates)))
        for index, scores in self.score_rows(rows):
            result[index] = scores
        return result

    def score_rows(self, rows: Sequence[Row]) -> Iterator[tuple[int, np.ndarray]]:
        """Score rows of like length together.

        Yields:
            (index of the row, float64 sums of log-probabilities of its candidates in nats).
        """
        if self._shared is None and rows:
            self._shared = self._can_share(rows[0])
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [rows[index] for index in chosen]
            scores = self._score_shared(batch) if self._shared else [self._score_apart(row) for row in batch]
            yield from zip(chosen, scores, strict=True)

    def _can_share(self, row: Row) -> bool:
        if len(row.candidates) < 2:
            row = Row(row.prompt, row.candidates * 2)
        try:
            difference = np.abs(self._score_shared([row])[0] - self._score_apart(row)).max()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            logger.warning("the model takes no block mask (%s): candidates are scored one by one", type(error).__name__)
            return False
        if not difference <= _SHARED_TOLERANCE:
            logger.warning("a block mask changes this model's scores: candidates are scored one by one")
            return False
        return True

    @torch.inference_mode()
    def _score_shared(self, rows: Sequence[Row]) -> list[np.ndarray]:
        ids, positions, mask = _pack(rows, self.language_model.tokenizer.pad_token_id)
        device = self.language_model.device
        bias = torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)
        output = self.language_model.model(
            input_ids=ids.to(device),
            attention_mask=bias[:, None].to(device),
            position_ids=positions.to(device),
            use_cache=False,
        )
        return [self._collect(row, output.logits[index]) for index, row in enumerate(rows)]

    @torch.inference_mode()
    def _score_apart(self, row: Row) -> np.ndarray:
        scores = []
        for candidate in row.candidates:
            ids = torch.tensor([(*row.prompt, *candidate)], device=self.language_model.device)
            logits = self.language_model.model(input_ids=ids, use_cache=False).logits[0]
            scores.append(self._collect(Row(row.prompt, (candidate,)), logits)[0])
        return np.array(scores)

    def _collect(self, row: Row, logits: torch.Tensor) -> np.ndarray:
        """Sum each candidate's log-probabilities: its first token is predicted by the prompt's last position."""
        last, start = len(row.prompt) - 1, len(row.prompt)
        sources, targets, owners = [], [], []
        for number, candidate in enumerate(row.candidates):
            for offset, token in enumerate(candidate):
                sources.append(last if offset == 0 else start + offset - 1)
                targets.append(token)
                owners.append(number)
            start += len(candidate)
        log_probs = log_softmax(logits[sources].float(), dim=-1)
        picked = log_probs[torch.arange(len(targets)), torch.tensor(targets, device=log_probs.device)]
        return np.bincount(owners, weights=picked.double().cpu().numpy(), minlength=len(row.candidates))


def _pack(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and positions of shape (B, T), and the bool mask (B, T, T): True where a token may look."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    positions = torch.zeros((len(rows), length), dtype=torch.long)
    blocks = torch.full((len(rows), length), -1)
    for index, row in enumerate(rows):
        flat = [*row.prompt, *(token for candidate in row.candidates for token in candidate)]
        place = [*range(len(row.prompt)), *(len(row.prompt) + o for c in row.candidates for o in range(len(c)))]
        block = [0] * len(row.prompt) + [number for number, c in enumerate(row.candidates, 1) for _ in c]
        ids[index, : len(flat)] = torch.tensor(flat)
        positions[index, : len(flat)] = torch.tensor(place)
        blocks[index, : len(flat)] = torch.tensor(block)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = blocks[:, :, None] == blocks[:, None, :]
    prompt = (blocks == 0)[:, None, :]
    return ids, positions, causal & (same | prompt)
