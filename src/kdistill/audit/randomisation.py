"""Sanity check of maps by weight randomisation (Adebayo et al. 2018, arXiv:1810.03292).

A map that stays the same when the weights that made it are replaced by random ones shows the image, not the model.
Similarity is the Spearman correlation over patches. The yardstick: maps of one observation in two different patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from kdistill.audit.localisation import rank_correlation
from kdistill.audit.maps import MapCases, attention_maps
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction, value_of
from kdistill.audit.rows import AuditRow, measured
from kdistill.student.modeling import KDistillStudent

#: What is replaced: everything that makes a map, or one of its two parts alone.
PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("weight_randomisation", ("vision", "queries")),
    ("weight_randomisation_vision", ("vision",)),
    ("weight_randomisation_queries", ("queries",)),
)


def randomised(model: KDistillStudent, children: Sequence[str], seed: int) -> KDistillStudent:
    """A copy whose named children ("vision", "queries") hold fresh random weights, all else the trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copy = KDistillStudent(model.config)
    trained = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(f"{c}." for c in children))
    }
    copy.load_state_dict(trained, strict=False)
    return copy.eval()


def randomisation_rows(
    arm: str, models: Sequence[KDistillStudent], cases: MapCases, boot: PatientBootstrap, seed: int
) -> Iterator[AuditRow]:
    """Similarity of trained and randomised maps for one arm, every seed's model."""
    trained = [_maps(model, cases) for model in models]
    strangers = value_of([_between_patients(maps, cases) for maps in trained])
    for test, children in PARTS:
        parts = [
            fraction(cases.patient_ids, rank_correlation(maps, _maps(randomised(model, children, seed), cases)))
            for model, maps in zip(models, trained, strict=True)
        ]
        found = boot.ratio(parts)
        rule = None if strangers is None or test != PARTS[0][0] else ("at_most", strangers)
        reason = "rank correlation with the trained map; baseline: between two patients' maps of one observation"
        yield measured(test, arm, found, n=len(cases.patient_ids), rule=rule, baseline=strangers, reason=reason)  # type: ignore[arg-type]


def _maps(model: KDistillStudent, cases: MapCases) -> NDArray[np.float64]:
    return attention_maps(model, cases.images)[cases.image, cases.column]


def _between_patients(maps: NDArray, cases: MapCases) -> Fraction:
    """Each case against the next one of the same observation in another patient (left out where there is none)."""
    first, second = [], []
    for column in np.unique(cases.column):
        rows = np.flatnonzero(cases.column == column)
        for row, other in zip(rows, np.roll(rows, -1), strict=True):
            if cases.patient_ids[row] != cases.patient_ids[other]:
                first.append(row)
                second.append(other)
    patients = [cases.patient_ids[row] for row in first]
    return fraction(patients, rank_correlation(maps[first], maps[second]))
