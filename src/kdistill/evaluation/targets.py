"""Label states -> what a score compares: a 0/1 matrix and a matrix of what is known.

Axes: N studies, L = 14 observations in the order of OBSERVATIONS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.observations import INDEX, NUM_OBSERVATIONS, OBSERVATIONS, LabelState, UncertainPolicy

#: Codes beside 1, 0 and -1. BLANK: the report does not mention it. UNKNOWN: the reference has nothing to say about it.
BLANK: Final = -2
UNKNOWN: Final = -3


class Targets(NamedTuple):
    """Reference of a score. `positive` bool [N, L]; `known` bool [N, L]: False entries are left out of every score."""

    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def take(self, rows: NDArray[np.intp]) -> Targets:
        """The targets of some studies."""
        return Targets(self.positive[rows], self.known[rows])


def state_matrix(labels: Sequence[Mapping[str, LabelState]]) -> NDArray[np.int8]:
    """Code labels as int8 [N, L]: 1, 0, -1, BLANK for None, UNKNOWN for a key that is absent.

    An absent key is a column without a sound mapping to the observation; it must never turn into a negative.
    """
    states = np.full((len(labels), NUM_OBSERVATIONS), UNKNOWN, dtype=np.int8)
    for row, study in enumerate(labels):
        for name, state in study.items():
            states[row, INDEX[name]] = BLANK if state is None else state
    return states


def mask_silent_columns(states: NDArray[np.int8], sources: Sequence[str]) -> tuple[NDArray[np.int8], int]:
    """Mark as UNKNOWN each observation for which no study of a source states anything.

    A data set that never fills a column does not have it: reading its blanks as negatives would let a model score by
    telling the data sets apart.

    Returns:
        The states, and how many (source, observation) columns were marked that had held blanks.
    """
    result, marked = states.copy(), 0
    for source in sorted(set(sources)):
        rows = np.flatnonzero(np.asarray(sources) == source)
        block = states[rows]
        silent = (block < -1).all(axis=0) & (block == BLANK).any(axis=0)
        result[np.ix_(rows, np.flatnonzero(silent))] = UNKNOWN
        marked += int(silent.sum())
    return result, marked


def binarise(states: NDArray[np.int8], uncertain: UncertainPolicy) -> Targets:
    """Apply an uncertain policy to states [N, L] (the matrix form of `observations.as_binary`).

    "positive": -1 counts 1, blank counts 0. "negative": both count 0. "masked": both are left out.
    """
    known = states != UNKNOWN
    match uncertain:
        case "positive":
            return Targets((states == 1) | (states == -1), known)
        case "negative":
            return Targets(states == 1, known)
        case "masked":
            return Targets(states == 1, (states == 1) | (states == 0))


def columns_of(names: Sequence[str]) -> NDArray[np.intp]:
    """Indices of observations, in the order of OBSERVATIONS (so that the order of `names` cannot matter)."""
    return np.asarray([index for index, name in enumerate(OBSERVATIONS) if name in set(names)], dtype=np.intp)
