"""What a rationale writer gets and gives, and how entries become the text of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kdistill.observations import INDEX, NO_FINDING, SUPPORT_DEVICES
from kdistill.records import Citation, RationaleEntry
from kdistill.teacher.retrieval import Quote
from kdistill.teacher.statements import Fact, of_fact, statement


class Request(NamedTuple):
    """One observation of one study: the fact, and what the report says of it (cleaned; "" if it only names it)."""

    fact: Fact
    evidence: str = ""


class Written(NamedTuple):
    """A writer's answer: an entry, or the reason why there is none."""

    entry: RationaleEntry | None
    reason: str | None = None


class RationaleWriter(Protocol):
    """Writes one entry for each request. Equal requests get equal entries."""

    def write(self, requests: Sequence[Request]) -> list[Written]:
        """Write entries, in the order of the requests."""
        ...


def plain_entry(request: Request) -> RationaleEntry:
    """The statement alone: all there is to say of an absent observation, and of one that the literature lacks."""
    fact = request.fact
    return RationaleEntry(
        observation=fact.observation,
        state=fact.state,
        side=fact.side,
        zone=fact.zone,
        severity=fact.severity,
        evidence=(request.evidence,) if request.evidence else (),
        text=f"{of_fact(fact)}.",
    )


def quoted_entry(request: Request, sign: Quote | None, mechanism: Quote | None) -> RationaleEntry:
    """The statement, followed by verbatim sentences of the literature, each with its citation."""
    quotes = [quote for quote in (sign, mechanism) if quote is not None]
    plain = plain_entry(request)
    return plain.model_copy(
        update={
            "mechanism": mechanism.text if mechanism else "",
            "text": " ".join([plain.text, *(quote.text for quote in quotes)]),
            "citations": tuple(quote.citation() for quote in quotes),
        }
    )


def joined_text(entries: Sequence[RationaleEntry]) -> str:
    """The text of a study: the entries' texts in one paragraph."""
    return " ".join(entry.text for entry in entries)


def canonical_impression(entries: Sequence[RationaleEntry]) -> str:
    """What the entries come to, one statement a finding: the conclusion that a reader looks for first.

    Radiologists often end on a sign and leave its name to the reader, or repeat a normal sentence; here every finding
    that is present or possible is named. A normal film may hold a device (CheXpert's "No Finding" allows it), so that
    both are said. "" where the entries neither find anything nor deny all.
    """
    found = [e for e in entries if e.state != "absent" and e.observation != NO_FINDING]
    sentences = [statement(e.observation, e.state, e.side, e.zone, e.severity) for e in found]
    is_normal = any(e.observation == NO_FINDING for e in entries)
    if is_normal and all(e.observation == SUPPORT_DEVICES for e in found):
        sentences.insert(0, statement(NO_FINDING, "present"))
    return " ".join(f"{sentence}." for sentence in sentences)


def in_order(entries: Sequence[RationaleEntry]) -> tuple[RationaleEntry, ...]:
    """Entries in the order of OBSERVATIONS."""
    return tuple(sorted(entries, key=lambda entry: INDEX[entry.observation]))


def cited(entry: RationaleEntry, citations: Sequence[Citation]) -> RationaleEntry:
    """The entry with these citations."""
    return entry.model_copy(update={"citations": tuple(citations)})
