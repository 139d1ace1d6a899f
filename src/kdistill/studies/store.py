"""Read what the studies stage published. Images are memory-mapped: many processes share one copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdistill.errors import InputError
from kdistill.records import CounterfactualPair, Split, Study, Truth, read_jsonl

STUDIES, TRUTH, PAIRS, REJECTED = "studies.jsonl", "truth.jsonl", "pairs.jsonl", "rejected.jsonl"
IMAGES, MASKS, PAIR_IMAGES, PAIR_MASKS = "images.npy", "masks.npy", "pair_images.npy", "pair_masks.npy"


def load_studies(studies_dir: Path, split: Split | None = None) -> list[Study]:
    """The studies in their published order, all or those of one split."""
    return [s for s in read_jsonl(studies_dir / STUDIES, Study) if split is None or s.split == split]


def load_images(studies_dir: Path) -> np.ndarray:
    """uint8 [N, S, S]; `StudyImage.row` indexes it."""
    return _load_array(studies_dir / IMAGES)


def load_truth(studies_dir: Path) -> dict[str, Truth] | None:
    """study_id -> ground truth, or None where the data set knows none. For evaluation and audit only."""
    path = studies_dir / TRUTH
    return {truth.study_id: truth for truth in read_jsonl(path, Truth)} if path.is_file() else None


def load_masks(studies_dir: Path) -> np.ndarray | None:
    """uint8 0/1 [M, S, S]; `Truth.masks` indexes it. For evaluation and audit only."""
    return _load_array(studies_dir / MASKS) if (studies_dir / MASKS).is_file() else None


def load_pairs(studies_dir: Path) -> list[CounterfactualPair]:
    """The counterfactual pairs (empty where the data set has none)."""
    path = studies_dir / PAIRS
    return list(read_jsonl(path, CounterfactualPair)) if path.is_file() else []


def load_pair_images(studies_dir: Path) -> np.ndarray | None:
    """uint8 [.., S, S]; `before_row` and `after_row` index it."""
    return _load_array(studies_dir / PAIR_IMAGES) if (studies_dir / PAIR_IMAGES).is_file() else None


def load_pair_masks(studies_dir: Path) -> np.ndarray | None:
    """uint8 0/1 [.., S, S]; `mask_row` indexes it."""
    return _load_array(studies_dir / PAIR_MASKS) if (studies_dir / PAIR_MASKS).is_file() else None


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path.name, remedy="Run `kdistill verify RUN`, then rerun the stage."
        ) from error
