"""Does a student contradict itself, repeat itself, or compare with a study that it never saw?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.agreement import agreement_parts, facts_in
from kdistill.audit.material import FINDING_COLUMNS, SLOTS, Cases, Said
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction, num_cases, value_of
from kdistill.audit.rows import AuditRow, Rule, measured, not_run
from kdistill.explain.contradictions import (
    Assertion,
    cross_contradictions,
    own_contradictions,
    rationale_assertions,
    report_assertions,
    two_degrees,
)
from kdistill.explain.text_checks import is_degenerate, mentions_prior
from kdistill.labelers.rules import RuleLabeler

AGREEMENT, NEGATION = 0.95, 0.98
BETWEEN_TEXTS = "report_rationale_agreement"
TORN = ("contradiction_report", "contradiction_rationale", "contradiction_report_rationale")
MAX_DEGENERATE, MAX_PRIOR = 0.005, 0.01


def consistency_rows(arm: str, seeds: Sequence[Said], cases: Cases, boot: PatientBootstrap) -> Iterator[AuditRow]:
    """Text against probability and against itself, repetition, prior studies: on the test studies, one arm."""
    patients = [study.patient_id for study in cases.studies]
    for slot in SLOTS:
        tests = (f"{slot}_vs_probability", f"{slot}_negations", f"degenerate_{slot}", f"prior_mentioned_{slot}")
        if any(slot not in said.texts for said in seeds):
            yield from (not_run(test, arm, f"this arm writes no {slot}") for test in tests)
            continue
        yield from _against_head(arm, slot, seeds, patients, boot)
        yield from _text_faults(arm, slot, seeds, cases, patients, boot)
    yield _between_texts(arm, seeds, patients, boot)
    yield from _contradictions(arm, seeds, cases, patients, boot)


def _between_texts(arm: str, seeds: Sequence[Said], patients: Sequence[str], boot: PatientBootstrap) -> AuditRow:
    """Report and rationale of one study come from one decoder: do they state the same facts?"""
    if any(slot not in said.texts for said in seeds for slot in SLOTS):
        return not_run(BETWEEN_TEXTS, arm, "this arm does not write both texts")
    labeler = RuleLabeler()
    found, shifted = [], []
    for said in seeds:
        report, rationale = ([facts_in(text, labeler) for text in said.texts[slot]] for slot in SLOTS)
        found.append(agreement_parts(patients, report, rationale))
        shift = max(1, len(rationale) // 2)
        shifted.append(agreement_parts(patients, report, rationale[-shift:] + rationale[:-shift]))
    return measured(
        BETWEEN_TEXTS,
        arm,
        boot.ratio(found),
        n=num_cases(found),
        baseline=value_of(shifted),
        reason="mean agreement of the facts of report and rationale (soft F1); baseline: another study's rationale",
    )


def _contradictions(
    arm: str, seeds: Sequence[Said], cases: Cases, patients: Sequence[str], boot: PatientBootstrap
) -> Iterator[AuditRow]:
    """Share of texts that state a finding and deny it, alone and one against the other, or give it two degrees.

    No threshold is registered.
    """
    labeler = RuleLabeler()
    report = cache(lambda text: report_assertions(text, labeler))
    rationale = cache(lambda text: rationale_assertions(text, labeler))
    written = [report(study.report) for study in cases.studies if study.report]
    checks = {"contradiction": own_contradictions, "two_degrees": two_degrees}
    for (name, faults), (slot, said_by) in product(checks.items(), zip(SLOTS, (report, rationale), strict=True)):
        if any(slot not in said.texts for said in seeds):
            yield not_run(f"{name}_{slot}", arm, f"this arm writes no {slot}")
            continue
        parts = [fraction(patients, [bool(faults(said_by(text))) for text in said.texts[slot]]) for said in seeds]
        baseline = float(np.mean([bool(faults(said)) for said in written])) if written else None
        yield _fault(f"{name}_{slot}", arm, boot, parts, None, baseline)
    if any(slot not in said.texts for said in seeds for slot in SLOTS):
        yield not_run(TORN[2], arm, "this arm does not write both texts")
        return
    pairs = [
        _torn_pairs([report(t) for t in s.texts["report"]], [rationale(t) for t in s.texts["rationale"]]) for s in seeds
    ]
    yield measured(
        TORN[2],
        arm,
        boot.ratio([fraction(patients, own) for own, _ in pairs]),
        n=len(patients),
        baseline=value_of([fraction(patients, shifted) for _, shifted in pairs]),
        reason="share of studies whose report and rationale contradict each other; baseline: another study's rationale",
    )


def _torn_pairs(
    reports: Sequence[Sequence[Assertion]], rationales: Sequence[Sequence[Assertion]]
) -> tuple[list[bool], list[bool]]:
    """Whether each report and its rationale contradict each other, and each report and another study's rationale."""
    shift = max(1, len(rationales) // 2)
    others = (*rationales[-shift:], *rationales[:-shift])
    own, shifted = (
        [bool(cross_contradictions(a, b)) for a, b in zip(reports, found, strict=True)]
        for found in (rationales, others)
    )
    return own, shifted


def _against_head(
    arm: str, slot: str, seeds: Sequence[Said], patients: Sequence[str], boot: PatientBootstrap
) -> Iterator[AuditRow]:
    tests = (f"{slot}_vs_probability", f"{slot}_negations")
    if any(said.present is None for said in seeds):
        yield from (not_run(test, arm, "this arm has no label head") for test in tests)
        return
    agree, shuffled, denied, base = [], [], [], []
    for said in seeds:
        present, states = _findings(said.present), _findings(said.states[slot])
        stated = np.isin(states, (1, -1))
        agree.append(_mean(patients, stated == present))
        shuffled.append(_mean(patients, np.roll(stated, max(1, len(stated) // 2), axis=0) == present))
        no = states == 0
        denied.append(fraction(patients, (no & ~present).sum(axis=1), no.sum(axis=1)))
        base.append(_mean(patients, ~present))
    rule = slot == "rationale"
    yield measured(
        tests[0],
        arm,
        boot.ratio(agree),
        n=num_cases(agree),
        rule=("at_least", AGREEMENT) if rule else None,
        baseline=value_of(shuffled),
        reason="share of findings for which stated and probability >= threshold agree; baseline: another study's text",
    )
    yield measured(
        tests[1],
        arm,
        boot.ratio(denied),
        n=num_cases(denied),
        rule=("at_least", NEGATION) if rule else None,
        baseline=value_of(base),
        reason="share of denied findings with a probability below its threshold; baseline: share of all findings",
    )


def _text_faults(
    arm: str, slot: str, seeds: Sequence[Said], cases: Cases, patients: Sequence[str], boot: PatientBootstrap
) -> Iterator[AuditRow]:
    reports = [study.report for study in cases.studies if study.report]
    loops = [fraction(patients, [is_degenerate(t) for t in said.texts[slot]]) for said in seeds]
    own = float(np.mean([is_degenerate(t) for t in reports])) if reports else None
    yield _fault(f"degenerate_{slot}", arm, boot, loops, ("at_most", MAX_DEGENERATE), own)
    no_prior = np.asarray([study.prior_study_id is None for study in cases.studies])
    prior = [
        fraction(patients, [mentions_prior(t) is not None for t in said.texts[slot]] & no_prior, no_prior)
        for said in seeds
    ]
    own = float(np.mean([mentions_prior(t) is not None for t in reports])) if reports else None
    yield _fault(f"prior_mentioned_{slot}", arm, boot, prior, ("at_most", MAX_PRIOR), own)


def _fault(
    test: str, arm: str, boot: PatientBootstrap, parts: Sequence[Fraction], rule: Rule, baseline: float | None
) -> AuditRow:
    reason = "share of texts; baseline: the same check on the test studies' own reports"
    return measured(test, arm, boot.ratio(parts), n=num_cases(parts), rule=rule, baseline=baseline, reason=reason)


def _findings(matrix: NDArray | None) -> NDArray:
    assert matrix is not None
    return matrix[:, FINDING_COLUMNS]


def _mean(patients: Sequence[str], matrix: NDArray[np.bool_]) -> Fraction:
    return fraction(patients, matrix.sum(axis=1), np.full(len(matrix), matrix.shape[1]))
