"""How far two texts say the same about a chest film: a score that falls when one word that matters is flipped.

Similarity of embeddings or of words is nearly blind to polarity and side ("no left effusion" is close to "a left
effusion"), so here both texts are read into facts by the rule labeler and compared fact by fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kdistill.audit.resampling import Fraction, fraction
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING
from kdistill.records import State
from kdistill.teacher.attributes import attributes
from kdistill.teacher.reading import STATES
from kdistill.teacher.statements import Fact, canonical

#: A text that says two things of one observation is read as the labeler reads a report: the stronger one counts.
_RANK: Final[Mapping[State, int]] = {"present": 2, "uncertain": 1, "absent": 0}
#: Observation -> what a text states of it.
Facts = Mapping[str, Fact]


def facts_in(text: str, labeler: RuleLabeler) -> Facts:
    """Observation -> what the text states of it, with side, zone and severity where it names them."""
    found: dict[str, Fact] = {}
    for mention in labeler.mentions(text):
        if mention.observation == NO_FINDING or mention.state is None:
            continue
        said = attributes(mention.sentence_text, mention.observation)
        side = mention.side if said.side is not None and mention.side is not None else said.side
        state = STATES[mention.state]
        fact = canonical(Fact(mention.observation, state, side, said.zone, said.severity))
        before = found.get(mention.observation)
        if before is None or _RANK[state] > _RANK[before.state]:
            found[mention.observation] = fact
    return found


def credit(one: Fact, other: Fact) -> float:
    """How far two facts about the same observation agree.

    0 if their states differ; else (1 + a) / (1 + s), where s counts side, zone and severity that at least one of the
    two names and a those that both name alike: a text that leaves out the side agrees in part.
    """
    if one.state != other.state:
        return 0.0
    named = [(x, y) for x, y in zip(one[2:], other[2:], strict=True) if x is not None or y is not None]
    return (1 + sum(x == y for x, y in named)) / (1 + len(named))


def shared_facts(one: Facts, other: Facts) -> float | None:
    """Soft F1 of two sets of facts: 2 * sum of credits / (facts of one + facts of the other).

    Returns:
        0 to 1, symmetric; None where both are empty.
    """
    if not one and not other:
        return None
    return 2 * sum(credit(one[name], other[name]) for name in one.keys() & other.keys()) / (len(one) + len(other))


def agreement(one: str, other: str, labeler: RuleLabeler) -> float | None:
    """Soft F1 of the facts of two texts: 1 where both state the same in any words, None where neither states any."""
    return shared_facts(facts_in(one, labeler), facts_in(other, labeler))


def agreement_parts(patients: Sequence[str], ones: Sequence[Facts], others: Sequence[Facts]) -> Fraction:
    """Soft F1 of each study's two sets of facts, to be averaged over studies; one without any fact does not count.

    Args:
        patients: Whose each study is.
        ones: What one text of each study states.
        others: What the other states.
    """
    scores = [shared_facts(one, other) for one, other in zip(ones, others, strict=True)]
    return fraction(patients, [score or 0.0 for score in scores], [score is not None for score in scores])
