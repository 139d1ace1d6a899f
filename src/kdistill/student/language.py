"""A causal LM behind a prefix of embeddings: logits where they are needed, and greedy decoding with a KV cache."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

#: Configurations that scale or cap their logits after the output layer: there the model's own forward must make them.
_LOGIT_SETTINGS: Final = frozenset(
    {"final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale"}
)
#: Rows are dropped from the cache once this share of them has ended: dropping copies the cache, so not at every step.
_COMPACT_SHARE: Final = 0.25


def next_token_logits(language: PreTrainedModel, prefix: Tensor, input_ids: Tensor, keep: Tensor | None) -> Tensor:
    """Logits of the token that follows each text position.

    Texts are padded on the right: under causal attention no real token sees the padding, so no mask is needed.

    Args:
        language: A causal LM.
        prefix: [N, Q, H] embeddings that stand before the text.
        input_ids: [N, T].
        keep: bool [N, T], the positions whose logits are wanted; None for all.

    Returns:
        [number kept, V] in row-major order, or [N, T, V] where keep is None.
    """
    tokens = language.get_input_embeddings()(input_ids)
    inputs = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
    length = prefix.shape[1]
    if _plain_output_layer(language):
        hidden = language.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, length:]
        return language.get_output_embeddings()(hidden if keep is None else hidden[keep])
    logits = language(inputs_embeds=inputs, use_cache=False).logits[:, length:]
    return logits if keep is None else logits[keep]


def _plain_output_layer(language: PreTrainedModel) -> bool:
    settings = language.config.to_dict()
    return not any(settings.get(name) for name in _LOGIT_SETTINGS)


@torch.no_grad()
def greedy_decode(
    language: PreTrainedModel, prefix: Tensor, start_id: int, eos_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Greedy decoding of a batch whose prompts all have the same length (prefix and one start token).

    The library's `generate` spends more time on its own bookkeeping than such a small model on a step; here finished
    rows also leave the batch. In float32 the tokens equal those of decoding one by one.

    Args:
        language: A causal LM.
        prefix: [N, Q, H].
        start_id: Token after the prefix (the section to write).
        eos_id: Token that ends a text; it is not returned.
        max_new_tokens: Longest text.

    Returns:
        The token ids of each text.
    """
    start = torch.full((prefix.shape[0], 1), start_id, device=prefix.device)
    tokens = language.get_input_embeddings()(start)
    cache = DynamicCache(config=language.config)
    inputs = {"inputs_embeds": torch.cat([prefix.to(tokens.dtype), tokens], dim=1)}
    texts: list[list[int]] = [[] for _ in range(prefix.shape[0])]
    rows = torch.arange(prefix.shape[0], device=prefix.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits = language(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        following = logits.argmax(dim=-1)
        running &= following != eos_id
        for row, token in zip(rows[running].tolist(), following[running].tolist(), strict=True):
            texts[row].append(token)
        if not running.any():
            break
        if (~running).float().mean() >= _COMPACT_SHARE:
            cache.batch_select_indices(running.nonzero().squeeze(1))
            rows, following, running = rows[running], following[running], running[running]
        inputs = {"input_ids": following.unsqueeze(1)}
    return texts
