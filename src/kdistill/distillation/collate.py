"""Study numbers -> a batch of tensors: text padded per chunk of similar length, teacher arrays gathered ragged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdistill.distillation.targets import TrainingTargets
from kdistill.student.configuration import KDistillConfig
from kdistill.student.images import blank, pixel_values
from kdistill.student.language import IGNORE_INDEX


class StudyNumbers(Dataset):
    """0 .. N-1: the collator holds the arrays, so that nothing is copied for each item."""

    def __init__(self, num_studies: int) -> None:
        self.num_studies = num_studies

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, number: int) -> int:
        return number


class VisitOrder(Sampler[int]):
    """The same order in every arm: permutations of the studies, one a pass, until the visits are used up.

    It depends on the seed and the number of studies alone; a resumed run skips into it.
    """

    def __init__(self, num_studies: int, num_visits: int, seed: int) -> None:
        self.num_studies, self.num_visits, self.seed = num_studies, num_visits, seed

    def __len__(self) -> int:
        return self.num_visits

    def __iter__(self) -> Iterator[int]:
        left, epoch = self.num_visits, 0
        while left > 0:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_studies)[:left]
            yield from order.tolist()
            left, epoch = left - len(order), epoch + 1


@dataclass(frozen=True)
class Collator:
    """Builds batches from the images and targets of a training set.

    A batch holds:
        study_numbers int64 [B]; pixel_values float32 [B, 1, S, S]; label_targets float32 [B, 14] (NaN: not known);
        side_targets int64 [B, 14] (-1: not stated);
        report, rationale: lists of text batches (see TextBatch; the rationale's may hold topk_ids int64 [n, K] and
        topk_log_probs float32 [n, K+1], the residual last, for its n target tokens in row-major order);
        statement_index, region_index int64 [E, 2] (image, observation); statement_rows, region_rows int64 [E].

    Attributes:
        images: uint8 [M, S, S], memory-mapped.
        targets: What to learn.
        config: The student's configuration (pixel normalisation).
        texts_per_chunk: Texts of similar length padded together.
        blank_image: Show mean grey instead of every image.
    """

    images: np.ndarray
    targets: TrainingTargets
    config: KDistillConfig
    texts_per_chunk: int
    blank_image: bool = False

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Build the batch of these studies."""
        rows = np.asarray(numbers)
        targets = self.targets
        images = self.images[targets.image_rows[rows]]
        statement_index, statement_rows = _stated(targets.statements[rows])
        region_index, region_rows = _stated(targets.regions[rows])
        return {
            "study_numbers": torch.from_numpy(rows),
            "pixel_values": pixel_values(blank(images, self.config) if self.blank_image else images, self.config),
            "label_targets": torch.from_numpy(targets.labels[rows]),
            "side_targets": torch.from_numpy(targets.sides[rows]),
            "report": self._texts([targets.reports[row] for row in rows], [None] * len(rows)),
            "rationale": self._texts([targets.rationales[row] for row in rows], [targets.spans[row] for row in rows]),
            "statement_index": statement_index,
            "statement_rows": statement_rows,
            "region_index": region_index,
            "region_rows": region_rows,
        }

    def _texts(
        self, sequences: Sequence[list[int] | None], spans: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, Tensor]]:
        having = sorted((len(s), image) for image, s in enumerate(sequences) if s is not None)
        images = [image for _, image in having]
        size = self.texts_per_chunk
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        return [self._text([(image, sequences[image], spans[image]) for image in chunk]) for chunk in chunks]

    def _text(self, items: Sequence[tuple[int, list[int] | None, tuple[int, int] | None]]) -> dict[str, Tensor]:
        batch = pad([sequence for _, sequence, _ in items if sequence is not None])
        batch["image_index"] = torch.tensor([image for image, _, _ in items])
        spans = [span for _, _, span in items if span is not None]
        if self.targets.teacher is not None and len(spans) == len(items):
            rows = np.concatenate([np.arange(start, stop) for start, stop in spans])
            teacher = self.targets.teacher
            batch["topk_ids"] = torch.from_numpy(teacher.topk_ids[rows].astype(np.int64))
            batch["topk_log_probs"] = torch.from_numpy(teacher.topk_log_probs[rows].astype(np.float32))
        return batch


def pad(sequences: Sequence[list[int]]) -> dict[str, Tensor]:
    """Token sequences s -> inputs s[:-1] and the tokens that follow them s[1:], padded on the right.

    Returns:
        input_ids int64 [N, T] (0 in the padding) and next_tokens int64 [N, T] (-100 in the padding).
    """
    longest = max(len(sequence) for sequence in sequences) - 1
    input_ids = np.zeros((len(sequences), longest), dtype=np.int64)
    next_tokens = np.full((len(sequences), longest), IGNORE_INDEX, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence) - 1] = sequence[:-1]
        next_tokens[row, : len(sequence) - 1] = sequence[1:]
    return {"input_ids": torch.from_numpy(input_ids), "next_tokens": torch.from_numpy(next_tokens)}


def _stated(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    index = np.argwhere(rows >= 0)
    return torch.from_numpy(index), torch.from_numpy(rows[rows >= 0])
