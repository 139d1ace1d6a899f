"""What the rationales stage computed once for every student: the teacher's arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdistill.errors import InputError

TARGETS = "targets.safetensors"


@dataclass(frozen=True)
class TeacherTargets:
    """Views on targets.safetensors; token rows of rationale n are token_offsets[n]:token_offsets[n + 1]."""

    token_offsets: np.ndarray
    token_ids: np.ndarray
    topk_ids: np.ndarray
    topk_log_probs: np.ndarray
    bank: np.ndarray
    entry_statement: np.ndarray

    def span(self, rationale: int) -> tuple[int, int]:
        """First token row and the one after the last of a rationale."""
        return int(self.token_offsets[rationale]), int(self.token_offsets[rationale + 1])


def load_teacher_targets(rationales_dir: Path) -> TeacherTargets:
    """Read targets.safetensors.

    Raises:
        InputError: It is missing or damaged.
    """
    path = rationales_dir / TARGETS
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot be read ({type(error).__name__})", where=str(path), remedy="Run the rationales stage again."
        ) from error
    kept = np.concatenate([arrays["topk_logprobs"], arrays["residual_logprob"][:, None]], axis=1)
    return TeacherTargets(
        token_offsets=arrays["token_offsets"],
        token_ids=arrays["token_ids"],
        topk_ids=arrays["topk_ids"],
        topk_log_probs=kept,
        bank=arrays["statement_embeddings"].astype(np.float32),
        entry_statement=arrays["entry_statement"],
    )
