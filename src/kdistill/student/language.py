"""A causal LM behind a prefix of embeddings: logits where they are needed, and greedy decoding with a KV cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

#: In `next_tokens`: there is none.
IGNORE_INDEX: Final = -100
#: Configurations that scale or cap their logits after the output layer: there the model's own forward must make them.
_LOGIT_SETTINGS: Final = frozenset(
    {"final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale"}
)
#: Rows are dropped from the cache once this share of them has ended: dropping copies the cache, so not at every step.
_COMPACT_SHARE: Final = 0.25
#: Logits [n, V], the rows of the batch that are still running [n] and the number of tokens before -> tokens [n].
Choose = Callable[[Tensor, Tensor, int], Tensor]


class TextBatch(TypedDict):
    """Texts to be written about images of a batch.

    input_ids: int64 [N, T], padded on the right. next_tokens: int64 [N, T], the token that follows each position,
    -100 where there is none. image_index: int64 [N], which image of the batch a text is about.
    """

    input_ids: Tensor
    next_tokens: Tensor
    image_index: Tensor


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


def packed_logits(
    language: PreTrainedModel, prefix: Tensor, image_index: Tensor, input_ids: Tensor, keep: Tensor
) -> Tensor:
    """`next_token_logits` of texts of unequal length without padding each to the longest: several share a row.

    Positions start at zero with each text; from that the library's attention masks keep texts apart
    (`masking_utils.find_packed_sequence_indices`). Only for models that `packs_exactly` accepts.

    Args:
        language: A causal LM.
        prefix: [B, Q, H], one for each image.
        image_index: int64 [N], the image of each text.
        input_ids: [N, T], padded on the right.
        keep: bool [N, T], the positions whose logits are wanted.

    Returns:
        [number kept, V] in row-major order of `keep`.
    """
    kept = keep.cpu().numpy()
    lengths = np.where(kept.any(axis=1), kept.shape[1] - kept[:, ::-1].argmax(axis=1), 0)
    num_prefix, width = prefix.shape[1], prefix.shape[2]
    tokens = language.get_input_embeddings()(input_ids)
    sources = torch.cat([prefix.reshape(-1, width).to(tokens.dtype), tokens.reshape(-1, width)])
    rows = pack_rows([num_prefix + int(length) for length in lengths])
    row_length = num_prefix + int(lengths.max(initial=0))
    take = np.zeros((len(rows), row_length), dtype=np.int64)
    positions = np.zeros_like(take)  # in the padding each position is a text of its own that nobody reads
    wanted: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(lengths)
    images = image_index.tolist()
    for row, members in enumerate(rows):
        start = 0
        for text in members:
            length = int(lengths[text])
            stop = start + num_prefix + length
            first_token = prefix.shape[0] * num_prefix + text * kept.shape[1]
            take[row, start : stop - length] = images[text] * num_prefix + np.arange(num_prefix)
            take[row, stop - length : stop] = first_token + np.arange(length)
            positions[row, start:stop] = np.arange(stop - start)
            wanted[text] = row * row_length + stop - length + np.flatnonzero(kept[text])
            start = stop
    device = prefix.device
    inputs = sources[torch.from_numpy(take).to(device)]
    options = {"inputs_embeds": inputs, "position_ids": torch.from_numpy(positions).to(device), "use_cache": False}
    chosen = torch.from_numpy(np.concatenate(wanted)).to(device)
    if _plain_output_layer(language):
        hidden = language.base_model(**options).last_hidden_state
        return language.get_output_embeddings()(hidden.flatten(0, 1)[chosen])
    return language(**options).logits.flatten(0, 1)[chosen]


def pack_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Texts to rows of the longest text's length: first fit, longest first (at most 11/9 of the best number, Johnson
    1973).

    >>> pack_rows([2, 5, 3])
    [[1], [2, 0]]
    """
    room: list[int] = []
    rows: list[list[int]] = []
    for text in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        row = next((n for n, left in enumerate(room) if left >= lengths[text]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(max(lengths))
        rows[row].append(text)
        room[row] -= lengths[text]
    return rows


@torch.no_grad()
def packs_exactly(language: PreTrainedModel) -> bool:
    """Whether a model keeps texts that share a row apart: asked of the model itself, by a row of two short texts.

    State-space models, fused attention kernels without such masks and models with position tables of their own may
    not; then texts leak into each other and nothing else would show it. The yardstick is what happens to the second
    text where the model is not told that another begins.
    """
    was_training = language.training
    language.eval()
    try:
        table = language.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        embeddings = table(torch.arange(9, device=language.device)[None] * 7 % table.num_embeddings)
        positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]], device=language.device)
        alone = language(inputs_embeds=embeddings[:, 5:], use_cache=False).logits
        packed = language(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits[:, 5:]
        leaking = language(inputs_embeds=embeddings, use_cache=False).logits[:, 5:]
    except (TypeError, ValueError, NotImplementedError):
        return False
    finally:
        language.train(was_training)
    return bool((packed - alone).abs().max() <= 0.01 * (leaking - alone).abs().max())


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
    return decode_by(language, prefix, start_id, eos_id, max_new_tokens, lambda logits, rows, t: logits.argmax(dim=-1))


@torch.no_grad()
def decode_by(
    language: PreTrainedModel, prefix: Tensor, start_id: int, eos_id: int, max_new_tokens: int, choose: Choose
) -> list[list[int]]:
    """`greedy_decode` with another choice of the next token; `choose` sees the rows that are still running."""
    start = torch.full((prefix.shape[0], 1), start_id, device=prefix.device)
    tokens = language.get_input_embeddings()(start)
    cache = DynamicCache(config=language.config)
    inputs = {"inputs_embeds": torch.cat([prefix.to(tokens.dtype), tokens], dim=1)}
    texts: list[list[int]] = [[] for _ in range(prefix.shape[0])]
    rows = torch.arange(prefix.shape[0], device=prefix.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for position in range(max_new_tokens):
        logits = language(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        following = choose(logits, rows, position)
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
