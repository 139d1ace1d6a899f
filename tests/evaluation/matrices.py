"""Random label matrices and scores, with the traps in them: ties, unknown labels, a rare observation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    positive: np.ndarray
    scores: np.ndarray
    known: np.ndarray
    patients: list[str]


def draw_case(seed: int = 0, num: int = 120, observations: int = 14) -> Case:
    random = np.random.default_rng(seed)
    positive = random.random((num, observations)) < np.linspace(0.1, 0.5, observations)
    scores = np.round(np.clip(random.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 1)  # one decimal: many ties
    known = random.random((num, observations)) < 0.85
    return Case(positive, scores, known, [f"p{row // 3}" for row in range(num)])
