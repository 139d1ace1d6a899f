"""Does a student's rationale say what the teacher says? Agreement with the teacher is alignment, not truth.

Measured on validation studies, where the teacher has read the reports: the agreement (`audit.agreement`) of what the
rationale states with what the teacher would state of the report, so that a flipped polarity, side, zone or severity
costs. The controls show how much of it is style: a student taught with another patient's rationales writes in the same
style about the wrong study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kdistill.audit.agreement import Facts, agreement_parts, facts_in
from kdistill.audit.config import AuditConfig
from kdistill.audit.material import PREDICTIONS, read_parquet
from kdistill.audit.resampling import Fraction, PatientBootstrap, num_cases
from kdistill.audit.rows import AuditRow, compared, measured, not_run
from kdistill.errors import InputError
from kdistill.evaluation.bootstrap import Estimate
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING
from kdistill.teacher.reading import Reading
from kdistill.teacher.requests import requests_for

TEST = "alignment"


class _Aligned(NamedTuple):
    estimate: Estimate
    n: int


def load_readings(rationales_dir: Path) -> dict[str, Facts]:
    """study_id -> the facts that the teacher would state in a rationale, of the validation split.

    Raises:
        InputError: The file is damaged.
    """
    path = rationales_dir / "readings.jsonl"
    if not path.is_file():
        return {}
    found: dict[str, Facts] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            fields = json.loads(line)
            study_id, split = fields.pop("study_id"), fields.pop("split")
            if split == "validate":
                found[study_id] = facts_of(Reading.model_validate(fields))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError("is no reading", where=f"{path.name} line {number}") from error
    return found


def facts_of(reading: Reading) -> Facts:
    """Observation -> the fact that a writer would be asked to explain: what the rationale of this reading states."""
    facts = [request.fact for request in requests_for(reading.labels, reading.items)]
    return {fact.observation: fact for fact in facts if fact.observation != NO_FINDING}


def alignment_parts(student_dir: Path, readings: Mapping[str, Facts], read: Callable[[str], Facts]) -> Fraction | None:
    """Agreement of each validation study's rationale with the reading; None where the arm writes no rationale there.

    A study on which neither states anything does not count.

    Args:
        student_dir: A published student.
        readings: See `load_readings`.
        read: What a text states.
    """
    rows = [
        r for r in read_parquet(student_dir / PREDICTIONS) if r["split"] == "validate" and r["study_id"] in readings
    ]
    texts = [row["rationale"] or "" for row in rows]
    if not any(text.strip() for text in texts):
        return None
    meant = [readings[row["study_id"]] for row in rows]
    return agreement_parts([row["patient_id"] for row in rows], [read(text) for text in texts], meant)


def alignment_rows(
    students: Mapping[tuple[str, int], Path], readings: Mapping[str, Facts], config: AuditConfig
) -> Iterator[AuditRow]:
    """Alignment of every arm with the teacher, then `config.arm` against its controls."""
    arms = sorted({arm for arm, _ in students})
    if not readings:
        yield from (not_run(TEST, arm, "no report of the validation split was read by the teacher") for arm in arms)
        return
    labeler = RuleLabeler()
    read = cache(lambda text: facts_in(text, labeler))  # normal films share their text
    found = {
        arm: [alignment_parts(path, readings, read) for (a, _), path in students.items() if a == arm] for arm in arms
    }
    parts = {arm: [p for p in seeds if p is not None] for arm, seeds in found.items()}
    patients = [patient for seeds in parts.values() for part in seeds for patient in part.patient_ids]
    boot = PatientBootstrap(patients, config.num_bootstrap, config.seed)
    aligned: dict[str, _Aligned] = {}
    for arm in arms:
        if len(parts[arm]) < len(found[arm]):
            yield not_run(TEST, arm, "this arm writes no rationale")
            continue
        estimate, n = aligned[arm] = _Aligned(boot.ratio(parts[arm]), num_cases(parts[arm]))
        reason = "mean agreement of the rationale's facts with the teacher's reading (soft F1), validation studies"
        yield measured(TEST, arm, estimate, n=n, reason=reason)
    yield from _controls(aligned, config)


def _controls(aligned: Mapping[str, _Aligned], config: AuditConfig) -> Iterator[AuditRow]:
    for other in config.alignment_controls:
        name = f"{TEST}_vs_{other}"
        if config.arm not in aligned or other not in aligned:
            missing: Sequence[str] = [arm for arm in (config.arm, other) if arm not in aligned]
            yield not_run(name, config.arm, f"no rationales of {' and '.join(missing)}")
            continue
        (mine, n), theirs = aligned[config.arm], aligned[other].estimate
        reason = "if it does not pass, alignment measures style"
        yield compared(name, config.arm, other, mine, theirs, n=n, better="higher", reason=reason)
