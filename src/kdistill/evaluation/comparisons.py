"""Arms against arms on the same patients: differences, intervals, p values (INTERFACE: comparisons.json). No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation.compare import Difference, holm, paired_difference, randomisation_p, swap_weights, taken_from
from kdistill.evaluation.config import ComparedName, EvaluationConfig
from kdistill.evaluation.measures import F1_NAMES, Measure, evaluate, own_ranks, stack
from kdistill.evaluation.scores import Entry, Outputs, Reference, ReferenceKind, Scope, material
from kdistill.observations import OBSERVATIONS, UncertainPolicy
from kdistill.records import Record

#: The primary endpoint's measure and policy: METHOD section 4.
PRIMARY_MEASURE: Final = Measure("report_f1", "micro", None, 14)
PRIMARY_POLICY: Final[UncertainPolicy] = "positive"


class Comparison(Record):
    """Arm minus baseline. `relative` is the difference divided by the baseline's value.

    `p` is adjusted by Holm within `holm_family` into `p_holm`. `reason` says why there is no difference or no p.
    """

    name: str
    arm: str
    baseline: str
    split: str
    average: Literal["micro", "macro", "example"] | None
    observation: str | None
    observations: Literal[14, 5] | None
    uncertain: UncertainPolicy | None
    labeler: str | None
    reference: ReferenceKind
    primary: bool
    arm_value: float | None
    baseline_value: float | None
    difference: float | None
    relative: float | None
    ci95: tuple[float, float] | None
    relative_ci95: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    holm_family: str
    test: str
    n: int
    num_patients: int
    seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    reason: str | None


@dataclass(frozen=True)
class _Pair:
    """Two arms to compare by one score."""

    name: ComparedName
    arm: str
    baseline: str
    primary: bool


@dataclass(frozen=True)
class Field:
    """All that comparisons draw on: every arm's outputs, the reference, the scored studies and their scores."""

    arms: Mapping[str, Sequence[Outputs]]
    reference: Reference
    scope: Scope
    entries: Sequence[Entry]


def compare_arms(field: Field, config: EvaluationConfig) -> list[Comparison]:
    """The primary endpoint and the secondary comparisons of the configuration, Holm-adjusted within their families.

    An arm that was not trained gives one row with null values and the reason.
    """
    primary = [_Pair("report_f1", config.primary.arm, b, True) for b in config.primary.baselines]
    pairs = primary + [_Pair(c.name, c.arm, c.baseline, False) for c in config.comparisons]
    swaps = swap_weights(field.scope.patient_ids, config.num_permutations, config.seed)
    test = (
        f"paired approximate randomisation by patient, two-sided, {config.num_permutations} swaps; "
        f"intervals: paired bootstrap by patient, {config.num_bootstrap} resamples"
    )
    rows = [row for pair in pairs for row in _compare(pair, field, swaps, test)]
    return _adjust(rows)


def measures_of(name: ComparedName) -> list[tuple[Measure, UncertainPolicy]]:
    """What a comparison covers: micro and macro over 14 (F1 under both policies) and each observation."""
    averaged = [Measure(name, "micro"), Measure(name, "macro")]
    each = [Measure(name, None, observation) for observation in OBSERVATIONS]
    if name in F1_NAMES:
        return [(m, "positive") for m in averaged + each] + [(m, "negative") for m in averaged]
    return [(m, "negative") for m in averaged + each]


def _compare(pair: _Pair, field: Field, swaps: NDArray[np.float64], test: str) -> Iterator[Comparison]:
    wanted = measures_of(pair.name)
    absent = [arm for arm in (pair.arm, pair.baseline) if arm not in field.arms]
    if absent:
        yield _row(
            pair, wanted[0][0], wanted[0][1], field, (None, f"not trained in this run: {', '.join(absent)}"), test
        )
        return
    for policy in dict.fromkeys(policy for _, policy in wanted):
        measures = [m for m, p in wanted if p == policy]
        p_values = _p_values(pair, measures, policy, field, swaps)
        for measure in measures:
            yield _row(pair, measure, policy, field, p_values[measure], test)


PValue = tuple[float | None, str | None]


def _p_values(
    pair: _Pair, measures: Sequence[Measure], policy: UncertainPolicy, field: Field, swaps: NDArray[np.float64]
) -> dict[Measure, PValue]:
    seeds = pair_seeds(field.arms[pair.arm], field.arms[pair.baseline])
    if not seeds:
        return dict.fromkeys(measures, (None, "the arms share no seed: their runs cannot be paired"))
    found: dict[Measure, PValue] = {}
    remark = _unpaired(field.arms[pair.arm], field.arms[pair.baseline], seeds)
    for group in ([m for m in measures if m.average == "micro"], [m for m in measures if m.average != "micro"]):
        differences = [_differences(group, first, second, policy, field, swaps) for first, second in seeds]
        for measure in group:
            each = [d[measure] for d in differences if measure in d]
            p = randomisation_p(np.mean(each, axis=0)) if len(each) == len(seeds) else None
            found[measure] = (p, remark)
    return found


