"""Does a student's rationale say what the teacher says? Agreement with the teacher is alignment, not truth.

Measured on validation studies, where the teacher has read the reports: micro F1 over (observation, state, side) facts,
so that a flipped polarity or side counts as wrong twice. The controls show how much of it is style: a student taught
with another patient's rationales writes in the same style about the wrong study.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kdistill.audit.config import AuditConfig
from kdistill.audit.material import PREDICTIONS, read_parquet
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction
from kdistill.audit.rows import AuditRow, compared, measured, not_run
from kdistill.errors import InputError
from kdistill.evaluation.bootstrap import Estimate
from kdistill.explain.sentences import stated_facts

Fact = tuple[str, str, str | None]
TEST = "alignment"


def load_readings(rationales_dir: Path) -> dict[str, set[Fact]]:
    """study_id -> the facts that the teacher reads in the report, of the validation split.

    Raises:
        InputError: The file is damaged.
    """
    path = rationales_dir / "readings.jsonl"
    if not path.is_file():
        return {}
    found: dict[str, set[Fact]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            reading = json.loads(line)
            if reading["split"] == "validate":
                found[reading["study_id"]] = facts_of(
                    (item["observation"], item["state"], item["side"]) for item in reading["items"]
                )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("is no reading", where=f"{path.name} line {number}") from error
    return found


def facts_of(stated: Iterable[tuple[str, str, str | None]]) -> set[Fact]:
    """Facts without the side of what is absent."""
    return {(name, state, None if state == "absent" else side) for name, state, side in stated}


def alignment_parts(student_dir: Path, readings: Mapping[str, set[Fact]]) -> Fraction | None:
    """2 TP and 2 TP + FP + FN of each validation study; None where the arm writes no rationale there."""
    rows = [
        r for r in read_parquet(student_dir / PREDICTIONS) if r["split"] == "validate" and r["study_id"] in readings
    ]
    if not any((row["rationale"] or "").strip() for row in rows):
        return None
    said = [facts_of((f.observation, f.state, f.side) for f in stated_facts(row["rationale"] or "")) for row in rows]
    meant = [readings[row["study_id"]] for row in rows]
    shared = [2.0 * len(s & m) for s, m in zip(said, meant, strict=True)]
    total = [float(len(s) + len(m)) for s, m in zip(said, meant, strict=True)]
    return fraction([row["patient_id"] for row in rows], shared, total)


def alignment_rows(
    students: Mapping[tuple[str, int], Path], readings: Mapping[str, set[Fact]], config: AuditConfig
) -> Iterator[AuditRow]:
    """Alignment of every arm with the teacher, then `config.arm` against its controls."""
    arms = sorted({arm for arm, _ in students})
    if not readings:
        yield from (not_run(TEST, arm, "no report of the validation split was read by the teacher") for arm in arms)
        return
    found = {arm: [alignment_parts(path, readings) for (a, _), path in students.items() if a == arm] for arm in arms}
    parts = {arm: [p for p in seeds if p is not None] for arm, seeds in found.items()}
    patients = [patient for seeds in parts.values() for part in seeds for patient in part.patient_ids]
    boot = PatientBootstrap(patients, config.num_bootstrap, config.seed)
    estimates: dict[str, Estimate] = {}
    for arm in arms:
        if len(parts[arm]) < len(found[arm]):
            yield not_run(TEST, arm, "this arm writes no rationale")
            continue
        estimates[arm] = boot.ratio(parts[arm])
        yield measured(
            TEST,
            arm,
            estimates[arm],
            n=len(parts[arm][0].patient_ids),
            reason="micro F1 of (observation, state, side) against the teacher's reading, validation studies",
        )
    yield from _controls(estimates, config, len(readings))


def _controls(estimates: Mapping[str, Estimate], config: AuditConfig, n: int) -> Iterator[AuditRow]:
    for other in config.alignment_controls:
        name = f"{TEST}_vs_{other}"
        if config.arm not in estimates or other not in estimates:
            missing: Sequence[str] = [arm for arm in (config.arm, other) if arm not in estimates]
            yield not_run(name, config.arm, f"no rationales of {' and '.join(missing)}")
            continue
        reason = "if it does not pass, alignment measures style"
        mine, theirs = estimates[config.arm], estimates[other]
        yield compared(name, config.arm, other, mine, theirs, n=n, better="higher", reason=reason)
