"""The canonical sentence of an observation: made here only, read back exactly by the rule labeler and attributes.py."""

from __future__ import annotations

from typing import Final, NamedTuple

from kdistill.observations import FINDINGS, NO_FINDING, OBSERVATION_TERMS, OBSERVATIONS
from kdistill.records import Severity, Side, State, Zone
from kdistill.sites import SITES

SIDES: Final[tuple[Side | None, ...]] = (None, "left", "right", "bilateral")
ZONES: Final[tuple[Zone | None, ...]] = (None, "upper", "middle", "lower")
SEVERITIES: Final[tuple[Severity | None, ...]] = (None, "mild", "moderate", "severe")


class Fact(NamedTuple):
    """What one statement says. Absent observations have neither side nor zone nor severity."""

    observation: str
    state: State
    side: Side | None = None
    zone: Zone | None = None
    severity: Severity | None = None


def statement(
    observation: str,
    state: State,
    side: Side | None = None,
    zone: Zone | None = None,
    severity: Severity | None = None,
) -> str:
    """Write the canonical sentence of an observation, without its full stop.

    >>> statement("Pleural Effusion", "present", "left", "lower", "moderate")
    'Moderate left pleural effusion in the lower zone'
    >>> statement("Pneumonia", "uncertain", "right", "upper")
    'Possible right pneumonia in the upper zone'
    >>> statement("Pneumothorax", "absent", "left")
    'No pneumothorax'

    Args:
        observation: One of OBSERVATIONS.
        state: present, absent or uncertain; "No Finding" is always present.
        side: Left out where the observation is absent or has no side.
        zone: Left out where the observation is absent or has no zone.
        severity: Left out where the observation is absent.

    Raises:
        ValueError: "No Finding" with another state than present.
        KeyError: The observation is unknown.
    """
    term = OBSERVATION_TERMS[observation]
    if observation == NO_FINDING:
        if state != "present":
            raise ValueError(f"No Finding cannot be {state}")
        return _capitalised(term)
    if state == "absent":
        return f"No {term}"
    site = SITES[observation]
    words = [
        "possible" if state == "uncertain" else "",
        severity or "",
        (side or "") if site.lateralised else "",
        term,
        f"in the {zone} zone" if zone and site.lateralised and site.zoned else "",
    ]
    return _capitalised(" ".join(word for word in words if word))


def of_fact(fact: Fact) -> str:
    """The statement of a fact."""
    return statement(*fact)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def canonical(fact: Fact) -> Fact:
    """Drop what the statement of a fact does not say, so that one sentence belongs to one fact."""
    site = SITES[fact.observation]
    if fact.state == "absent" or fact.observation == NO_FINDING:
        return Fact(fact.observation, fact.state)
    zoned = site.lateralised and site.zoned
    return Fact(
        fact.observation,
        fact.state,
        fact.side if site.lateralised else None,
        fact.zone if zoned else None,
        fact.severity,
    )


def all_facts() -> list[Fact]:
    """Every canonical fact, in the order of OBSERVATIONS: the rows of the statement bank."""
    facts: dict[Fact, None] = {}
    for observation in OBSERVATIONS:
        if observation == NO_FINDING:
            facts[Fact(observation, "present")] = None
            continue
        facts[Fact(observation, "absent")] = None
        for state in ("present", "uncertain"):
            for side in SIDES:
                for zone in ZONES:
                    for severity in SEVERITIES:
                        facts[canonical(Fact(observation, state, side, zone, severity))] = None
    return list(facts)


def flips(fact: Fact) -> list[Fact]:
    """Hard negatives: the fact with its polarity, side, zone, severity or observation changed, one at a time.

    Embeddings of plain language models are nearly blind to polarity, so these negatives are not optional. Side, zone
    and severity are flipped only where the fact states them.
    """
    if fact.observation == NO_FINDING:
        return [Fact(name, "present") for name in FINDINGS]
    others = [canonical(fact._replace(observation=name)) for name in FINDINGS if name != fact.observation]
    if fact.state == "absent":
        return [Fact(fact.observation, "present"), Fact(fact.observation, "uncertain"), *others]
    changed = [Fact(fact.observation, "absent")]
    changed += [fact._replace(state="uncertain" if fact.state == "present" else "present")]
    if fact.side is not None:
        changed += [fact._replace(side=side) for side in SIDES if side not in (None, fact.side)]
    if fact.zone is not None:
        changed += [fact._replace(zone=zone) for zone in ZONES if zone not in (None, fact.zone)]
    if fact.severity is not None:
        changed += [fact._replace(severity=degree) for degree in SEVERITIES if degree not in (None, fact.severity)]
    return changed + others
