"""One thing in the image is changed: does what the student says change with it, and nothing else?

Pairs come from the studies stage (for the phantom: the same patient rendered again, noise and all). "Reported" counts
uncertain statements as positive (U+). The baseline of a change is how often the same change happens by itself, on
findings that the pair leaves as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.material import (
    ALL_SLOTS,
    Cases,
    PairSaid,
    Said,
    TextReader,
    named_sides,
    targets_of,
    unchanged_truth,
)
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction, value_of
from kdistill.audit.rows import AuditRow, measured, not_run
from kdistill.observations import NUM_OBSERVATIONS, OBSERVATIONS

NECESSITY, STABILITY, FLIP = 0.90, 0.95, 0.95
TESTS = (
    *(f"counterfactual_necessity_{slot}" for slot in (*ALL_SLOTS, "probability")),
    *(f"counterfactual_sufficiency_{slot}" for slot in ALL_SLOTS),
    *(f"off_target_stability_{slot}" for slot in ALL_SLOTS),
    *(f"side_flip_{slot}" for slot in ALL_SLOTS),
)


class PairGroup:
    """The pairs of some kinds, and what each seed of an arm said about them."""

    def __init__(self, cases: Cases, kinds: Sequence[str], seeds: Sequence[PairSaid]) -> None:
        self.rows = np.flatnonzero([pair.kind in kinds for pair in cases.pairs])
        self.pairs = [cases.pairs[row] for row in self.rows]
        self.patients = [pair.patient_id for pair in self.pairs]
        self.targets = targets_of(self.pairs)
        self.seeds = seeds

    def positive(self, said: Said, slot: str) -> NDArray[np.bool_]:
        """bool [pairs, L]; callers have made sure that the slot exists."""
        found = said.positive(slot)
        assert found is not None
        return found[self.rows]

    def on_target(self, matrix: NDArray) -> NDArray:
        """The entry of each pair's own observation, [pairs]."""
        return matrix[np.arange(len(self.pairs)), self.targets]

    def spread(self, numerator: NDArray, denominator: NDArray) -> Fraction:
        """Sums over observations within each pair."""
        return fraction(self.patients, numerator.sum(axis=1), denominator.sum(axis=1))


def counterfactual_rows(
    arm: str,
    seeds: Sequence[PairSaid] | None,
    tests: Sequence[Said],
    cases: Cases,
    boot: PatientBootstrap,
    reader: TextReader,
) -> Iterator[AuditRow]:
    """All counterfactual rows of one arm.

    Args:
        arm: Its name.
        seeds: What each seed said about the pairs; None where it was not asked.
        tests: What each seed said about the ordinary test studies (for the recall beside sufficiency).
        cases: Studies, truth, pairs.
        boot: Patient resamples.
        reader: Reads sides from texts.
    """
    if not cases.pairs or seeds is None:
        why = (
            "the data have no counterfactual pairs" if not cases.pairs else "this arm has no predictions for the pairs"
        )
        yield from (not_run(test, arm, why) for test in TESTS)
        return
    for slot in ALL_SLOTS:
        if any(s.before.positive(slot) is None or s.after.positive(slot) is None for s in seeds):
            why = "this arm has no label head" if slot == "head" else f"this arm writes no {slot}"
            yield from (not_run(test, arm, why) for test in TESTS if test.endswith(f"_{slot}"))
            continue
        yield _necessity(arm, slot, PairGroup(cases, ("removed",), seeds), cases, boot)
        yield _sufficiency(arm, slot, PairGroup(cases, ("added",), seeds), tests, cases, boot)
        yield _stability(arm, slot, PairGroup(cases, ("removed", "added", "moved"), seeds), boot)
        yield _side_flip(arm, slot, cases, seeds, boot, reader)
    yield _probability_falls(arm, PairGroup(cases, ("removed",), seeds), boot)


def _necessity(arm: str, slot: str, group: PairGroup, cases: Cases, boot: PatientBootstrap) -> AuditRow:
    parts = []
    for said in group.seeds:
        before = group.on_target(group.positive(said.before, slot))
        after = group.on_target(group.positive(said.after, slot))
        parts.append(fraction(group.patients, before & ~after, before))
    return measured(
        f"counterfactual_necessity_{slot}",
        arm,
        boot.ratio(parts),
        n=_cases(parts),
        rule=("at_least", NECESSITY),
        baseline=_spontaneous_loss(slot, cases, group.seeds),
        reason="share of findings said before that are gone once removed; baseline: gone without having been removed",
    )


def _spontaneous_loss(slot: str, cases: Cases, seeds: Sequence[PairSaid]) -> float | None:
    group = PairGroup(cases, ("removed", "added", "moved", "shortcut"), seeds)
    there = unchanged_truth(group.pairs) & _truth_before(group)
    parts = []
    for said in seeds:
        before = group.positive(said.before, slot) & there
        parts.append(group.spread(before & ~group.positive(said.after, slot), before))
    return value_of(parts)


def _truth_before(group: PairGroup) -> NDArray[np.bool_]:
    rows = [[bool(pair.before_truth.get(o, 0)) for o in OBSERVATIONS] for pair in group.pairs]
    return np.array(rows, bool).reshape(len(group.pairs), NUM_OBSERVATIONS)


