"""What a trained student says about images: probabilities, sides, report and rationale, in large batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdistill.observations import OBSERVATIONS
from kdistill.sites import SITES
from kdistill.student.images import blank, pixel_values
from kdistill.student.modeling import KDistillStudent
from kdistill.student.writing import write_texts

SIDES: Final = ("left", "right", "bilateral")
_TEXT_COLUMNS: Final = ("findings", "impression", "rationale")


@dataclass(frozen=True)
class ImageOutput:
    """The vision side's answer for N images, on the CPU.

    Attributes:
        prefix: float32 [N, Q, H], what the decoder reads.
        probabilities: float64 [N, 14].
        sides: int [N, 14], index into SIDES; None of a student that reads no sides.
        embeddings: float32 [N, 14, D].
    """

    prefix: Tensor
    probabilities: np.ndarray
    sides: np.ndarray | None
    embeddings: np.ndarray


@torch.no_grad()
def encode_images(
    model: KDistillStudent, images: np.ndarray, rows: Sequence[int], *, batch_size: int, blanked: bool
) -> ImageOutput:
    """Run the vision side over rows of a memory-mapped image array, in float32 whatever it was trained in."""
    parts, sides = [], []
    for start in range(0, len(rows), batch_size):
        chosen = images[np.asarray(rows[start : start + batch_size])]
        values = pixel_values(blank(chosen, model.config) if blanked else chosen, model.config).to(model.device)
        encoded = model.encode(values)
        assert encoded.observations is not None
        seen = encoded.observations
        parts.append((encoded.prefix.float(), seen.logits, seen.embeddings.float()))
        if seen.side_logits is not None:
            sides.append(seen.side_logits.argmax(-1))
    prefix, logits, embeddings = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    probabilities = torch.sigmoid(logits.double()).numpy()
    return ImageOutput(prefix, probabilities, torch.cat(sides).cpu().numpy() if sides else None, embeddings.numpy())


def side_names(sides: np.ndarray) -> list[str]:
    """Names of the sides of one image's 14 observations [14]; "" for midline observations, which have none."""
    return [
        SIDES[side] if SITES[name].lateralised else "" for name, side in zip(OBSERVATIONS, sides.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Predictor:
    """Predicts with one student.

    Attributes:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        has_label_head: Whether probabilities, and sides where it reads them, were trained.
        writes_rationale: Whether rationales were trained.
        batch_size: Images encoded and decoded at once.
        max_new_tokens: Longest section.
        blanked: Show mean grey (the blank-image control).
    """

    model: KDistillStudent
    tokenizer: PreTrainedTokenizerBase
    has_label_head: bool
    writes_rationale: bool
    batch_size: int
    max_new_tokens: int
    blanked: bool = False

    def encode(self, images: np.ndarray, rows: Sequence[int]) -> ImageOutput:
        """See `encode_images`."""
        return encode_images(self.model, images, rows, batch_size=self.batch_size, blanked=self.blanked)

    def predict(self, images: np.ndarray, rows: Sequence[int]) -> list[dict[str, Any]]:
        """One mapping per row: probabilities, sides, findings, impression, rationale."""
        if not len(rows):
            return []
        seen = self.encode(images, rows)
        texts = write_texts(
            self.model,
            self.tokenizer,
            seen.prefix.to(self.model.device),
            writes_rationale=self.writes_rationale,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        return [
            {
                "probabilities": seen.probabilities[n].tolist() if self.has_label_head else None,
                "sides": side_names(seen.sides[n]) if self.has_label_head and seen.sides is not None else None,
                **texts[n]._asdict(),
            }
            for n in range(len(rows))
        ]


def write_table(path: Path, rows: Iterator[Mapping[str, Any]], keys: Mapping[str, pa.DataType]) -> int:
    """Write predictions as parquet: `keys` (name -> type), then probabilities, sides and the three texts."""
    schema = pa.schema(
        [
            *keys.items(),
            ("probabilities", pa.list_(pa.float64())),
            ("sides", pa.list_(pa.string())),
            *((name, pa.string()) for name in _TEXT_COLUMNS),
        ]
    )
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    pq.write_table(table, path)
    return int(table.num_rows)
