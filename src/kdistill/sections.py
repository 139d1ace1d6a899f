"""Report text -> its sections: indication, comparison, technique, findings, impression.

Headers are those of MIMIC-CXR and Open-i reports ("FINDINGS:", "Reason for exam:", "CONCLUSION"). A header stands at
the start of a line or after a full stop and ends in a colon, or stands alone on its line. Text without any header is
findings. Text before the first header (an institution's letterhead, "FINAL REPORT") is other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

SectionName = Literal["indication", "comparison", "technique", "findings", "impression", "other"]
SECTION_NAMES: Final[tuple[SectionName, ...]] = (
    "indication", "comparison", "technique", "findings", "impression", "other",
)  # fmt: skip

_HEADERS: Final[dict[SectionName, str]] = {
    "findings": r"findings?(?:\s*(?:and|/|&)\s*impressions?)?|chest\s+findings|description|radiographic\s+findings",
    "impression": r"(?:final\s+)?impressions?|conclusions?|summary|opinion|interpretation|diagnosis",
    "indication": r"(?:clinical\s+)?indications?|(?:clinical\s+|patient\s+|medical\s+)?history|clinical\s+information"
    r"|(?:reason|indication)s?\s+for\s+(?:the\s+)?(?:exam(?:ination)?|study)|clinical\s+(?:data|details|question)",
    "comparison": r"comparisons?(?:\s+studies)?|compared\s+(?:with|to)|prior(?:\s+stud(?:y|ies)|\s+exams?)?",
    "technique": r"techniques?|exam(?:ination)?s?|study|procedures?(?:\s+name)?|views?|exam\s+type|type\s+of\s+exam",
    "other": r"recommendations?|notifications?|addendum|wet\s+read|final\s+report|signed(?:\s+by)?|attestation|dictated"
    r"|electronically\s+signed(?:\s+by)?|communication|end\s+of\s+impression",
}
_NAMES: Final = "|".join(f"(?P<{name}>{source})" for name, source in _HEADERS.items())
#: Bounded repeats only: nothing here backtracks over more than a few characters.
_HEADER: Final = re.compile(
    rf"(?:\A|(?<=\n)|(?<=[.!?;])[ \t]{{1,4}})[ \t>*#]{{0,16}}(?:{_NAMES})"
    r"[ \t*]{0,4}(?::[*]{0,2}|(?=[ \t]{0,4}(?:\r?\n|\Z)))",
    re.IGNORECASE,
)
#: Longer than any header that stands alone on its line.
_HEADER_LINE_CHARS: Final = 48
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]{0,80}\n")


class Span(NamedTuple):
    """One section's body: characters [start, end) of the text, without the header."""

    name: SectionName
    start: int
    end: int


@dataclass(frozen=True)
class Sections:
    """The text of each section ("" where there is none); several of one kind are joined by a blank line."""

    indication: str = ""
    comparison: str = ""
    technique: str = ""
    findings: str = ""
    impression: str = ""
    other: str = ""

    @property
    def evidence(self) -> str:
        """What a labeler reads: findings and impression."""
        return "\n\n".join(part for part in (self.findings, self.impression) if part)


def section_spans(text: str) -> list[Span]:
    """Return the sections of a report in reading order, as spans of `text`.

    MIMIC-CXR reports often close a one-line section (comparison, say) with a blank line and go on without a header.
    That remainder is "other"; it counts as findings when the report has neither findings nor an impression.
    """
    headers = list(_HEADER.finditer(text)) if _may_have_header(text) else []
    if not headers:
        return [Span("findings", 0, len(text))]
    spans = [Span("other", 0, headers[0].start())]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        spans += _body(header, end, text)
    spans = [span for span in spans if text[span.start : span.end].strip()]
    if any(span.name in ("findings", "impression") for span in spans):
        return spans
    return [Span("findings", *span[1:]) if span.name == "other" and span.start else span for span in spans]


def _may_have_header(text: str) -> bool:
    """Spares most reports without headers the search: a header has a colon or a short line of its own."""
    return ":" in text or any(0 < len(line) < _HEADER_LINE_CHARS for line in text.split("\n"))


def _body(header: re.Match[str], end: int, text: str) -> list[Span]:
    name = next(name for name in SECTION_NAMES if header.group(name) is not None)
    if name in ("indication", "comparison", "technique"):
        # The header's own line may be empty: look for a blank line only after some text.
        begin = next((i for i in range(header.end(), end) if not text[i].isspace()), end)
        if blank := _BLANK_LINE.search(text, begin, end):
            return [Span(name, header.end(), blank.start()), Span("other", blank.end(), end)]
    return [Span(name, header.end(), end)]


def split_report(text: str) -> Sections:
    """Split a report into its sections. Never raises; linear in the length of the text.

    >>> split_report("INDICATION: Cough. FINDINGS: Lungs are clear.").findings
    'Lungs are clear.'
    """
    parts: dict[str, list[str]] = {name: [] for name in SECTION_NAMES}
    for name, start, end in section_spans(text):
        if body := text[start:end].strip():
            parts[name].append(body)
    return Sections(**{name: "\n\n".join(bodies) for name, bodies in parts.items()})
