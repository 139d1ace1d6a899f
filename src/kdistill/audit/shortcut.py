"""Does a mark that went with a finding in training move what the student says?

The mark alone is toggled on the same study, so every change is its effect. From the same pairs: F1 and AUC of the tied
finding where the mark tells the truth (shown exactly when the finding is there) and where it lies (the other rendering
of every study); their difference is what the student loses when the shortcut breaks, on the same patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdistill.audit.config import AuditConfig
from kdistill.audit.material import Cases, PairSaid, Said, targets_of
from kdistill.audit.resampling import PatientBootstrap, difference, fraction
from kdistill.audit.rows import AuditRow, compared, measured, not_run
from kdistill.evaluation.auc import observation_rank_scores
from kdistill.evaluation.bootstrap import Estimate, estimate

#: METHOD: toggling the shortcut may move `full` at most half as much as the arms that it is compared with.
MAX_RATIO = 0.5
TESTS = (
    *(f"shortcut_effect_{slot}" for slot in ("report", "rationale", "head", "probability")),
    *(f"shortcut_f1_loss_{slot}" for slot in ("report", "rationale")),
    "shortcut_auc_loss",
)
COMPARED = ("shortcut_effect_report", "shortcut_effect_probability", "shortcut_f1_loss_report", "shortcut_auc_loss")


@dataclass(frozen=True)
class Toggled:
    """The shortcut pairs: who, which finding, whether it is there, and which rendering shows the mark."""

    rows: NDArray[np.intp]
    patients: list[str]
    columns: NDArray[np.intp]
    truth: NDArray[np.bool_]
    marked_before: NDArray[np.bool_]

    def pick(self, before: NDArray, after: NDArray, want_mark: NDArray[np.bool_]) -> NDArray:
        """The tied finding's entry of the wanted rendering, [pairs]; both matrices are over pairs of all kinds."""
        first, second = before[self.rows, self.columns], after[self.rows, self.columns]
        return np.where(want_mark == self.marked_before, first, second)


def toggled_pairs(cases: Cases) -> Toggled:
    """The pairs in which the shortcut alone changes."""
    rows = [i for i, p in enumerate(cases.pairs) if p.kind == "shortcut" and p.shortcut_before is not None]
    pairs = [cases.pairs[i] for i in rows]
    return Toggled(
        np.asarray(rows, dtype=np.intp),
        [p.patient_id for p in pairs],
        targets_of(pairs),
        np.asarray([bool(p.before_truth.get(p.observation, 0)) for p in pairs], dtype=bool),
        np.asarray([bool(p.shortcut_before) for p in pairs], dtype=bool),
    )


def shortcut_rows(
    said: Mapping[str, Sequence[PairSaid] | None], cases: Cases, boot: PatientBootstrap, config: AuditConfig
) -> Iterator[AuditRow]:
    """Effects of the shortcut on every arm, then the comparisons of `config.arm` with its baselines."""
    pairs = toggled_pairs(cases)
    found: dict[tuple[str, str], Estimate] = {}
    for arm, seeds in said.items():
        for test in TESTS:
            found[test, arm] = _figure(test, seeds, pairs, boot)
            reason = (
                "mean change when the mark is shown"
                if "effect" in test
                else "mark true to the finding minus mark false"
            )
            yield measured(test, arm, found[test, arm], n=len(pairs.rows), baseline=0.0, reason=reason)
    for test in COMPARED:
        for other in config.shortcut_baselines:
            if config.arm in said and other in said:
                yield _comparison(test, config.arm, other, found, len(pairs.rows))
            else:
                missing = config.arm if config.arm not in said else other
                yield not_run(f"{test}_vs_{other}", config.arm, f"the recipe has no arm {missing}")


