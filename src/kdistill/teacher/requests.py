"""From a study's reading or label columns to what a writer is asked to write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from kdistill.observations import NO_FINDING, OBSERVATIONS, LabelState
from kdistill.records import Severity, Side, Zone
from kdistill.teacher.reading import STATES, Item
from kdistill.teacher.statements import SEVERITIES, Fact, canonical
from kdistill.teacher.writers import Request

T = TypeVar("T")

#: Evidence longer than this is cut: a writer needs the sign, not the dictation.
_MOST_EVIDENCE_SENTENCES = 2


def requests_for(labels: Mapping[str, LabelState], items: Sequence[Item]) -> list[Request]:
    """One request for each observation that is stated, denied or uncertain, in the order of OBSERVATIONS.

    Args:
        labels: 1, 0, -1 or None for each observation.
        items: The statements behind the labels; those that disagree with a label are left out.
    """
    requests = []
    for name in OBSERVATIONS:
        state = labels.get(name)
        if state is not None and (name != NO_FINDING or state == 1):
            own = [item for item in items if item.observation == name and item.state == STATES[state]]
            requests.append(Request(_fact(name, state, own), _evidence(own)))
    return requests


def sides_of(items: Iterable[Item]) -> dict[str, Side]:
    """The side that a report names for each observation it states as present or uncertain."""
    grouped: dict[str, list[Item]] = {}
    for item in items:
        if item.state != "absent":
            grouped.setdefault(item.observation, []).append(item)
    return {name: side for name, own in grouped.items() if (side := _side(own)) is not None}


def _fact(observation: str, state: LabelState, items: Sequence[Item]) -> Fact:
    name = STATES[state]  # type: ignore[index]
    return canonical(Fact(observation, name, _side(items), _zone(items), _severity(items)))


def _explicit_first(items: Sequence[Item], values: Sequence[T | None]) -> set[T]:
    """The values that explicit items name; those of inferred items where the explicit ones name none."""
    for source in ("explicit", "inferred"):
        pairs = zip(items, values, strict=True)
        if found := {value for item, value in pairs if item.source == source and value is not None}:
            return found
    return set()


def _side(items: Sequence[Item]) -> Side | None:
    """Left and right make bilateral."""
    found: set[Side] = _explicit_first(items, [item.side for item in items])
    return "bilateral" if len(found) > 1 else next(iter(found), None)


def _zone(items: Sequence[Item]) -> Zone | None:
    found: set[Zone] = _explicit_first(items, [item.zone for item in items])
    return found.pop() if len(found) == 1 else None


def _severity(items: Sequence[Item]) -> Severity | None:
    found = _explicit_first(items, [item.severity for item in items])
    return next((severity for severity in reversed(SEVERITIES) if severity in found), None)


def _evidence(items: Sequence[Item]) -> str:
    """The signs that the report describes without naming the observation, as it words them."""
    described = dict.fromkeys(item.sentence for item in items if item.source == "inferred")
    return " ".join(list(described)[:_MOST_EVIDENCE_SENTENCES])
