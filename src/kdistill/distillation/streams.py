"""Random numbers that belong to one thing, one step or visit and one study, so that no draw moves another."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Draw(IntEnum):
    """What is drawn; each has random numbers of its own."""

    ON_POLICY = 0
    TOKENS = 1
    CONSISTENCY = 2
    COUNTERFACTUAL = 3
    AUGMENTATION = 4
    VIEW = 5


def generator(what: Draw, seed: int, step: int, study: int = 0) -> np.random.Generator:
    """The random numbers of one thing drawn in one step (for images: in one visit) for one study."""
    return np.random.default_rng([seed, step, study, int(what)])
