"""Which observations a sentence of a report speaks of, and what it says of each.

Each sentence is read on its own by the rule labeler, which reads whole reports sentence by sentence too: what is linked
here is what the report's labels are made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from kdistill.explain.explanation import ReportSection, ReportSentence, SentenceMention
from kdistill.explain.sentences import split_sentences
from kdistill.labelers.rules import Mention, RuleLabeler
from kdistill.records import Side, State
from kdistill.sites import SITES

STATES: Final[Mapping[int, State]] = MappingProxyType({1: "present", 0: "absent", -1: "uncertain"})


def mentions_of(sentence: str, labeler: RuleLabeler) -> tuple[SentenceMention, ...]:
    """Return what one sentence says of each observation that it names, in reading order; empty where it names none.

    >>> [(m.observation, m.state, m.side) for m in mentions_of("Left effusion, no pneumothorax.", RuleLabeler())]
    [('Pleural Effusion', 'present', 'left'), ('Pneumothorax', 'absent', None)]

    Args:
        sentence: One sentence of a report.
        labeler: Who reads it.
    """
    return tuple(dict.fromkeys(_said(mention) for mention in labeler.mentions(sentence) if mention.state is not None))


def _said(mention: Mention) -> SentenceMention:
    assert mention.state is not None
    return SentenceMention(
        observation=mention.observation, state=STATES[mention.state], side=side_said(mention.observation, mention.side)
    )


def side_said(observation: str, side: Side | None) -> Side | None:
    """The side that a clause names, where the observation has one: a support device has none (sites.py)."""
    return side if SITES[observation].lateralised else None


def report_sentences(findings: str, impression: str, labeler: RuleLabeler) -> tuple[ReportSentence, ...]:
    """Every sentence of a generated report with the observations that it names, in reading order.

    Args:
        findings: As generated.
        impression: As generated.
        labeler: Who reads the sentences.
    """
    sections: tuple[tuple[ReportSection, str], ...] = (("findings", findings), ("impression", impression))
    return tuple(sentence for section, text in sections for sentence in _of_section(section, text, labeler))


def _of_section(section: ReportSection, text: str, labeler: RuleLabeler) -> Iterator[ReportSentence]:
    for sentence in split_sentences(text):
        yield ReportSentence(section=section, text=sentence, mentions=mentions_of(sentence, labeler))
