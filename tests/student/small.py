"""The smallest student that still has every part."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from kdistill.student.configuration import KDistillConfig
from kdistill.student.modeling import KDistillStudent

VOCABULARY = 40
IDS = {"report": 3, "impression": 4, "rationale": 5, "eos": 2}
CNN = {"kind": "cnn", "stem_channels": 8, "middle_channels": 8, "channels": 16, "num_blocks": 1, "norm": "channel"}


def llama(vocabulary: int = VOCABULARY) -> dict:
    """A one-layer decoder's configuration."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        tie_word_embeddings=True,
        max_position_embeddings=256,
    ).to_dict()


def small_student(seed: int = 0, **changes: object) -> KDistillStudent:
    """A student for 32 px images (4 x 4 patches), in evaluation mode."""
    torch.manual_seed(seed)
    settings = {
        "vision": CNN,
        "language": llama(),
        "hidden_size": 16,
        "image_size_px": 32,
        "pooled_patch_grid": 2,
        "teacher_hidden_size": 12,
        "token_ids": IDS,
        **changes,
    }
    return KDistillStudent(KDistillConfig(**settings)).eval()


def pixels(number: int = 3, size: int = 32, seed: int = 1) -> torch.Tensor:
    """Random images [number, 1, size, size]."""
    return torch.randn(number, 1, size, size, generator=torch.Generator().manual_seed(seed))


def text(rows: list[list[int]], images: list[int]) -> dict[str, torch.Tensor]:
    """A TextBatch from token sequences."""
    longest = max(map(len, rows)) - 1
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    next_tokens = torch.full((len(rows), longest), -100)
    for n, row in enumerate(rows):
        input_ids[n, : len(row) - 1] = torch.tensor(row[:-1])
        next_tokens[n, : len(row) - 1] = torch.tensor(row[1:])
    return {"input_ids": input_ids, "next_tokens": next_tokens, "image_index": torch.tensor(images)}