def _probability_falls(arm: str, group: PairGroup, boot: PatientBootstrap) -> AuditRow:
    test = "counterfactual_necessity_probability"
    if any(s.before.probabilities is None or s.after.probabilities is None for s in group.seeds):
        return not_run(test, arm, "this arm has no label head")
    parts, others = [], []
    steady = unchanged_truth(group.pairs)
    for said in group.seeds:
        assert said.before.probabilities is not None and said.after.probabilities is not None
        fell = said.after.probabilities[group.rows] < said.before.probabilities[group.rows]
        found = group.positive(said.before, "head")
        parts.append(fraction(group.patients, group.on_target(fell & found), group.on_target(found)))
        others.append(group.spread(fell & found & steady, found & steady))
    return measured(
        test,
        arm,
        boot.ratio(parts),
        n=_cases(parts),
        rule=("at_least", NECESSITY),
        baseline=value_of(others),
        reason="share of findings found before whose probability falls; baseline: findings that were not removed",
    )


def _sufficiency(
    arm: str, slot: str, group: PairGroup, tests: Sequence[Said], cases: Cases, boot: PatientBootstrap
) -> AuditRow:
    parts = []
    for said in group.seeds:
        before = group.on_target(group.positive(said.before, slot))
        after = group.on_target(group.positive(said.after, slot))
        parts.append(fraction(group.patients, ~before & after, ~before))
    return measured(
        f"counterfactual_sufficiency_{slot}",
        arm,
        boot.ratio(parts),
        n=_cases(parts),
        baseline=_recall(slot, group.targets, tests, cases),
        reason="share of added findings that are then said; baseline: recall of the same findings on test studies",
    )


def _recall(slot: str, targets: NDArray[np.intp], tests: Sequence[Said], cases: Cases) -> float | None:
    truth = cases.truth_matrix()
    found = [said.positive(slot) for said in tests]
    if truth is None or not found or any(f is None for f in found):
        return None
    counts = np.bincount(targets, minlength=NUM_OBSERVATIONS) * (truth.sum(axis=0) > 0)
    if not counts.sum():
        return None
    recalls = [(f & truth).sum(axis=0) / np.maximum(truth.sum(axis=0), 1) for f in found if f is not None]
    return float((np.mean(recalls, axis=0) * counts).sum() / counts.sum())


def _stability(arm: str, slot: str, group: PairGroup, boot: PatientBootstrap) -> AuditRow:
    steady, parts, chance = unchanged_truth(group.pairs), [], []
    for said in group.seeds:
        before, after = group.positive(said.before, slot), group.positive(said.after, slot)
        parts.append(group.spread((before == after) & steady, steady))
        # Another pair's image: what agreement remains when nothing but the base rate is shared.
        stranger = np.roll(after, max(1, len(after) // 2), axis=0)
        chance.append(group.spread((before == stranger) & steady, steady))
    return measured(
        f"off_target_stability_{slot}",
        arm,
        boot.ratio(parts),
        n=_cases(parts),
        rule=("at_least", STABILITY),
        baseline=value_of(chance),
        reason="share of other findings said alike before and after; baseline: before, against another patient's after",
    )


def _side_flip(
    arm: str, slot: str, cases: Cases, seeds: Sequence[PairSaid], boot: PatientBootstrap, reader: TextReader
) -> AuditRow:
    test = f"side_flip_{slot}"
    if slot == "head" and any(s.before.head_sides is None or s.after.head_sides is None for s in seeds):
        return not_run(test, arm, "this arm predicts no side")
    moved = PairGroup(cases, ("moved",), seeds)
    parts = [_flips(moved, said, slot, reader) for said in seeds]
    still = PairGroup(cases, ("shortcut", "added"), seeds)
    return measured(
        test,
        arm,
        boot.ratio(parts),
        n=_cases(parts),
        rule=("at_least", FLIP),
        baseline=value_of([_spontaneous_flips(still, said, slot, reader) for said in seeds]),
        reason="share of findings said on the right side that are said on the other once moved there; "
        "baseline: side changed without a move",
    )


def _flips(group: PairGroup, said: PairSaid, slot: str, reader: TextReader) -> Fraction:
    hits, cases = [], []
    for row, pair in zip(group.rows, group.pairs, strict=True):
        before = named_sides(said.before, slot, int(row), reader).get(pair.observation)
        after = named_sides(said.after, slot, int(row), reader).get(pair.observation)
        cases.append(before is not None and before == pair.before_side)
        hits.append(cases[-1] and after == pair.after_side)
    return fraction(group.patients, hits, cases)


def _spontaneous_flips(group: PairGroup, said: PairSaid, slot: str, reader: TextReader) -> Fraction:
    other = {"left": "right", "right": "left"}
    hits, cases = [], []
    for row, pair in zip(group.rows, group.pairs, strict=True):
        after = named_sides(said.after, slot, int(row), reader)
        named = {o: s for o, s in named_sides(said.before, slot, int(row), reader).items() if s in other}
        named.pop(pair.observation, None)
        cases.append(len(named))
        hits.append(sum(after.get(o) == other[s] for o, s in named.items()))
    return fraction(group.patients, hits, cases)


def _cases(parts: Sequence[Fraction]) -> int:
    """Cases per seed, the mean over seeds."""
    return round(float(np.mean([part.denominator.sum() for part in parts]))) if parts else 0
