"""Texts that share a row: the logits and gradients of texts apart, and a check of every decoder first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from kdistill.student.language import next_token_logits, pack_rows, packed_logits, packs_exactly

from .small import VOCABULARY, pixels, small_student, text

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
DECODERS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64),
}
TEXTS = text([[3, 7, 8, 4, 9, 2], [5, 10, 2], [5, 11, 12, 13, 14, 15, 16, 2], [3, 2]], [0, 2, 1, 1])


def decoder(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(DECODERS[name], attn_implementation="eager").eval()
    for parameter in model.parameters():  # the library's 0.02 would hide a leak
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", DECODERS)
def test_packed_logits_equal_those_of_padded_texts(name: str) -> None:
    language = decoder(name)
    prefix = torch.randn(3, 4, 16, requires_grad=True)
    keep = TEXTS["next_tokens"] != -100
    keep[2, 3] = False  # a masked target inside a text
    assert packs_exactly(language)
    apart = next_token_logits(language, prefix[TEXTS["image_index"]], TEXTS["input_ids"], keep)
    packed = packed_logits(language, prefix, TEXTS["image_index"], TEXTS["input_ids"], keep)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-4 * float(apart.detach().abs().max()))
    weight = torch.randn_like(apart)
    first, second = (torch.autograd.grad((weight * logits).sum(), prefix)[0] for logits in (apart, packed))
    torch.testing.assert_close(second, first, rtol=0, atol=1e-4 * float(first.abs().max()))


def test_a_decoder_that_leaks_across_texts_is_not_packed() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4, expand=1)
    torch.manual_seed(0)
    assert not packs_exactly(AutoModelForCausalLM.from_config(config))


def test_the_check_leaves_the_mode_and_is_no_constant() -> None:
    language = decoder("llama").train()
    assert packs_exactly(language) and language.training
    blind = decoder("llama")
    inner = blind.forward
    blind.forward = lambda position_ids=None, **inputs: inner(**inputs)
    assert not packs_exactly(blind)


def test_student_gives_the_same_text_logits_packed() -> None:
    model = small_student()
    apart = model(pixels(), texts=[TEXTS, text([[5, 6, 2]], [0])]).text_logits
    assert model.pack_texts()
    packed = model(pixels(), texts=[TEXTS, text([[5, 6, 2]], [0])]).text_logits
    assert [len(t) for t in packed] == [len(t) for t in apart]
    for one, other in zip(packed, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@given(st.lists(st.integers(1, 60), max_size=40))
def test_rows_hold_every_text_once_and_no_more_than_fits(lengths: list[int]) -> None:
    rows = pack_rows(lengths)
    assert sorted(text for row in rows for text in row) == list(range(len(lengths)))
    assert all(sum(lengths[n] for n in row) <= max(lengths) for row in rows)
    assert sum(sum(lengths[n] for n in row) * 2 <= max(lengths) for row in rows) <= 1, "two rows that fit in one"
