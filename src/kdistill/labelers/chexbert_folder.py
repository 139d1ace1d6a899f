"""The folder of a converted CheXbert checkpoint: its files, their checks and their hash. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError, model_validator

from kdistill.config import ConfigModel
from kdistill.errors import InputError, WeightsError
from kdistill.labelers.config import ChexbertLabelerConfig
from kdistill.weights import check_weights_dir, weight_files

WEIGHTS_NAME: Final = "model.safetensors"
CONFIG_NAME: Final = "config.json"
VOCABULARY_NAME: Final = "vocab.txt"
_CONVERT: Final = (
    "Convert the official chexbert.pth once: kdistill convert-chexbert chexbert.pth FOLDER --vocab vocab.txt"
)


class BertSizes(ConfigModel):
    """config.json: the numbers of a BERT encoder that the tensors' shapes do not say, and those that they do."""

    model_type: str = Field(default="bert", pattern="^bert$")
    vocab_size: int = Field(ge=5, le=1_000_000)
    hidden_size: int = Field(ge=1, le=16_384)
    num_hidden_layers: int = Field(ge=1, le=256)
    num_attention_heads: int = Field(ge=1, le=256)
    intermediate_size: int = Field(ge=1, le=65_536)
    max_position_embeddings: int = Field(ge=2, le=65_536)
    type_vocab_size: int = Field(ge=1, le=16)

    @model_validator(mode="after")
    def _heads_divide(self) -> BertSizes:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} numbers do not divide into {self.num_attention_heads} heads")
        return self


def files_of(config: ChexbertLabelerConfig) -> tuple[Path, Path, Path]:
    """Return weights, config.json and vocabulary; all three are there.

    Raises:
        WeightsError: There is no safetensors file; the conversion is named.
        InputError: config.json or the vocabulary is missing.
    """
    folder = Path(config.checkpoint)
    if not (folder / WEIGHTS_NAME).is_file():
        what = "is a single file" if folder.is_file() else f"holds no {WEIGHTS_NAME}"
        raise WeightsError(f"{what}; CheXbert is loaded from safetensors only", where=str(folder), remedy=_CONVERT)
    if not (folder / CONFIG_NAME).is_file():
        raise InputError("there is no such file", where=str(folder / CONFIG_NAME), remedy=_CONVERT)
    words = find_vocabulary(Path(config.tokenizer) if config.tokenizer else folder)
    return folder / WEIGHTS_NAME, folder / CONFIG_NAME, words


def check_folder(folder: Path) -> None:
    """Check the weights (see `check_weights_dir`); nothing but the one file may hold tensors."""
    check_weights_dir(folder)
    if [file.name for file in weight_files(folder)] != [WEIGHTS_NAME]:
        raise WeightsError(f"holds more weights than {WEIGHTS_NAME}", where=str(folder), remedy=_CONVERT)


def read_sizes(file: Path) -> BertSizes:
    """Read config.json; keys that are no sizes are left alone.

    Raises:
        InputError: Missing, no JSON object, or a size is missing or impossible.
    """
    try:
        found = json.loads(file.read_bytes())
        return BertSizes.model_validate({key: found[key] for key in BertSizes.model_fields if key in found})
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where=str(file)) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError("is no JSON object", where=str(file)) from error


def find_vocabulary(path: Path) -> Path:
    """Return vocab.txt: the file itself, or the one in a folder."""
    file = path / VOCABULARY_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "there is no vocabulary",
            where=str(file),
            remedy="Give vocab.txt of bert-base-uncased as `tokenizer`, or put it into the checkpoint folder.",
        )
    return file


def hash_files(files: Sequence[Path]) -> str:
    """Return 12 digits of a SHA-256 over the contents: two checkpoints of one architecture are equal in size."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:12]