def _unpaired(
    arm: Sequence[Outputs], baseline: Sequence[Outputs], pairs: Sequence[tuple[Outputs, Outputs]]
) -> str | None:
    """What a reader must know where p is about fewer runs than the difference beside it."""
    met = {id(outputs) for both in pairs for outputs in both}
    if all(id(outputs) in met for outputs in (*arm, *baseline)):
        return None
    shared = ", ".join(str(first.seed) for first, _ in pairs)
    return f"p is of the shared seeds alone ({shared}), the difference of all"


def pair_seeds(arm: Sequence[Outputs], baseline: Sequence[Outputs]) -> list[tuple[Outputs, Outputs]]:
    """Which runs trade places in the randomisation test: those of equal seed; a single run goes with all of the other.

    An untrained reference has one run, the arms have several; swapping it with each of them keeps the test's mean.
    """
    if len(arm) == 1 or len(baseline) == 1:
        return [(a, b) for a in arm for b in baseline]
    by_seed = {outputs.seed: outputs for outputs in baseline}
    return [(outputs, by_seed[outputs.seed]) for outputs in arm if outputs.seed in by_seed]


def _differences(
    measures: Sequence[Measure],
    first: Outputs,
    second: Outputs,
    policy: UncertainPolicy,
    field: Field,
    swaps: NDArray[np.float64],
) -> dict[Measure, NDArray[np.float64]]:
    """Arm minus baseline as they are and under every swap, [1 + K] for each measure; {} if one does not give it."""
    name = measures[0].name
    ours = material(first, name, field.reference, policy, field.scope)
    theirs = material(second, name, field.reference, policy, field.scope)
    if ours is None or theirs is None or not len(field.scope.rows):
        return {}
    stacked = stack(own_ranks(measures[0], ours), own_ranks(measures[0], theirs))
    kept, swapped = (evaluate(measures, stacked, weights) for weights in taken_from(swaps))
    return {measure: kept[measure] - swapped[measure] for measure in measures}


def _row(pair: _Pair, measure: Measure, policy: UncertainPolicy, field: Field, p: PValue, test: str) -> Comparison:
    ours, theirs = (_find(field, arm, measure, policy) for arm in (pair.arm, pair.baseline))
    change, reason = _difference(ours, theirs)
    primary = pair.primary and measure == PRIMARY_MEASURE and policy == PRIMARY_POLICY
    some = ours or theirs
    return Comparison(
        name=pair.name,
        arm=pair.arm,
        baseline=pair.baseline,
        split=field.scope.split,
        average=measure.average,
        observation=measure.observation,
        observations=measure.observations,
        uncertain=policy,
        labeler=some.score.labeler if some else None,
        reference=field.reference.kind,
        primary=primary,
        arm_value=ours.score.value if ours else None,
        baseline_value=theirs.score.value if theirs else None,
        difference=change.difference,
        relative=change.relative,
        ci95=change.ci95,
        relative_ci95=change.relative_ci95,
        p=p[0] if change.difference is not None else None,
        p_holm=None,
        holm_family=_family(pair, measure, policy, primary),
        test=test,
        n=some.score.n if some else 0,
        num_patients=some.score.num_patients if some else 0,
        seeds=ours.score.seeds if ours else (),
        baseline_seeds=theirs.score.seeds if theirs else (),
        reason=p[1] or reason if change.difference is None else "; ".join(filter(None, (p[1], reason))) or None,
    )


def _find(field: Field, arm: str, measure: Measure, policy: UncertainPolicy) -> Entry | None:
    wanted = (measure.name, arm, measure.average, measure.observation, measure.observations, policy)
    for entry in field.entries:
        s = entry.score
        if (s.name, s.arm, s.average, s.observation, s.observations, s.uncertain) == wanted:
            return entry
    return None


def _difference(ours: Entry | None, theirs: Entry | None) -> tuple[Difference, str | None]:
    """The paired difference, or why there is none."""
    empty = Difference(None, None, None, None)
    if ours is None or theirs is None:
        return empty, "not scored in this run"
    for entry in (ours, theirs):
        if entry.score.value is None:
            return empty, f"{entry.score.arm}: {entry.score.reason}"
    return paired_difference(ours.estimate, theirs.estimate), ours.score.reason


def _family(pair: _Pair, measure: Measure, policy: UncertainPolicy, primary: bool) -> str:
    if primary:
        return "primary endpoint: baselines"
    if measure.observation is not None:
        return f"{pair.name} {policy}: observations, {pair.arm} - {pair.baseline}"
    return f"{pair.name} {measure.average} {policy}: secondary comparisons"


def _adjust(rows: Iterable[Comparison]) -> list[Comparison]:
    rows = list(rows)
    families: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        families[row.holm_family].append(index)
    for members in families.values():
        for index, adjusted in zip(members, holm([rows[i].p for i in members]), strict=True):
            rows[index] = rows[index].model_copy(update={"p_holm": adjusted})
    return rows
