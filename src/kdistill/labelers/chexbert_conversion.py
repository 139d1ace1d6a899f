"""The official chexbert.pth -> a folder of safetensors, once. The only place that opens a file of `torch.save`.

The official checkpoint exists in that format only, so `torch.load` is unavoidable here; `weights_only=True` builds
tensors and plain containers and refuses every other object (FAULTS row 30). Inference reads the folder alone.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from kdistill.errors import InputError, WeightsError
from kdistill.labelers.chexbert import check_tensors, empty_model, read_tokenizer
from kdistill.labelers.chexbert_folder import (
    CONFIG_NAME,
    VOCABULARY_NAME,
    WEIGHTS_NAME,
    BertSizes,
    find_vocabulary,
    read_sizes,
)

#: Where the training program puts the tensors (beside epoch and optimizer).
_STATE: Final = "model_state_dict"
#: What DataParallel puts before every name.
_PARALLEL: Final = "module."
#: Positions 0, 1, 2, ...: a buffer that some versions of transformers saved. Nothing is learnt in it.
_POSITIONS: Final = "bert.embeddings.position_ids"
#: Numbers of one attention head in every published BERT (Devlin et al. 2019, arXiv:1810.04805, Table 6).
_HEAD_SIZE: Final = 64


def convert_chexbert(checkpoint: Path, out: Path, vocabulary: Path | None = None) -> BertSizes:
    """Write `out` with model.safetensors, config.json and, if given, vocab.txt.

    Args:
        checkpoint: chexbert.pth. A BERT config.json beside it says the number of attention heads; without it, one head
            has 64 numbers.
        out: A folder that does not exist yet, or is empty.
        vocabulary: BERT's vocab.txt, or its folder.

    Returns:
        The encoder's sizes.

    Raises:
        WeightsError: Not a file of tensors, or a tensor is missing, unknown, misshapen or not finite (named).
        InputError: `out` is not empty, or config.json or the vocabulary does not fit.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("exists and is not empty", where=str(out), remedy="Name a new folder.")
    tensors = read_checkpoint(checkpoint)
    sizes = _sizes(tensors, checkpoint)
    check_tensors(tensors, empty_model(sizes), str(checkpoint))
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"tensor {name!r} holds NaN or infinity", where=str(checkpoint))
    words = find_vocabulary(vocabulary) if vocabulary else None
    if words:
        read_tokenizer(words, sizes.vocab_size)
    _write(out, tensors, sizes, words)
    return sizes


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the tensors of chexbert.pth by their official names, without DataParallel's prefix, as float32.

    Raises:
        WeightsError: The file cannot be read as tensors alone (nothing in it is run), or holds no state dict.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror or error})", where=str(file)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(
            "is damaged or holds objects other than tensors; it was not loaded",
            where=str(file),
            remedy="Download the official checkpoint again (docs/labeler.md).",
        ) from error
    state = found.get(_STATE, found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise WeightsError(f"holds no dictionary of tensors ({_STATE!r})", where=str(file))
    named = {str(name).removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    named.pop(_POSITIONS, None)
    return {name: tensor.float().contiguous() for name, tensor in named.items()}


def _sizes(tensors: dict[str, Tensor], checkpoint: Path) -> BertSizes:
    """The sizes that the shapes say; only the number of attention heads is not among them."""
    words = _matrix(tensors, "bert.embeddings.word_embeddings.weight", checkpoint)
    layers = {name.split(".")[3] for name in tensors if name.startswith("bert.encoder.layer.")}
    beside = checkpoint.with_name(CONFIG_NAME)
    found: dict[str, Any] = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "num_hidden_layers": max(1, len(layers)),
        "num_attention_heads": max(1, words[1] // _HEAD_SIZE),
        "intermediate_size": _matrix(tensors, "bert.encoder.layer.0.intermediate.dense.weight", checkpoint)[0],
        "max_position_embeddings": _matrix(tensors, "bert.embeddings.position_embeddings.weight", checkpoint)[0],
        "type_vocab_size": _matrix(tensors, "bert.embeddings.token_type_embeddings.weight", checkpoint)[0],
    }
    if beside.is_file():
        found["num_attention_heads"] = read_sizes(beside).num_attention_heads
    try:
        return BertSizes(**found)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip(),
            where=str(checkpoint),
            remedy=f"Put the encoder's {CONFIG_NAME} beside the checkpoint.",
        ) from error


def _matrix(tensors: dict[str, Tensor], name: str, checkpoint: Path) -> tuple[int, int]:
    if name not in tensors:
        raise WeightsError(f"tensor {name!r} is missing: this is no CheXbert checkpoint", where=str(checkpoint))
    if tensors[name].ndim != 2:
        raise WeightsError(f"tensor {name!r} is no matrix", where=str(checkpoint))
    rows, columns = tensors[name].shape
    return rows, columns


def _write(out: Path, tensors: dict[str, Tensor], sizes: BertSizes, words: Path | None) -> None:
    """Weights last and by renaming: a folder that a crash cut short has none and is refused."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_NAME).write_text(json.dumps(sizes.model_dump(), indent=2) + "\n", encoding="utf-8")
    if words:
        shutil.copyfile(words, out / VOCABULARY_NAME)
    part = out / f"{WEIGHTS_NAME}.part"
    save_file(tensors, part, metadata={"format": "pt"})
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    part.rename(out / WEIGHTS_NAME)
