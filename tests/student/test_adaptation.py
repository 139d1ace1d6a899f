"""Freezing and adapters: what moves, what keeps still, and that merged weights say the same."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdistill.errors import ConfigError, EnvironmentFault
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import KDistillStudent, load_student

from .backbones import EYES, loss_of, save_eye, save_tongue, student_of, texts_of
from .small import pixels

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., KDistillStudent]:
    """Builds a student of an encoder and a decoder, with options for each; checkpoints are written once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def of(eye: str, tongue: str, vision: dict[str, Any], language: dict[str, Any]) -> KDistillStudent:
        if not (root / eye).exists():
            save_eye(EYES[eye].config, root / eye)
        if not (root / tongue).exists():
            save_tongue(tongue, root / tongue)
        return student_of(
            {
                "vision": {"kind": "transformers", "path": str(root / eye), **vision},
                "language": {"kind": "transformers", "path": str(root / tongue), **language},
                "image_size_px": EYES[eye].size,
            }
        )

    return of


@torch.no_grad()
def disturb_adapters(model: KDistillStudent) -> int:
    """Adapters start as zero: give them something to say."""
    outer = [value for name, value in model.named_parameters() if "lora_B" in name]
    for value in outer:
        torch.nn.init.normal_(value, std=0.1)
    return len(outer)


@pytest.mark.parametrize(
    ("eye", "tongue"),
    [("dinov2", "qwen3"), ("siglip", "gpt2"), ("convnext", "gemma3"), ("swin", "llama_untied"), ("vit", "llama_tied")],
)
@torch.no_grad()
def test_merged_adapters_say_the_same_and_can_be_loaded(make: Callable, eye: str, tongue: str, tmp_path: Path) -> None:
    """W + s B A is one rounding of float32 per weight: 2e-6 of the largest logit seen, 5e-5 allowed."""
    model = make(eye, tongue, {"lora": LORA}, {"lora": LORA})
    images = pixels(2, model.config.image_size_px)
    plain = model(images, texts=[texts_of(model)])
    assert disturb_adapters(model) >= 4
    adapted = model(images, texts=[texts_of(model)])
    assert not torch.allclose(plain.logits, adapted.logits, atol=1e-2), "the encoder's adapters change nothing"
    model.save_pretrained(tmp_path)
    assert model.has_adapters and any("lora_A" in name for name in model.state_dict()), "saving leaves the model alone"
    loaded = load_student(tmp_path)
    model.merge_adapters()
    assert loaded.state_dict().keys() == model.state_dict().keys() == make(eye, tongue, {}, {}).state_dict().keys()
    for merged in (loaded, model):
        found = merged(images, texts=[texts_of(model)])
        for one, other in ((found.logits, adapted.logits), (found.text_logits[0], adapted.text_logits[0])):
            torch.testing.assert_close(one, other, rtol=0, atol=5e-5 * float(other.abs().max()))


def moving(model: KDistillStudent) -> set[str]:
    """Names of pretrained parts' parameters that a backward pass gives a gradient other than zero."""
    model.train()
    loss_of(model, pixels(2, model.config.image_size_px)).backward()
    return {
        name
        for name, value in model.named_parameters()
        if name.startswith(("vision.", "language.")) and value.grad is not None and value.grad.any()
    }


@pytest.mark.parametrize("tongue", ["llama_untied", "gpt2"])
def test_adapters_and_section_tokens_alone_get_a_gradient(make: Callable, tongue: str) -> None:
    model = make("dinov2", tongue, {"lora": LORA}, {"lora": LORA})
    disturb_adapters(model)
    others = {name for name in moving(model) if "lora_" not in name}
    assert others == model.partly_trained and len(others) == (1 if tongue == "gpt2" else 2), "tied tables are one"
    rows = sorted(model.config.token_ids.values())
    for name in others:
        gradient = dict(model.named_parameters())[name].grad
        assert sorted(gradient.any(dim=1).nonzero().flatten().tolist()) == [r for r in rows if gradient[r].any()] != []


def test_frozen_parts_get_no_gradient_but_the_section_tokens_rows(make: Callable) -> None:
    model = make("dinov2", "qwen3", {"trainable": False}, {"trainable": False})
    assert moving(model) == model.partly_trained == {"language.model.embed_tokens.weight", "language.lm_head.weight"}
    assert model.observation_prefix is not None and model.observation_prefix.weight.grad.any(), "the prefix learns"


def test_target_modules_choose_the_layers(make: Callable) -> None:
    model = make(
        "vit",
        "qwen3",
        {"lora": {**LORA, "target_modules": ["q_proj"]}},
        {"lora": {**LORA, "target_modules": r".*\.mlp\..*_proj"}},
    )
    adapted = {name.split(".lora_")[0].split(".")[-1] for name in model.state_dict() if "lora_A" in name}
    assert adapted == {"q_proj", "gate_proj", "up_proj", "down_proj"}


def test_a_convolutional_encoder_needs_its_layers_named(make: Callable) -> None:
    with pytest.raises(ConfigError, match=r"student\.vision\.lora\.target_modules[^$]*resnet[^$]*convolution"):
        make("resnet", "qwen3", {"lora": LORA}, {})
    model = make("resnet", "qwen3", {"lora": {**LORA, "target_modules": ["convolution"]}}, {})
    assert {name for name in moving(model) if name.startswith("vision.") and "lora_" not in name} == set()


@pytest.mark.parametrize("options", [{"trainable": False}, {"lora": {**LORA, "target_modules": ["convolution"]}}])
def test_frozen_batch_statistics_keep_still_in_training(make: Callable, options: dict[str, Any]) -> None:
    from kdistill.distillation.cuts import has_batch_statistics

    model = make("resnet", "qwen3", options, {})
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    moving(model)
    assert before and all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in before.items())
    assert not has_batch_statistics(model) and has_batch_statistics(make("resnet", "qwen3", {}, {}))


def test_a_frozen_encoder_is_asked_as_in_prediction(make: Callable) -> None:
    """DINOv3 shifts its positions at random in training: not where it is frozen."""
    model = make("dinov3_vit", "qwen3", {"trainable": False}, {})
    images = pixels(2, model.config.image_size_px)
    assert torch.equal(model.train().vision(images), model.eval().vision(images))
    moved = make("dinov3_vit", "qwen3", {}, {})
    assert not torch.equal(moved.train().vision(images), moved.eval().vision(images))


def test_adapters_on_a_frozen_part_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave out trainable"):
        StudentConfig.model_validate({"language": {"kind": "teacher", "trainable": False, "lora": {}}})


def test_without_peft_the_extra_is_named(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without_peft(name: str, *args: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return importing(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(EnvironmentFault, match=r"student\.language\.lora[^$]*kdistill\[llm\]"):
        make("vit", "qwen3", {}, {"lora": LORA})
