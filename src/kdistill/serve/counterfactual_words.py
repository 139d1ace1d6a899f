"""What became of a finding that was taken away, in one line: its probability, its sentences, the other observations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NO_FINDING, OBSERVATION_TERMS
from kdistill.records import Side

CounterfactualKind = Literal["removed", "occluded"]

#: A probability that moves by less than this is said to have stayed.
SMALL: Final = 0.05
_ON_SIDE: Final[Mapping[Side | None, str]] = MappingProxyType(
    {None: "the {}", "left": "the left {}", "right": "the right {}", "bilateral": "the {} on both sides"}
)


@dataclass(frozen=True)
class Change:
    """What was changed, and what the model said before and after.

    Attributes:
        kind: The finding was taken away, or the evidence for it blurred over.
        observation: Which.
        side: The finding's own side, where it has one.
        before: The explanation of the image as it is.
        after: The explanation of the image without it.
        patches: How many patches were blurred over, and of how many; None where none was.
    """

    kind: CounterfactualKind
    observation: str
    side: Side | None
    before: Explanation
    after: Explanation
    patches: tuple[int, int] | None = None

    @property
    def act(self) -> str:
        """What was done, as the subject of a sentence."""
        if self.kind == "removed":
            return f"Removing {finding_words(self.observation, self.side)}"
        num, total = self.patches or (0, 0)
        return f"Blurring the evidence for {self.observation} ({num} of {total} patches)"

    @property
    def although(self) -> str:
        """What a sentence stays in spite of."""
        return "although the finding is gone" if self.kind == "removed" else "although its evidence is blurred"


def finding_words(observation: str, side: Side | None) -> str:
    """A finding in words.

    >>> finding_words("Pleural Effusion", "left"), finding_words("Edema", "bilateral")
    ('the left pleural effusion', 'the edema on both sides')
    """
    term = "support devices" if observation == "Support Devices" else OBSERVATION_TERMS[observation]
    return _ON_SIDE[None if observation == "Support Devices" else side].format(term)


def summary(change: Change, labeler: RuleLabeler) -> str:
    """One line on what happened, also where nothing did.

    Args:
        change: What was changed.
        labeler: Reads what the generated report says.
    """
    if change.before.abstained:
        return "The model gives no answer about the image as it is, so there is nothing to compare."
    if change.after.abstained:
        return f"{change.act} left an image about which the model gives no answer."
    parts = [_probability(change), _sentences(change, labeler), *_others(change)]
    return "; ".join(part for part in parts if part) + "."


def _of(explanation: Explanation, observation: str) -> ObservationReading:
    return explanation.observations[INDEX[observation]]


def _probability(change: Change) -> str:
    before, after = _of(change.before, change.observation), _of(change.after, change.observation)
    if before.probability is None or after.probability is None or before.threshold is None:
        return f"{change.act}: this model gives no probabilities"
    old, new, name = before.probability, after.probability, change.observation
    limit, its = f"threshold {before.threshold:.2f}", f"its threshold of {before.threshold:.2f}"
    told = f"{change.act} took {name} from {old:.2f} to {new:.2f}"
    match old >= before.threshold, new >= before.threshold:
        case True, True if abs(new - old) < SMALL:
            return f"{change.act} hardly moved the model: {name} went from {old:.2f} to {new:.2f} ({limit})"
        case True, True:
            return f"{told}, still above {its}"
        case True, False:
            return f"{told}, just below {its}" if f"{new:.2f}" == limit[-4:] else f"{told} ({limit})"
        case False, True:
            return f"{told}, above {its}, although the model had not found it before"
        case _:
            return f"{told}; the model had not found it ({limit})"


def _said(explanation: Explanation, observation: str, labeler: RuleLabeler) -> dict[str, bool]:
    """Whether report and rationale state an observation, or call it possible."""
    report = "\n".join(part for part in (explanation.findings, explanation.impression) if part)
    stated = any(
        sentence.statement and sentence.observation == observation and sentence.state != "absent"
        for sentence in explanation.rationale
    )
    return {"report": labeler.label(report)[observation] in (1, -1), "rationale": stated}


def _sentences(change: Change, labeler: RuleLabeler) -> str:
    before = _said(change.before, change.observation, labeler)
    after = _said(change.after, change.observation, labeler)
    gone = [slot for slot in before if before[slot] and not after[slot]]
    kept = [slot for slot in before if before[slot] and after[slot]]
    come = [slot for slot in before if not before[slot] and after[slot]]
    parts = []
    if gone:
        parts.append("its sentence is gone" if not kept else f"its sentence is gone from the {_join(gone)}")
    if kept:
        parts.append(f"its sentence stays in the {_join(kept)} {change.although}")
    if come:
        parts.append(f"a sentence about it has come into the {_join(come)}")
    if parts:
        return "; ".join(parts)
    item = _of(change.before, change.observation)
    found = item.probability is not None and item.threshold is not None and item.probability >= item.threshold
    return "no sentence spoke of it, " + ("although the model had found it" if found else "before or after")


def _join(slots: Sequence[str]) -> str:
    return " and the ".join(slots)


def _others(change: Change) -> list[str]:
    """How far every other observation moved, the furthest first; "No Finding" apart, since it may well have to."""
    moved = []
    for before, after in zip(change.before.observations, change.after.observations, strict=True):
        if before.name not in (change.observation, NO_FINDING) and None not in (before.probability, after.probability):
            assert before.probability is not None and after.probability is not None
            moved.append((abs(after.probability - before.probability), before, after))
    moved.sort(key=lambda item: -item[0])
    if not moved:
        return []
    far = [(before, after) for distance, before, after in moved if distance >= SMALL]
    if not far:
        most = max(moved[0][0], 0.01)
        return [
            f"no other observation moved by more than {math.ceil(100 * most - 1e-6) / 100:.2f}",
            *_no_finding(change),
        ]
    told = [_moved(before, after) for before, after in far[:2]]
    told[0] = told[0].replace(" by ", " moved by ", 1)
    if more := len(far) - len(told):
        told.append(f"and {more} more by {SMALL} or more")
    return [", ".join(told), *_no_finding(change)]


def _moved(before: ObservationReading, after: ObservationReading) -> str:
    assert before.probability is not None and after.probability is not None and before.threshold is not None
    told = f"{before.name} by {after.probability - before.probability:+.2f}".replace("-", "−")
    was, is_now = before.probability >= before.threshold, after.probability >= before.threshold
    if was == is_now:
        return told
    return f"{told} (to {after.probability:.2f}, now {'above' if is_now else 'below'} its threshold)"


def _no_finding(change: Change) -> list[str]:
    before, after = _of(change.before, NO_FINDING).probability, _of(change.after, NO_FINDING).probability
    if before is None or after is None or abs(after - before) < SMALL:
        return []
    return [f"No Finding {'rose' if after > before else 'fell'} from {before:.2f} to {after:.2f}"]
