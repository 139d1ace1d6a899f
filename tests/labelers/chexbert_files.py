"""A tiny checkpoint with the names, order and layout of the official chexbert.pth, and BERT's forward by hand."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

WORDS = (
    "no small left right effusion pneumonia edema the heart is enlarged . , normal possible lungs are clear with and "
    "opacity atelectasis pneumothorax in of mild there seen ' size un ##changed ##s x ##ray"
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
HIDDEN, LAYERS, INTERMEDIATE, POSITIONS, HEAD_SIZE = 128, 2, 48, 512, 64
#: constants.py of the official code, written down again so that the order is checked against something.
CONDITIONS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    *("Support Devices", "No Finding"),
)


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official state dict (without `module.`), at these sizes."""
    square, flat = (HIDDEN, HIDDEN), (HIDDEN,)
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "bert.embeddings.LayerNorm.weight": flat,
        "bert.embeddings.LayerNorm.bias": flat,
    }
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}.{part}.weight": square, f"{at}.{part}.bias": flat}
        shapes |= {f"{at}.attention.output.LayerNorm.weight": flat, f"{at}.attention.output.LayerNorm.bias": flat}
        shapes |= {f"{at}.intermediate.dense.weight": (INTERMEDIATE, HIDDEN)}
        shapes |= {f"{at}.intermediate.dense.bias": (INTERMEDIATE,)}
        shapes |= {f"{at}.output.dense.weight": (HIDDEN, INTERMEDIATE), f"{at}.output.dense.bias": flat}
        shapes |= {f"{at}.output.LayerNorm.weight": flat, f"{at}.output.LayerNorm.bias": flat}
    shapes |= {"bert.pooler.dense.weight": square, "bert.pooler.dense.bias": flat}
    for head in range(14):
        classes = 2 if head == 13 else 4
        shapes |= {f"linear_heads.{head}.weight": (classes, HIDDEN), f"linear_heads.{head}.bias": (classes,)}
    return shapes


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights, large enough that reports differ in their classes (scale of LayerNorm around 1)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in official_shapes().items()}
    return {name: 1 + tensor if name.endswith("LayerNorm.weight") else tensor for name, tensor in drawn.items()}


def write_official(file: Path, state: dict[str, Tensor], *, prefix: str = "module.") -> Path:
    """Save as the official training program does (run_bert.py)."""
    named = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "model_state_dict": named, "optimizer_state_dict": {"state": {}, "param_groups": []}}, file)
    return file


def write_vocabulary(folder: Path) -> Path:
    """Write vocab.txt."""
    file = folder / "vocab.txt"
    file.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return file


def plain_logits(state: dict[str, Tensor], ids: list[int], num_heads: int = HIDDEN // HEAD_SIZE) -> list[Tensor]:
    """BERT and the 14 heads in plain torch, in double precision, one sequence, no padding."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    at = "bert.embeddings"
    x = w[f"{at}.word_embeddings.weight"][ids] + w[f"{at}.position_embeddings.weight"][: len(ids)]
    x = norm(x + w[f"{at}.token_type_embeddings.weight"][0], f"{at}.LayerNorm")
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{at}.attention.self.{part}").view(len(ids), num_heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        attention = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
        mixed = (attention @ v).transpose(0, 1).reshape(len(ids), HIDDEN)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return [linear(x[0], f"linear_heads.{head}") for head in range(14)]
