"""Greedy decoding: cached = uncached = the library's own, batched = one by one, any causal LM."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, Qwen3Config

from kdistill.student.language import greedy_decode
from kdistill.student.modeling import KDistillStudent

from .small import IDS, pixels, small_student

SHARED = {"vocab_size": 40, "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 16}
LANGUAGES = {
    "llama": LlamaConfig(**SHARED, intermediate_size=32),
    "qwen3": Qwen3Config(**SHARED, intermediate_size=32, num_key_value_heads=1, head_dim=8),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=128, eos_token_id=2, bos_token_id=1),
}


def with_frequent_end(model: KDistillStudent) -> KDistillStudent:
    """Declare a token to be the end that an untrained model writes in some texts, at different places."""
    texts = model.generate_text(pixels(12), slot="report", max_new_tokens=12)
    counts = [(sum(token in text for text in texts), token) for token in range(40)]
    mixed = [token for number, token in sorted(counts, reverse=True) if 0 < number < len(texts)]
    model.config.token_ids = {**IDS, "eos": mixed[0]}
    return model


@pytest.fixture(scope="module", params=sorted(LANGUAGES))
def model(request: pytest.FixtureRequest) -> KDistillStudent:
    student = small_student(language=LANGUAGES[request.param].to_dict())
    torch.manual_seed(3)
    for parameter in student.language.parameters():  # an untrained LM repeats one token; larger weights vary it
        torch.nn.init.normal_(parameter.data, std=0.4) if parameter.ndim > 1 else None
    assert student.observation_prefix is not None
    torch.nn.init.normal_(student.observation_prefix.weight, std=4.0)
    return with_frequent_end(student)


def test_batched_equals_one_by_one(model: KDistillStudent) -> None:
    images = pixels(12)
    together = model.generate_text(images, slot="report", max_new_tokens=12, batch_size=12)
    alone = [model.generate_text(image[None], slot="report", max_new_tokens=12)[0] for image in images]
    assert together == alone
    assert len({len(text) for text in together}) > 1, "some texts must end early, or leaving the batch is not tried"


def test_equals_the_librarys_generate(model: KDistillStudent) -> None:
    images, eos = pixels(4), model.config.token_ids["eos"]
    theirs = model.generate(images, slot="rationale", max_new_tokens=10, do_sample=False)
    ours = model.generate_text(images, slot="rationale", max_new_tokens=10)
    cut = [row[: row.index(eos)] if eos in row else row for row in theirs.tolist()]
    assert ours == cut


def test_cache_equals_full_forward(model: KDistillStudent) -> None:
    image = pixels(1)
    written = model.generate_text(image, slot="report", max_new_tokens=8)[0]
    ids = torch.tensor([[IDS["report"], *written]])
    following = model(image, input_ids=ids).lm_logits.argmax(-1)[0].tolist()
    assert following[: len(written)] == written


def test_slots_start_differently(model: KDistillStudent) -> None:
    first = model.generate_text(pixels(6), slot="report", max_new_tokens=6)
    assert first != model.generate_text(pixels(6), slot="rationale", max_new_tokens=6)


def test_decoding_stops_at_the_limit() -> None:
    student = small_student()
    prefix = student.encode(pixels(2)).prefix
    texts = greedy_decode(student.language, prefix, 3, eos_id=-1, max_new_tokens=5)
    assert [len(text) for text in texts] == [5, 5]
