"""The maps of a student: its own evidence maps, and those that saliency methods find for its label head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdistill.audit.material import Cases
from kdistill.audit.saliency import BATCH, ActivationMap, Score, integrated_gradients, normalise, to_grid
from kdistill.explain.student_reader import square_maps
from kdistill.observations import FINDINGS, INDEX
from kdistill.student.images import pixel_values
from kdistill.student.modeling import KDistillStudent


@dataclass(frozen=True)
class MapCases:
    """The (study, observation) cases whose maps are scored: all findings with a mask of some test studies.

    Attributes:
        images: uint8 [M, S, S], the sampled studies.
        image: Row in `images` of each case [N].
        column: Observation of each case [N].
        masks: uint8 [N, S, S].
        patient_ids: Patient of each case.
    """

    images: NDArray[np.uint8]
    image: NDArray[np.intp]
    column: NDArray[np.intp]
    masks: NDArray[np.uint8]
    patient_ids: tuple[str, ...]

    def take(self, num_images: int) -> MapCases:
        """The cases of the first `num_images` images."""
        rows = np.flatnonzero(self.image < num_images)
        patients = tuple(self.patient_ids[row] for row in rows)
        return MapCases(self.images[:num_images], self.image[rows], self.column[rows], self.masks[rows], patients)


def map_cases(cases: Cases, images: NDArray[np.uint8], masks: NDArray[np.uint8], num_studies: int) -> MapCases:
    """Sample test studies that have a mask, evenly spaced in their published order."""
    masked = [s for s in cases.studies if any(o in FINDINGS for o in _masks_of(cases, s.study_id))]
    step = max(1, len(masked) // num_studies)
    chosen = masked[::step][:num_studies]
    found = [
        (index, INDEX[name], row, study.patient_id)
        for index, study in enumerate(chosen)
        for name, row in _masks_of(cases, study.study_id).items()
        if name in FINDINGS
    ]
    return MapCases(
        np.asarray(images[[s.images[0].row for s in chosen]]),
        np.asarray([index for index, *_ in found], dtype=np.intp),
        np.asarray([column for _, column, *_ in found], dtype=np.intp),
        np.asarray(masks[[row for *_, row, _ in found]]),
        tuple(patient for *_, patient in found),
    )


def _masks_of(cases: Cases, study_id: str) -> dict[str, int]:
    return cases.truth[study_id].masks if study_id in cases.truth else {}


@torch.no_grad()
def attention_maps(model: KDistillStudent, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Evidence maps of images, [M, L, G, G]."""
    parts = []
    for start in range(0, len(images), 4 * BATCH):
        encoded = model.encode(pixel_values(images[start : start + 4 * BATCH], model.config))
        assert encoded.observations is not None
        parts.append(square_maps(encoded.observations.attention.float().numpy()))
    return np.concatenate(parts).astype(np.float64)


def activation_maps(model: KDistillStudent, cases: MapCases, method: ActivationMap) -> NDArray[np.float64]:
    """`grad_cam` or `hires_cam` of each case's logit with respect to the last feature maps, [N, G, G]."""
    maps: dict[int, NDArray] = {}
    for rows in _batches(cases):
        with torch.no_grad():
            features = model.vision(pixel_values(cases.images[cases.image[rows]], model.config))
        found = method(features, _feature_score(model, int(cases.column[rows[0]]))).numpy()
        maps.update(zip(rows, found, strict=True))
    return normalise(np.stack([maps[row] for row in range(len(cases.image))]))


def _feature_score(model: KDistillStudent, column: int) -> Score:
    return lambda features: model.queries(model.queries.patches(features)).logits[:, column]


def gradient_maps(model: KDistillStudent, cases: MapCases, grid: int, steps: int) -> NDArray[np.float64]:
    """Integrated gradients of each case's logit from mean grey, summed on the patch grid, [N, G, G]."""
    maps: dict[int, NDArray] = {}
    for rows in _batches(cases):
        values = pixel_values(cases.images[cases.image[rows]], model.config)
        score = _image_score(model, int(cases.column[rows[0]]))
        found = integrated_gradients(values, torch.zeros_like(values), score, steps)
        maps.update(zip(rows, to_grid(found, grid), strict=True))
    return np.stack([maps[row] for row in range(len(cases.image))])


def _image_score(model: KDistillStudent, column: int) -> Score:
    from_features = _feature_score(model, column)
    return lambda values: from_features(model.vision(values))


def _batches(cases: MapCases) -> list[Sequence[int]]:
    """Rows of one observation at a time, in batches: one backward pass serves a whole batch."""
    batches: list[Sequence[int]] = []
    for column in np.unique(cases.column):
        rows = np.flatnonzero(cases.column == column).tolist()
        batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return batches