def _comparison(test: str, arm: str, other: str, found: Mapping[tuple[str, str], Estimate], n: int) -> AuditRow:
    ratio = MAX_RATIO if "effect" in test else None
    reason = f"passes at no more than {MAX_RATIO:g} of {other}'s effect" if ratio else ""
    mine, theirs = found[test, arm], found[test, other]
    return compared(f"{test}_vs_{other}", arm, other, mine, theirs, n=n, better="lower", max_ratio=ratio, reason=reason)


def _figure(test: str, seeds: Sequence[PairSaid] | None, pairs: Toggled, boot: PatientBootstrap) -> Estimate:
    if not len(pairs.rows):
        return Estimate(None, None, "the data have no pairs that toggle a shortcut")
    if seeds is None:
        return Estimate(None, None, "this arm has no predictions for the pairs")
    kind, _, slot = test.removeprefix("shortcut_").rpartition("_")
    if test == "shortcut_auc_loss" or slot == "probability":
        if any(s.before.probabilities is None for s in seeds):
            return Estimate(None, None, "this arm has no label head")
        return _auc_loss(seeds, pairs, boot) if test == "shortcut_auc_loss" else _probability_effect(seeds, pairs, boot)
    if any(s.before.positive(slot) is None or s.after.positive(slot) is None for s in seeds):
        return Estimate(None, None, "this arm has no label head" if slot == "head" else f"this arm writes no {slot}")
    if kind == "effect":
        return boot.ratio([fraction(pairs.patients, _effect(_said(s, slot), pairs)) for s in seeds])
    return _f1_loss([_said(s, slot) for s in seeds], pairs, boot)


def _said(said: PairSaid, slot: str) -> tuple[NDArray, NDArray]:
    def matrix(one: Said) -> NDArray:
        found = one.positive(slot)
        assert found is not None
        return found

    return matrix(said.before), matrix(said.after)


def _effect(matrices: tuple[NDArray, NDArray], pairs: Toggled) -> NDArray[np.float64]:
    shown = np.ones(len(pairs.rows), dtype=bool)
    return pairs.pick(*matrices, shown).astype(float) - pairs.pick(*matrices, ~shown).astype(float)


def _probability_effect(seeds: Sequence[PairSaid], pairs: Toggled, boot: PatientBootstrap) -> Estimate:
    return boot.ratio([fraction(pairs.patients, _effect(_probabilities(s), pairs)) for s in seeds])


def _probabilities(said: PairSaid) -> tuple[NDArray, NDArray]:
    assert said.before.probabilities is not None and said.after.probabilities is not None
    return said.before.probabilities, said.after.probabilities


def _f1_loss(seeds: Sequence[tuple[NDArray, NDArray]], pairs: Toggled, boot: PatientBootstrap) -> Estimate:
    """F1 where the mark tells the truth minus F1 where it lies; positive: the student leans on it."""

    def f1(mark: NDArray[np.bool_]) -> Estimate:
        parts = []
        for matrices in seeds:
            stated = pairs.pick(*matrices, mark).astype(bool)
            parts.append(fraction(pairs.patients, 2.0 * (stated & pairs.truth), 1.0 * stated + 1.0 * pairs.truth))
        return boot.ratio(parts)

    return difference(f1(pairs.truth), f1(~pairs.truth))


def _auc_loss(seeds: Sequence[PairSaid], pairs: Toggled, boot: PatientBootstrap) -> Estimate:
    if pairs.truth.all() or not pairs.truth.any():
        return Estimate(None, None, "the tied finding is in all or in none of the pairs")
    weights, known = boot.weights(pairs.patients), np.ones((len(pairs.rows), 1), dtype=bool)

    def auc(said: PairSaid, mark: NDArray[np.bool_]) -> NDArray[np.float64]:
        scores = pairs.pick(*_probabilities(said), mark)[:, None]
        return observation_rank_scores(scores, pairs.truth[:, None], known, weights).auc[:, 0]

    return estimate(np.mean([auc(s, pairs.truth) - auc(s, ~pairs.truth) for s in seeds], axis=0))
