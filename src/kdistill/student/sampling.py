"""Texts that the student samples in a training step, from random numbers that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdistill.student.language import IGNORE_INDEX, TextBatch, decode_by


@dataclass(frozen=True)
class Sampling:
    """Texts to be sampled in a training step.

    Attributes:
        image_index: int64 [N], the image of each text.
        uniforms: float64 [N, most tokens] in [0, 1), one for each token: text n depends on its own row alone, whoever
            shares the batch.
        temperature: Divides the logits.
    """

    image_index: Tensor
    uniforms: Tensor
    temperature: float


def sample_decode(
    language: PreTrainedModel, prefix: Tensor, start_id: int, eos_id: int, uniforms: Tensor, temperature: float
) -> list[list[int]]:
    """`greedy_decode` with tokens drawn by inversion: the first whose cumulative probability exceeds the uniform.

    No random number is drawn here (the library's generator stays where it is), dropout is off.

    Args:
        language: A causal LM; its mode is restored.
        prefix: [N, Q, H].
        start_id: See `greedy_decode`.
        eos_id: See `greedy_decode`.
        uniforms: float64 [N, most tokens].
        temperature: Above zero.
    """

    def choose(logits: Tensor, rows: Tensor, position: int) -> Tensor:
        cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
        threshold = uniforms[rows, position].unsqueeze(1) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)

    was_training = language.training
    language.eval()
    try:
        return decode_by(language, prefix, start_id, eos_id, uniforms.shape[1], choose)
    finally:
        language.train(was_training)


def sampled_texts(
    language: PreTrainedModel, prefix: Tensor, sampling: Sampling, token_ids: Mapping[str, int]
) -> TextBatch:
    """Sample rationales in float32, without gradient; a text that reaches the most tokens has no end token.

    Args:
        language: A causal LM.
        prefix: [B, Q, H]; no gradient goes there from here.
        sampling: Which images, and the random numbers.
        token_ids: Of "rationale" and "eos".
    """
    with torch.autocast(prefix.device.type, enabled=False):
        chosen = prefix.detach()[sampling.image_index].float()
        texts = sample_decode(
            language, chosen, token_ids["rationale"], token_ids["eos"], sampling.uniforms, sampling.temperature
        )
    most = sampling.uniforms.shape[1]
    ended = [[*text, token_ids["eos"]] if len(text) < most else text for text in texts]
    rows = [torch.tensor([token_ids["rationale"], *text], device=prefix.device) for text in ended]
    pad = torch.nn.utils.rnn.pad_sequence
    return TextBatch(
        input_ids=pad([row[:-1] for row in rows], batch_first=True),
        next_tokens=pad([row[1:] for row in rows], batch_first=True, padding_value=IGNORE_INDEX),
        image_index=sampling.image_index,
    )
