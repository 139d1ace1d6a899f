"""Patient-level bootstrap: how far would a score move with other patients?

Patients are drawn with replacement, with all their studies (Efron & Tibshirani 1993): studies of one patient are not
independent. A resample is a column of integer weights, so that every score is computed for all resamples at once, and
two arms under the same columns are paired. Axes: N studies, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The key is called ci95 everywhere, so the level is a constant and no setting.
CONFIDENCE: Final = 0.95
#: Share of resamples in which a score may be undefined (a class missing) before its interval is withheld.
MAX_UNDEFINED: Final = 0.05


class Estimate(NamedTuple):
    """A score: its value on the data, its values in the resamples [R], and why there is none.

    `value` is None exactly when `reason` explains it; a reason beside a value is a remark (what was left out).
    """

    value: float | None
    samples: NDArray[np.float64] | None = None
    reason: str | None = None


def patient_index(patient_ids: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Number patients 0.. in sorted order: index of each study's patient [N], and the number of patients."""
    names, index = np.unique(np.asarray(patient_ids, dtype=object).astype(str), return_inverse=True)
    return index.astype(np.intp), len(names)


def bootstrap_weights(patient_ids: Sequence[str], num_bootstrap: int, seed: int) -> NDArray[np.float64]:
    """Weights of each study: float64 [N, 1 + R].

    Column 0 is all ones, the data as they are; each further column counts how often the study's patient was drawn.
    """
    index, num_patients = patient_index(patient_ids)
    if num_patients == 0:
        return np.ones((0, 1 + num_bootstrap))
    random = np.random.default_rng(seed)
    draws = random.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=num_bootstrap)
    return np.concatenate([np.ones((len(index), 1)), draws.T[index]], axis=1)


def interval(samples: NDArray[np.float64] | None) -> tuple[float, float] | None:
    """Percentile interval at 95%; None without samples, or where too many resamples leave the score undefined."""
    if samples is None or not len(samples):
        return None
    valid = samples[np.isfinite(samples)]
    if len(valid) < (1 - MAX_UNDEFINED) * len(samples):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(valid, [tail, 1 - tail])
    return float(low), float(high)


def estimate(columns: NDArray[np.float64], reason: str | None = None) -> Estimate:
    """Turn the values under `bootstrap_weights` [1 + R] into an Estimate.

    `reason` explains a missing value, or remarks on a present one.
    """
    if not np.isfinite(columns[0]):
        return Estimate(None, None, reason or "undefined on these studies")
    return Estimate(float(columns[0]), columns[1:], reason)
