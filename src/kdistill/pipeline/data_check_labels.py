"""What `data check` says of labels: totals, contradictions, columns that say nothing, and shifts between splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

from kdistill.observations import NO_FINDING, OBSERVATIONS, PARENT, SUPPORT_DEVICES
from kdistill.pipeline.data_check_places import listed
from kdistill.records import Study
from kdistill.studies.sources.common import SourceStudy
from kdistill.studies.totals import totals as totals_by_split

#: split -> observation -> "1", "0", "-1", "null" -> studies.
Totals = dict[str, dict[str, dict[str, int]]]

#: A shift of prevalence is named when it is this large and this unlikely by chance.
_MIN_SHIFT, _MAX_P = 0.05, 0.001


def totals(studies: Iterable[Study]) -> Totals:
    """Count the data set's own labels by split: studies stated (1), denied (0), uncertain (-1), not mentioned (null).

    Returns:
        The splits that have labelled studies, train first; only observations that the data set has a column for. The
        four counts of an observation sum to the labelled studies of the split.
    """
    labelled = [study for study in studies if study.labels]
    columns = {name for study in labelled for name in study.labels or {}}
    return {
        split: {
            name: {"1": count.positive, "0": count.negative, "-1": count.uncertain, "null": count.unknown}
            for name, count in counts.items()
            if name in columns
        }
        for split, counts in totals_by_split(labelled).items()
    }


def label_warnings(items: list[SourceStudy], places: dict[str, str], counted: Totals) -> list[str]:
    """Contradictions with their places, and columns or splits that nothing can be learned or measured from."""
    return [*_contradictions(items, places), *_empty_columns(counted), *_one_class(counted), *_without_target(items)]


def _contradictions(items: list[SourceStudy], places: dict[str, str]) -> list[str]:
    def where(chosen: list[SourceStudy]) -> str:
        return listed([places[str(item.images[0].path)] for item in chosen if item.images])

    both = [item for item in items if _is_normal_and_abnormal(item.study.labels or {})]
    found = [f"{len(both)} studies are labelled No Finding and a finding at once: {where(both)}"] if both else []
    apart = {
        f"{child} without {parent}": count
        for child, parent in PARENT.items()
        if (count := sum(_states(item, child) == 1 and _states(item, parent) == 0 for item in items))
    }
    if apart:
        found.append(
            "a finding is labelled 1 where what it is a kind of is labelled 0: "
            + ", ".join(f"{words} {count}" for words, count in apart.items())
            + " (many sets do not propagate labels upwards; see docs/data_check.md)"
        )
    return found


def _states(item: SourceStudy, name: str) -> int | None:
    return (item.study.labels or {}).get(name)


def _is_normal_and_abnormal(labels: Mapping[str, int | None]) -> bool:
    abnormal = any(state == 1 for name, state in labels.items() if name not in (NO_FINDING, SUPPORT_DEVICES))
    return labels.get(NO_FINDING) == 1 and abnormal


def _empty_columns(counted: Totals) -> list[str]:
    names = {name for by_name in counted.values() for name in by_name}
    empty = [
        name
        for name in OBSERVATIONS
        if name in names and all(n["1"] + n["0"] + n["-1"] == 0 for by in counted.values() if (n := by.get(name)))
    ]
    return [f"{len(empty)} label columns are empty throughout: {', '.join(empty)}"] if empty else []


def _one_class(counted: Totals) -> list[str]:
    """Observations with positives only or none in a split, in a sentence for each split."""
    found = []
    for split, by_name in counted.items():
        known = {name: n for name, n in by_name.items() if n["1"] + n["0"] + n["-1"]}
        none = [name for name, n in known.items() if n["1"] == 0]
        only = [name for name, n in known.items() if n["1"] and not n["0"] + n["-1"] + n["null"]]
        if none:
            found.append(
                f"split {split} has no positive study of {', '.join(none)}: nothing to learn or to score there"
            )
        if only:
            found.append(f"split {split} has only positive studies of {', '.join(only)}: no AUC is possible there")
    return found


def _without_target(items: list[SourceStudy]) -> list[str]:
    bare = sum(
        not item.study.report and all(state is None for state in (item.study.labels or {}).values()) for item in items
    )
    return [f"{bare} of {len(items)} studies have neither a label nor a report: nothing to learn from"] if bare else []


def shift_warnings(counted: Totals) -> list[str]:
    """Observations whose prevalence differs between splits by 5 points or more and beyond chance (z test, p < 0.001).

    Prevalence is the share of labelled studies with label 1. Studies are taken as independent, which several studies of
    one patient are not: a p near the bound may be chance.
    """
    found = []
    for first, second in [*pairwise(counted), *([("train", "test")] if len(counted) == 3 else [])]:
        for name in OBSERVATIONS:
            one, two = counted[first].get(name), counted[second].get(name)
            if not one or not two:
                continue
            (k, n), (m, o) = (one["1"], sum(one.values())), (two["1"], sum(two.values()))
            if abs(k / n - m / o) >= _MIN_SHIFT and _two_proportions_p(k, n, m, o) < _MAX_P:
                found.append(
                    f"{name} is positive in {k / n:.0%} of {n} {first} studies, in {m / o:.0%} of {o} {second} studies"
                )
    return found


def _two_proportions_p(k: int, n: int, m: int, o: int) -> float:
    """Two-sided p of the pooled z test for k of n against m of o (Fleiss, Levin, Paik 2003, section 3.1)."""
    pooled = (k + m) / (n + o)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / o))
    return math.erfc(abs(k / n - m / o) / error / math.sqrt(2)) if error else 1.0
