"""Report text -> its sections: indication, comparison, technique, findings, impression.

Headers are those of MIMIC-CXR and Open-i reports ("FINDINGS:", "Reason for exam:", "CONCLUSION"). A header stands at
the start of a line or after a full stop and ends in a colon, or stands alone on its line; the usual ones are also found
inside a line without a full stop before them ("COMPARISON: None FINDINGS: Clear."), if they start with a capital. Text
without any header is findings. Text before the first header (an institution's letterhead, "FINAL REPORT") is other.
How often that is right: docs/sections.md.
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
    "impression": r"(?:final\s+)?impressions?|conclusions?|summary|opinion|interpretations?|diagnosis",
    "indication": r"(?:clinical\s+)?indications?|(?:clinical\s+|patient\s+|medical\s+)?history"
    r"|clinical(?:\s+(?:information|data|details|question|statement|background))?"
    r"|(?:reason|indication)s?\s+for\s+(?:the\s+)?(?:exam(?:ination)?|study|procedure|test)",
    "comparison": r"comparisons?(?:\s+studies)?|compared\s+(?:with|to)|prior(?:\s+stud(?:y|ies)|\s+exams?)?",
    "technique": r"techniques?|exam(?:ination)?s?|study|procedures?(?:\s+name)?|views?|exam\s+type|type\s+of\s+exam",
    "other": r"recommendations?|notifications?|addendum|wet\s+read|final\s+report|signed(?:\s+by)?|attestation|dictated"
    r"|electronically\s+signed(?:\s+by)?|communication|end\s+of\s+impression",
}
#: Headers that are taken for one inside a line. Few, because "PA AND LATERAL VIEWS: ..." must stay one section.
_INLINE: Final[dict[SectionName, str]] = {
    "findings": r"findings?(?:\s+and\s+impressions?)?",
    "impression": r"impressions?|conclusions?",
    "indication": r"(?:clinical\s+)?indications?|clinical\s+history|reason\s+for\s+exam(?:ination)?",
    "comparison": r"comparisons?",
    "technique": r"techniques?",
}


def _groups(headers: dict[SectionName, str], prefix: str) -> str:
    return "(?:" + "|".join(f"(?P<{prefix}{name}>{source})" for name, source in headers.items()) + ")"


_COLON: Final = r"[ \t*]{0,4}:[*]{0,2}"
#: Bounded repeats only: nothing here backtracks over more than a few characters. A header without a colon is a line of
#: its own: a line may well end in the first word of a sentence ("... are normal. Prior").
_HEADER: Final = re.compile(
    rf"(?:\A|(?<=\n))[ \t>*#]{{0,16}}{_groups(_HEADERS, 'line_')}"
    rf"(?:{_COLON}|[ \t*]{{0,4}}(?=[ \t]{{0,4}}(?:\r?\n|\Z)))"
    rf"|(?<=[.!?;])[ \t]{{1,4}}[*]{{0,2}}{_groups(_HEADERS, 'stop_')}{_COLON}"
    rf"|(?<=[^\s.!?;])[ \t]{{1,4}}(?-i:(?=[A-Z])){_groups(_INLINE, 'word_')}[ \t]{{0,4}}:",
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
    headers = [_read(match, text) for match in _HEADER.finditer(text)] if _may_have_header(text) else []
    if not headers:
        return [Span("findings", 0, len(text))]
    headers = _name_interpretations(headers, text)
    spans = [Span("other", 0, headers[0].start)]
    ends = [header.start for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        spans += _body(header, end, text)
    spans = [span for span in spans if text[span.start : span.end].strip()]
    if any(span.name in ("findings", "impression") for span in spans):
        return spans
    return [Span("findings", *span[1:]) if span.name == "other" and span.start else span for span in spans]


def _may_have_header(text: str) -> bool:
    """Spares most reports without headers the search: a header has a colon or a short line of its own."""
    return ":" in text or any(0 < len(line) < _HEADER_LINE_CHARS for line in text.split("\n"))


def _read(match: re.Match[str], text: str) -> Span:
    """The name and place of a header. A short beginning of its line belongs to it ("CT CHEST FINDINGS:")."""
    assert match.lastgroup is not None  # every alternative has one
    kind, _, name = match.lastgroup.partition("_")
    start = match.start()
    if kind == "word":
        line = text.rfind("\n", max(0, start - _HEADER_LINE_CHARS), start) + 1
        if (line or start < _HEADER_LINE_CHARS) and ":" not in text[line:start]:
            start = line
    return Span(name, start, match.end())  # type: ignore[arg-type]


def _name_interpretations(headers: list[Span], text: str) -> list[Span]:
    """An interpretation is the impression, but findings where an impression of another name follows it."""
    plain = ["interpretation" not in text[header.start : header.end].lower() for header in headers]
    last = max((n for n, header in enumerate(headers) if plain[n] and header.name == "impression"), default=-1)
    return [
        header._replace(name="findings") if header.name == "impression" and not plain[n] and n < last else header
        for n, header in enumerate(headers)
    ]


def _body(header: Span, end: int, text: str) -> list[Span]:
    name = header.name
    if name in ("indication", "comparison", "technique"):
        # The header's own line may be empty: look for a blank line only after some text.
        begin = next((i for i in range(header.end, end) if not text[i].isspace()), end)
        if blank := _BLANK_LINE.search(text, begin, end):
            return [Span(name, header.end, blank.start()), Span("other", blank.end(), end)]
    return [Span(name, header.end, end)]


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
