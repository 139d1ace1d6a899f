"""Is a finding said on the side on which it lies? Against truth, on the test studies.

No label says it: F1 counts an effusion on the wrong side as found. Left for right is the error that harms patients, so
it is counted apart from "left" for "both sides".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from kdistill.audit.material import ALL_SLOTS, Cases, Said, TextReader, named_sides
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction, num_cases, value_of
from kdistill.audit.rows import AuditRow, measured, not_run
from kdistill.records import Side

TESTS: Final = tuple(f"{test}_{slot}" for slot in ALL_SLOTS for test in ("side_accuracy", "wrong_side"))
_OPPOSITE: Final[dict[Side, Side]] = {"left": "right", "right": "left"}


class _Case(NamedTuple):
    """A finding that is there, of known side, and the side that a slot names for it."""

    patient_id: str
    observation: str
    truth: Side
    named: Side


def laterality_rows(
    arm: str, seeds: Sequence[Said], cases: Cases, boot: PatientBootstrap, reader: TextReader
) -> Iterator[AuditRow]:
    """Right and opposite sides among the findings that are there and are named with a side, one arm.

    `side_accuracy_<slot>`: the share on the right side (left, right or both). `wrong_side_<slot>`: the share said left
    that is right alone, or the reverse. Baseline of both: the sides of the same findings in other studies.

    Args:
        arm: Its name.
        seeds: What each seed's student said of the test studies, in the order of `cases.studies`.
        cases: Studies and truth.
        boot: Resamples of the patients.
        reader: Reads sides from texts.
    """
    if not any(truth.sides for truth in cases.truth.values()):
        yield from (not_run(test, arm, "the data give no side of a finding") for test in TESTS)
        return
    for slot in ALL_SLOTS:
        tests = (f"side_accuracy_{slot}", f"wrong_side_{slot}")
        if why := _missing(slot, seeds):
            yield from (not_run(test, arm, why) for test in tests)
            continue
        found = [_named(said, slot, cases, reader) for said in seeds]
        others = [_of_other_studies(named) for named in found]
        for test, (share, reason) in zip(tests, _SHARES, strict=True):
            parts = [share(named) for named in found]
            elsewhere = value_of([share(named) for named in others])
            yield measured(test, arm, boot.ratio(parts), n=num_cases(parts), baseline=elsewhere, reason=reason)


def right_sides(said: Said, slot: str, cases: Cases, reader: TextReader) -> Fraction:
    """What `side_accuracy_<slot>` is the ratio of, for one seed; `slot` must be written (see `Said`)."""
    return _right(_named(said, slot, cases, reader))


def _missing(slot: str, seeds: Sequence[Said]) -> str | None:
    if slot == "head":
        return "this arm predicts no side" if any(said.head_sides is None for said in seeds) else None
    return f"this arm writes no {slot}" if any(slot not in said.texts for said in seeds) else None


def _named(said: Said, slot: str, cases: Cases, reader: TextReader) -> list[_Case]:
    found = []
    for row, study in enumerate(cases.studies):
        if study.study_id in cases.truth:
            truth, named = cases.truth[study.study_id].sides, named_sides(said, slot, row, reader)
            found += [_Case(study.patient_id, o, truth[o], named[o]) for o in truth if o in named]
    return found


def _of_other_studies(found: Sequence[_Case]) -> list[_Case]:
    """Each case with the true side of another one of the same observation."""
    shifted: list[_Case] = []
    for observation in dict.fromkeys(case.observation for case in found):
        own = [case for case in found if case.observation == observation]
        truth = np.roll([case.truth for case in own], max(1, len(own) // 2))
        shifted += [case._replace(truth=side) for case, side in zip(own, truth.tolist(), strict=True)]
    return shifted


def _right(found: Sequence[_Case]) -> Fraction:
    return fraction([case.patient_id for case in found], [case.named == case.truth for case in found])


def _opposite(found: Sequence[_Case]) -> Fraction:
    return fraction([case.patient_id for case in found], [case.named == _OPPOSITE.get(case.truth) for case in found])


#: What is counted, and what the reader must know of it, in the order of a slot's tests.
_SHARES: Final = (
    (_right, "share of findings named with a side that is theirs; baseline: the side of another study's"),
    (_opposite, "share said left that is right alone, or the reverse; lower is better; baseline: another study's"),
)
