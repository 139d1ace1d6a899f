"""The rows of audit.json: a figure with its baseline, n and interval, or "not run: why"."""

from __future__ import annotations

from typing import Literal

from kdistill.evaluation.bootstrap import Estimate, interval
from kdistill.evaluation.compare import paired_difference
from kdistill.records import Record


class AuditRow(Record):
    """One figure of the audit.

    Attributes:
        test: Its name; docs/faithfulness.md defines each.
        arm: The arm that was tested ("teacher" for the rationales themselves).
        value: The figure, mean over seeds; None: `reason` says why.
        baseline: What the figure would be without any faithfulness (chance, another method, another arm).
        ci95: 95% interval over patients of the value; of the difference to the baseline for a "..._vs_..." row.
        n: How many cases (per seed) stand behind it.
        passed: Against METHOD's threshold; None where it sets none, or where the test was not run.
        reason: What the reader must know; begins with "not run:" where there is no value.
    """

    test: str
    arm: str
    value: float | None
    baseline: float | None
    ci95: tuple[float, float] | None
    n: int
    passed: bool | None
    reason: str | None


#: ("at_least", 0.9): the value must reach it. ("at_most", 0.005): it may not exceed it.
Rule = tuple[Literal["at_least", "at_most"], float] | None


def not_run(test: str, arm: str, why: str) -> AuditRow:
    """A test that could not be run."""
    return AuditRow(
        test=test, arm=arm, value=None, baseline=None, ci95=None, n=0, passed=None, reason=f"not run: {why}"
    )


def measured(
    test: str,
    arm: str,
    found: Estimate,
    *,
    n: int,
    rule: Rule = None,
    baseline: float | None = None,
    reason: str | None = None,
) -> AuditRow:
    """A figure with its interval, judged by its threshold."""
    if found.value is None:
        return not_run(test, arm, found.reason or "no case to measure it on")
    return AuditRow(
        test=test,
        arm=arm,
        value=_rounded(found.value),
        baseline=_rounded(baseline),
        ci95=_rounded_pair(interval(found.samples)),
        n=n,
        passed=_judge(found.value, rule),
        reason=reason,
    )


def _judge(value: float, rule: Rule) -> bool | None:
    match rule:
        case ("at_least", limit):
            return value >= limit
        case ("at_most", limit):
            return value <= limit
    return None


def compared(
    test: str,
    arm: str,
    other: str,
    mine: Estimate,
    theirs: Estimate,
    *,
    n: int,
    better: Literal["higher", "lower"],
    max_ratio: float | None = None,
    reason: str = "",
) -> AuditRow:
    """A figure beside that of another arm or method, with the interval of their paired difference.

    Passed where the interval lies on the better side of 0; with `max_ratio` instead, where the value's size is at most
    that share of the other's.

    Args:
        test: Name of the row.
        arm: Whose figure is judged.
        other: What it is compared with.
        mine: Its estimate, under the same resamples as `theirs`.
        theirs: The other's estimate.
        n: Cases per seed.
        better: Which side is better.
        max_ratio: Largest share of the other's absolute value.
        reason: More for the reader.
    """
    found = paired_difference(mine, theirs)
    if found.difference is None or mine.value is None or theirs.value is None:
        return not_run(test, arm, mine.reason or theirs.reason or f"no figure for {other}")
    sign = 1.0 if better == "higher" else -1.0
    passed = None
    if found.ci95 is not None:
        passed = min(sign * found.ci95[0], sign * found.ci95[1]) > 0
    if max_ratio is not None:
        # Where the other is not moved at all there is nothing to be half of.
        passed = abs(mine.value) <= max_ratio * abs(theirs.value) if theirs.value else None
    note = f"interval of the difference {arm} - {other} ({found.difference:+.3f}); {better} is better"
    return AuditRow(
        test=test,
        arm=arm,
        value=_rounded(mine.value),
        baseline=_rounded(theirs.value),
        ci95=_rounded_pair(found.ci95),
        n=n,
        passed=passed,
        reason=f"{note}. {reason}".strip() if reason else note,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _rounded_pair(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if pair is None else (round(pair[0], 6), round(pair[1], 6))
