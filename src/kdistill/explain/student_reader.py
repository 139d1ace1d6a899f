"""A published student behind the `ImageReader` joint: model, tokenizer and thresholds of one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kdistill.artifact import sha256_file
from kdistill.explain.reading import Reading
from kdistill.records import Side
from kdistill.student.images import pixel_values
from kdistill.student.modeling import KDistillStudent, Slot, load_student
from kdistill.student.text import decode, split_report
from kdistill.student.thresholds import load_thresholds
from kdistill.weights import weight_files

SIDES: Final[tuple[Side, ...]] = ("left", "right", "bilateral")


class StudentReader:
    """Reads images with one trained student.

    Args:
        name: What the student is called on pages and in exports.
        model: The student, in evaluation mode.
        tokenizer: Its tokenizer.
        thresholds: One for each observation; None for a student without a trained label head.
        writes_rationale: Whether the arm was trained to write one (else its decoder would be asked for what it never
            saw, and answer with noise).
        max_report_tokens: Longest report, in tokens.
        max_rationale_tokens: Longest rationale, in tokens.
    """

    def __init__(
        self,
        name: str,
        model: KDistillStudent,
        tokenizer: PreTrainedTokenizerBase,
        thresholds: tuple[float, ...] | None,
        *,
        writes_rationale: bool,
        max_report_tokens: int,
        max_rationale_tokens: int,
    ) -> None:
        self.name, self.model, self.tokenizer, self.thresholds = name, model, tokenizer, thresholds
        self._writes_rationale = writes_rationale
        self._limits: dict[Slot, int] = {"report": max_report_tokens, "rationale": max_rationale_tokens}

    @property
    def size_px(self) -> int:
        """Side of the images that the student reads."""
        return int(self.model.config.image_size_px)

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> Sequence[Reading]:
        """Read a batch of canonical images, uint8 [B, S, S]."""
        encoded = self.model.encode(pixel_values(images, self.model.config), observe=self.thresholds is not None)
        reports = self._write(encoded.prefix, "report")
        rationales = self._write(encoded.prefix, "rationale") if self._writes_rationale else [[] for _ in reports]
        texts = [
            (*split_report(self.tokenizer, report), decode(self.tokenizer, rationale))
            for report, rationale in zip(reports, rationales, strict=True)
        ]
        if self.thresholds is None or encoded.observations is None:
            return [Reading(None, None, None, *text) for text in texts]
        out = encoded.observations
        probabilities = out.logits.double().sigmoid().numpy()
        sides = [tuple(SIDES[i] for i in row) for row in out.side_logits.argmax(-1).tolist()]
        maps = square_maps(out.attention.float().numpy())
        return [Reading(p, s, m, *text) for p, s, m, text in zip(probabilities, sides, maps, texts, strict=True)]

    def _write(self, prefix: torch.Tensor, slot: Slot) -> list[list[int]]:
        return self.model.generate_text(prefix=prefix, slot=slot, max_new_tokens=self._limits[slot])


def square_maps(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B, L, P] -> [B, L, G, G] with G = sqrt(P)."""
    grid = round(attention.shape[-1] ** 0.5)
    return attention.reshape(*attention.shape[:-1], grid, grid)


def weights_hash(model_dir: Path) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the first weight file: enough to tell two students apart."""
    return sha256_file(weight_files(model_dir)[0])[:12]


def load_reader(
    model_dir: Path, name: str, *, writes_rationale: bool, max_report_tokens: int, max_rationale_tokens: int
) -> StudentReader:
    """Load a published student's model folder.

    Raises:
        WeightsError: The weights are unsafe or damaged, or the thresholds belong to others.
    """
    thresholds = load_thresholds(model_dir)
    return StudentReader(
        f"{name} ({weights_hash(model_dir)})",
        load_student(model_dir),
        AutoTokenizer.from_pretrained(model_dir, local_files_only=True),
        thresholds.values if thresholds else None,
        writes_rationale=writes_rationale,
        max_report_tokens=max_report_tokens,
        max_rationale_tokens=max_rationale_tokens,
    )
