"""Tiny random checkpoints of real architectures, written as their owners write them: nothing can be downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ConvNextConfig,
    DINOv3ViTConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    ResNetConfig,
    SiglipConfig,
    SwinConfig,
    ViTConfig,
)

from kdistill.student.build import build_model
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import KDistillStudent
from kdistill.teacher.tokenizer import add_special_tokens, load_tokenizer

TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DINO = {key: value for key, value in TOWER.items() if key != "intermediate_size"}
STAGES = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32, "patch_size": 4}


@dataclass(frozen=True)
class Eye:
    """A vision checkpoint, the images that its student reads, and the grid and extra tokens to be found."""

    config: PretrainedConfig
    size: int
    side: int


#: The students' size differs from the checkpoint's in most: position encodings have to be interpolated.
EYES: dict[str, Eye] = {
    "vit": Eye(ViTConfig(**TOWER, image_size=32, patch_size=8), 48, 6),
    "dinov2": Eye(Dinov2Config(**DINO, image_size=64, patch_size=14), 56, 4),
    "dinov2_with_registers": Eye(
        Dinov2WithRegistersConfig(**DINO, image_size=32, patch_size=8, num_register_tokens=4), 48, 6
    ),
    "dinov3_vit": Eye(DINOv3ViTConfig(**TOWER, image_size=32, patch_size=8, num_register_tokens=4), 48, 6),
    "dinov3_convnext": Eye(DINOv3ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]), 96, 3),
    "siglip": Eye(
        SiglipConfig(
            vision_config={**TOWER, "image_size": 32, "patch_size": 8}, text_config={**TOWER, "vocab_size": 20}
        ),
        48,
        6,
    ),
    "convnext": Eye(ConvNextConfig(**STAGES), 48, 6),
    "convnextv2": Eye(ConvNextV2Config(**STAGES), 48, 6),
    "swin": Eye(
        SwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=3, image_size=32, patch_size=4), 48, 6
    ),
    "resnet": Eye(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
        ),
        48,
        6,
    ),
}
#: RAD-DINO's layout: DINOv2 that reads 37 x 37 patches of 14 px.
RAD_DINO = Dinov2Config(**DINO, image_size=518, patch_size=14)

BODY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}
#: Decoder -> its configuration (without a vocabulary) and the size of its own tokenizer.
TONGUES: dict[str, tuple[type[PretrainedConfig], dict, int]] = {
    "llama_tied": (LlamaConfig, {**BODY, "tie_word_embeddings": True}, 300),
    "llama_untied": (LlamaConfig, {**BODY, "tie_word_embeddings": False}, 310),
    "qwen3": (Qwen3Config, BODY, 320),
    "gemma3": (
        Gemma3TextConfig,
        # A window shorter than the texts: the cache has to forget.
        {**BODY, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        330,
    ),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}, 290),
}
CORPUS = ["There is a left pleural effusion. The heart is large. No pneumothorax is seen.", "The sulci are clear."]


def bpe(size: int, eos: str = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """A foreign tokenizer: its own end token, no padding, none of our sections."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[eos], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos, bos_token=eos)


def save_eye(config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    """Write a vision checkpoint; its weights are larger than the library's, so that every part shows in the output."""
    torch.manual_seed(1)
    model = AutoModel.from_config(config).eval()
    _enlarge(model)
    model.save_pretrained(folder)
    return model


def save_tongue(name: str, folder: Path, **changes: int) -> PreTrainedModel:
    """Write a causal LM with its own tokenizer, some of its settings changed."""
    kind, settings, size = TONGUES[name]
    settings = {**settings, **changes}
    tokenizer = bpe(size)
    torch.manual_seed(2)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **settings, **ends)).eval()
    _enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@torch.no_grad()
def _enlarge(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        elif 0 < float(parameter.abs().max()) < 1e-3:  # layer scales, which hide a block until they are trained
            torch.nn.init.constant_(parameter, 0.5)


def student_of(settings: dict) -> KDistillStudent:
    """Build a student as the stage does: the decoder's own tokenizer, with what it lacks of our tokens."""
    config = StudentConfig.model_validate(
        {
            "vision": {"kind": "cnn", "stem_channels": 8, "middle_channels": 8, "channels": 16, "norm": "channel"},
            "language": {"kind": "llama", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
            "hidden_size": 16,
            "image_size_px": 32,
            "pooled_patch_grid": 2,
            **settings,
        }
    )
    path = settings.get("language", {}).get("path")
    tokenizer = load_tokenizer(path) if path else bpe(280)
    add_special_tokens(tokenizer)
    return build_model(config, tokenizer, teacher_model_dir=None, seed=0, reasoning_input="both").eval()


def texts_of(model: KDistillStudent) -> dict[str, torch.Tensor]:
    """Two short texts about the first two images."""
    ids = model.config.token_ids
    rows = torch.tensor([[ids["report"], 40, 41, 42, ids["impression"], 43], [ids["rationale"], 50, 51, 52, 53, 54]])
    following = torch.cat([rows[:, 1:], torch.full((2, 1), ids["eos"])], dim=1)
    following[1, 4:] = -100
    return {"input_ids": rows, "next_tokens": following, "image_index": torch.tensor([0, 1])}


def loss_of(model: KDistillStudent, images: torch.Tensor) -> torch.Tensor:
    """A loss that reaches every part."""
    text = texts_of(model)
    output = model(images, texts=[text])
    targets = text["next_tokens"][text["next_tokens"] != -100]
    said = torch.nn.functional.cross_entropy(output.text_logits[0].float(), targets)
    return said + output.logits.float().square().mean() + output.log_attention.float().square().mean()
