"""Another patient's image, a blank one, noise: an explanation that depends on the image must then stop fitting.

Agreement is the micro F1 (U+, 13 findings) between what the explanation states and what is known of the study. Its drop
is measured against the explanation of the study's own image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.material import FINDING_COLUMNS, Cases, Said, TextReader
from kdistill.audit.resampling import Fraction, PatientBootstrap, difference, fraction, value_of
from kdistill.audit.rows import AuditRow, measured, not_run
from kdistill.explain.reading import ImageReader

MIN_DROP = 0.30
TESTS = ("swap_image", "blank_image", "noise_image")
REASON = "drop of the explanation's agreement with the study; baseline: the agreement before the drop"


class Known(NamedTuple):
    """What is known of the N test studies.

    Attributes:
        findings: bool [N, L], what is there.
        studies: bool [N], of which studies anything is known: one without truth and report has no findings to fit.
    """

    findings: NDArray[np.bool_]
    studies: NDArray[np.bool_]


def explanation_slot(seeds: Sequence[Said]) -> str | None:
    """The rationale where the arm writes one, else its report."""
    for slot in ("rationale", "report"):
        if all(slot in said.texts for said in seeds):
            return slot
    return None


def swap_row(arm: str, seeds: Sequence[Said], known: Known | None, cases: Cases, boot: PatientBootstrap) -> AuditRow:
    """Each study gets the explanation of another patient's image.

    Args:
        arm: Its name.
        seeds: What each seed said about the test studies.
        known: Findings of the test studies; None where nothing is known of any.
        cases: The studies.
        boot: Patient resamples.
    """
    slot, patients = explanation_slot(seeds), [study.patient_id for study in cases.studies]
    if slot is None or known is None or len(set(patients)) < 2:
        return not_run("swap_image", arm, "no text, no truth, or a single patient")
    order = other_patient(patients)
    own = [agreement(patients, said.stated(slot), known) for said in seeds]
    swapped = [agreement(patients, said.stated(slot)[order], known) for said in seeds]
    return _drop("swap_image", arm, own, swapped, known, boot, f"{REASON}; {slot}")


def constant_rows(
    arm: str,
    said: Said,
    reader: ImageReader,
    known: Known | None,
    cases: Cases,
    boot: PatientBootstrap,
    texts: TextReader,
    *,
    mean_grey: int,
    num_noise: int,
    seed: int,
) -> Iterator[AuditRow]:
    """A blank image and noise images are explained (first seed) and stand in for every study's own explanation."""
    slot, patients = explanation_slot([said]), [study.patient_id for study in cases.studies]
    if slot is None or known is None or not patients:
        yield from (not_run(test, arm, "no text or no truth") for test in TESTS[1:])
        return
    size = reader.size_px
    blank = np.full((1, size, size), mean_grey, dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(0, 256, (num_noise, size, size)).astype(np.uint8)
    readings = reader.read(np.concatenate([blank, noise]))
    states = texts.states([r.rationale if slot == "rationale" else r.report for r in readings])
    stated = np.isin(states, (1, -1))
    own = [agreement(patients, said.stated(slot), known)]
    for test, shown in (("blank_image", stated[:1]), ("noise_image", stated[1:])):
        rows = np.arange(len(patients)) % len(shown)
        instead = [agreement(patients, shown[rows], known)]
        yield _drop(test, arm, own, instead, known, boot, f"{REASON}; {slot}; first seed only, for time")


def other_patient(patient_ids: Sequence[str]) -> NDArray[np.intp]:
    """For each study the row of a study of another patient (rotation of the patient-sorted order by half)."""
    order = np.argsort(np.asarray(patient_ids, dtype=object).astype(str), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    partner = order[(rank + max(1, len(order) // 2)) % len(order)]
    for row, other in enumerate(partner):
        if patient_ids[row] == patient_ids[other]:
            partner[row] = next(i for i in order if patient_ids[i] != patient_ids[row])
    return partner


def agreement(patients: Sequence[str], stated: NDArray[np.bool_], known: Known) -> Fraction:
    """Micro F1 over the 13 findings, as 2 TP over 2 TP + FP + FN of each study of which something is known."""
    said, there = stated[:, FINDING_COLUMNS], known.findings[:, FINDING_COLUMNS]
    shared, total = 2.0 * (said & there).sum(axis=1), 1.0 * said.sum(axis=1) + there.sum(axis=1)
    return fraction(patients, shared * known.studies, total * known.studies)


def _drop(
    test: str,
    arm: str,
    own: Sequence[Fraction],
    instead: Sequence[Fraction],
    known: Known,
    boot: PatientBootstrap,
    reason: str,
) -> AuditRow:
    found = difference(boot.ratio(own), boot.ratio(instead))
    n = int(known.studies.sum())
    return measured(test, arm, found, n=n, rule=("at_least", MIN_DROP), baseline=value_of(own), reason=reason)
