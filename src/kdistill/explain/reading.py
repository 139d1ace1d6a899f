"""What a student says about images, as plain arrays and text: the one joint between explanations and a model class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdistill.records import Side


@dataclass(frozen=True)
class Reading:
    """What a student says about one image. L = 14 observations, G x G patches.

    Attributes:
        probabilities: float64 [L], or None for a student without a label head.
        sides: One for each observation, or None for a student without a label head.
        evidence_maps: float32 [L, G, G], each summing to 1, or None for a student without observation queries.
        findings: Generated text.
        impression: Generated text.
        rationale: Generated text ("" for an arm that was trained without).
    """

    probabilities: NDArray[np.float64] | None
    sides: tuple[Side | None, ...] | None
    evidence_maps: NDArray[np.float32] | None
    findings: str
    impression: str
    rationale: str

    @property
    def report(self) -> str:
        """Findings and impression, the text that a labeler reads."""
        return "\n".join(part for part in (self.findings, self.impression) if part)


class ImageReader(Protocol):
    """Anything that reads canonical images: uint8 [B, S, S], patient's right on the image's left."""

    @property
    def name(self) -> str:
        """Arm, seed and a hash of the weights."""

    @property
    def size_px(self) -> int:
        """Side of the images that it reads."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The probability at which each observation is called present; None without a label head."""

    def read(self, images: NDArray[np.uint8]) -> Sequence[Reading]:
        """Read a batch of images."""
