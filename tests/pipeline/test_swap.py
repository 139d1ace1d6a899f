"""One line of the recipe swaps the teacher or the vision encoder: tiny random models of real architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .tiny import TINY, kdistill, write_recipe


def save_teacher(folder: Path, kind: str) -> str:
    """A tiny random causal LM with a byte-level tokenizer of its own, as save_pretrained leaves it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    model = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if kind == "llama"
        else Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16))
    )
    model.save_pretrained(folder)
    return str(folder)


def save_vision(folder: Path) -> str:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    return str(folder)


def smallest() -> dict[str, object]:
    return {
        "studies": {**TINY["studies"], "num_train": 16, "num_validate": 8, "num_test": 12, "num_pairs": 4},  # type: ignore[dict-item]
        "distillation": {**TINY["distillation"], "arms": ["full"], "num_image_visits": 32, "max_new_tokens": 8},  # type: ignore[dict-item]
    }


@pytest.mark.parametrize("line", ["lora", "full"])
def test_one_line_swaps_the_teacher(tmp_path, line):
    recipe = write_recipe(tmp_path / "r.yaml", **smallest())
    model = save_teacher(tmp_path / "lm", "qwen3" if line == "lora" else "llama")
    override = f"teacher={{kind: {line}, model: {model}, training: {{steps: 4, batch_size: 2, sequence_length: 64}}}}"
    kdistill("student", "train", str(recipe), override, "--arm", "full", "--out", str(tmp_path / "run"))
    teacher = tmp_path / "run" / "teacher"
    assert f"kind: {line}" in (teacher / "config.yaml").read_text()
    architecture = json.loads((teacher / "model" / "config.json").read_text())["model_type"]
    assert architecture == ("qwen3" if line == "lora" else "llama")


def test_one_line_swaps_the_vision_encoder(tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", **smallest())
    override = f"student.vision={{kind: transformers, path: {save_vision(tmp_path / 'vit')}}}"
    kdistill("student", "train", str(recipe), override, "--arm", "full", "--out", str(tmp_path / "run"))
    saved = json.loads((tmp_path / "run" / "student" / "full" / "seed-0" / "model" / "config.json").read_text())
    assert saved["vision"]["config"]["model_type"] == "vit"
