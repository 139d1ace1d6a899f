"""From the literature stage's files to training sequences: the order and the cut are functions of the seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from kdistill.errors import InputError
from kdistill.records import Passage, read_jsonl


def training_texts(literature_dir: Path) -> list[str]:
    """One text an article (its passages joined), in the order of the file; held-out articles are left out."""
    held_out = {passage.article_id for passage in heldout_passages(literature_dir)}
    passages = read_jsonl(literature_dir / "passages.jsonl", Passage)
    grouped = groupby(passages, key=lambda passage: passage.article_id)
    return ["\n".join(p.text for p in group) for article_id, group in grouped if article_id not in held_out]


def heldout_passages(literature_dir: Path) -> list[Passage]:
    """The passages on which bits per byte are measured; no teacher is trained on them."""
    path = literature_dir / "heldout.jsonl"
    return list(read_jsonl(path, Passage)) if path.is_file() else []


def encode_documents(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Token ids of each text between bos and eos (int32). Special tokens inside a text are read as plain bytes."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [np.array([bos, *ids, eos], dtype=np.int32) for ids in encoded]


class PackedPassages(Dataset[dict[str, torch.Tensor]]):
    """Sequences cut from shuffled documents laid end to end, epoch after epoch, in a fixed order.

    Row n is the same whatever was read before it, so that a resumed run sees the rows that the killed one would have.

    Args:
        documents: Token ids of each document.
        num_rows: Rows in all (steps x batch size).
        sequence_length: Tokens in a row.
        seed: Seed of the order of documents in each epoch.

    Raises:
        InputError: There is not a single document.
    """

    def __init__(self, documents: Sequence[np.ndarray], *, num_rows: int, sequence_length: int, seed: int) -> None:
        if not documents:
            raise InputError("the literature holds no passage to train on", remedy="Add sources to the recipe.")
        self.sequence_length = sequence_length
        self.num_rows = num_rows
        wanted, parts, size, epoch = num_rows * sequence_length, [np.empty(0, np.int32)], 0, 0
        while size < wanted:
            order = np.random.default_rng((seed, epoch)).permutation(len(documents))
            parts += [documents[index] for index in order]
            size += sum(len(document) for document in documents)
            epoch += 1
        self.stream = np.concatenate(parts)[:wanted]

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self.sequence_length
        ids = torch.from_numpy(self.stream[start : start + self.sequence_length].astype(np.int64))
        return {"input_ids": ids, "labels": ids}
