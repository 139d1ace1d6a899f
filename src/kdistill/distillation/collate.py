"""Study numbers -> a batch of tensors: text padded per chunk of similar length, teacher arrays gathered ragged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdistill.distillation.augment import Augmenter
from kdistill.distillation.regions import RegionMasks
from kdistill.distillation.targets import TrainingTargets
from kdistill.distillation.texts import Joined
from kdistill.distillation.views import FrontalViews
from kdistill.student.configuration import KDistillConfig
from kdistill.student.images import blank, pixel_values
from kdistill.student.language import IGNORE_INDEX


class Visit(NamedTuple):
    """One look at a training study: its number, whether its texts are decoded too, and the how manieth of the run."""

    study: int
    with_texts: bool = True
    number: int = 0


class Visits(Dataset):
    """Hands each visit on: the collator holds the arrays, so that nothing is copied for each item."""

    def __init__(self, num_studies: int) -> None:
        self.num_studies = num_studies

    def __len__(self) -> int:
        return self.num_studies

    def __getitem__(self, visit: Visit) -> Visit:
        return visit


class VisitOrder(Sampler[Visit]):
    """The same order in every arm: permutations of the studies, one a pass, until the visits are used up.

    It depends on the seed and the number of studies alone; a resumed run skips into it. Of `text_every` visits one
    decodes texts, counted over the whole run, so that no cut of a batch changes which.
    """

    def __init__(self, num_studies: int, num_visits: int, seed: int, text_every: int = 1) -> None:
        self.num_studies, self.num_visits, self.seed, self.text_every = num_studies, num_visits, seed, text_every

    def __len__(self) -> int:
        return self.num_visits

    def __iter__(self) -> Iterator[Visit]:
        done, epoch = 0, 0
        while done < self.num_visits:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_studies)[: self.num_visits - done]
            yield from (Visit(n, i % self.text_every == 0, i) for i, n in enumerate(order.tolist(), start=done))
            done, epoch = done + len(order), epoch + 1


@dataclass(frozen=True)
class Collator:
    """Builds batches from the images and targets of a training set.

    A batch holds:
        study_numbers int64 [B]; pixel_values float32 [B, 1, S, S]; label_targets float32 [B, 14] (NaN: not known);
        label_blanks bool [B, 14] (negative because not mentioned); side_targets int64 [B, 14] (-1: not stated);
        report, rationale: lists of text batches (see TextBatch; the rationale's may hold topk_ids int64 [n, K] and
        topk_log_probs float32 [n, K+1], the residual last, for its n target tokens in row-major order);
        joined: text batches that hold both; is_rationale bool [n] says which target tokens are the rationale's, and
        is_taught bool [n] which ones topk_ids and topk_log_probs are for;
        statement_index, region_index int64 [E, 2] (image, observation); statement_rows, region_rows int64 [E];
        region_masks float32 [E, P], the share of each patch inside the region, where the where term is on (a region
        that an augmented image has lost is left out of all three).

    Attributes:
        images: uint8 [M, S, S], memory-mapped.
        targets: What to learn.
        config: The student's configuration (pixel normalisation).
        texts_per_chunk: Texts of similar length padded together.
        blank_image: Show mean grey instead of every image.
        region_masks: Draws the regions of the where term; None without it.
        augment: Changes the images, and the regions with them; None shows them as they are.
        views: Chooses among a study's frontal images; None shows the first.
    """

    images: np.ndarray
    targets: TrainingTargets
    config: KDistillConfig
    texts_per_chunk: int
    blank_image: bool = False
    region_masks: RegionMasks | None = None
    augment: Augmenter | None = None
    views: FrontalViews | None = None

    def __call__(self, visits: Sequence[Visit]) -> dict[str, Any]:
        """Build the batch of these visits."""
        rows = np.array([visit.study for visit in visits])
        targets = self.targets
        films, images, forward = self._shown(visits)
        statement_index, statement_rows = _stated(targets.statements[rows])
        return {
            "study_numbers": torch.from_numpy(rows),
            "pixel_values": pixel_values(blank(images, self.config) if self.blank_image else images, self.config),
            "label_targets": torch.from_numpy(targets.labels[rows]),
            "label_blanks": torch.from_numpy(targets.blanks[rows]),
            "side_targets": torch.from_numpy(targets.sides[rows]),
            "report": self._texts(_decoded(targets.reports, visits), [None] * len(rows)),
            "rationale": self._texts(_decoded(targets.rationales, visits), _decoded(targets.spans, visits)),
            "joined": self._joined(_decoded(targets.joined, visits)),
            "statement_index": statement_index,
            "statement_rows": statement_rows,
            **self._regions(rows, films, forward),
        }

    def _shown(self, visits: Sequence[Visit]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Films int64 [B] as `region_masks` numbers them, images uint8 [B, S, S], and where their points went."""
        studies, numbers = [visit.study for visit in visits], [visit.number for visit in visits]
        if self.views is None:
            films, image_rows = np.array(studies), self.targets.image_rows
        else:
            films, image_rows = self.views(studies, numbers), self.views.image_rows
        images = self.images[image_rows[films]]
        if self.augment is None:
            return films, images, None
        return films, *self.augment(images, studies, numbers)

    def _regions(self, rows: np.ndarray, films: np.ndarray, forward: np.ndarray | None) -> dict[str, Tensor]:
        index, regions = _stated(self.targets.regions[rows])
        found = {"region_index": index, "region_rows": regions}
        if self.region_masks is None:
            return found
        image = index[:, 0].numpy()
        if forward is None:
            return {**found, "region_masks": self.region_masks(films[image], regions.numpy())}
        masks, visible = self.region_masks.moved(films[image], regions.numpy(), forward[image])
        return {name: part[visible] for name, part in {**found, "region_masks": masks}.items()}

    def _texts(
        self, sequences: Sequence[list[int] | None], spans: Sequence[tuple[int, int] | None]
    ) -> list[dict[str, Tensor]]:
        return [
            self._text([(image, sequences[image], spans[image]) for image in chunk])
            for chunk in self._chunks(sequences)
        ]

    def _chunks(self, sequences: Sequence[list[int] | None]) -> list[list[int]]:
        """Images that have a text, by its length, so many together."""
        having = sorted((len(s), image) for image, s in enumerate(sequences) if s is not None)
        size = self.texts_per_chunk
        return [[image for _, image in having[start : start + size]] for start in range(0, len(having), size)]

    def _joined(self, texts: Sequence[Joined | None]) -> list[dict[str, Tensor]]:
        batches = []
        for chunk in self._chunks([text.tokens if text else None for text in texts]):
            members = [text for image in chunk if (text := texts[image]) is not None]
            batch = self._text([(image, text.tokens, text.span) for image, text in zip(chunk, members, strict=True)])
            batch["is_rationale"] = torch.from_numpy(np.concatenate([text.is_rationale() for text in members]))
            batch["is_taught"] = torch.from_numpy(np.concatenate([text.is_taught() for text in members]))
            batches.append(batch)
        return batches

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


def _decoded(texts: Sequence[Any], visits: Sequence[Visit]) -> list[Any]:
    return [texts[visit.study] if visit.with_texts else None for visit in visits]


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
