"""Does the section parser find what is there? Open-i reports written out as text, and radiology notes of MTSamples.

    python benchmarks/sections.py openi ARCHIVE         (openi_reports/ecgen-radiology.tar.gz)
    python benchmarks/sections.py mtsamples FILE        (mtsamples/mtsamples.jsonl.gz)
    ... --half development --show 20                    prints what went wrong, or notes to judge by eye

Open-i's XML says what each section is: its sections are written as one text in five usual styles and must be found
again. MTSamples has no such truth: what is counted is how many notes get findings or an impression at all, and `--show`
prints them for a reader to judge. Both are split in two by a hash of their id; the parser was changed only after
looking at the development half. Figures: docs/sections.md. Files are read in place.
Sources: Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080 (CC BY-NC-ND 4.0); mtsamples.com by way of
github.com/kdpsingh/clinspacy (CC0).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kdistill.sections import Sections, split_report
from kdistill.studies.sources.openi_reports import OpeniReport, iter_reports

#: In the order in which reports have them.
SECTIONS: Final = ("indication", "comparison", "findings", "impression")


def half_of(name: str) -> str:
    """ "development" or "evaluation", by a hash of the id."""
    return ("development", "evaluation")[int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2]


def parts_of(report: OpeniReport) -> dict[str, str]:
    """The sections that are not empty."""
    return {name: text for name in SECTIONS if (text := getattr(report, name))}


def in_lines(parts: Mapping[str, str]) -> str:
    """A header and its text on one line, the next on the next."""
    return "\n".join(f"{name.upper()}: {text}" for name, text in parts.items())


def in_one_line(parts: Mapping[str, str]) -> str:
    """All in one line, as tables hold reports."""
    return " ".join(f"{name.upper()}: {text}" for name, text in parts.items())


def _wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def as_mimic(parts: Mapping[str, str]) -> str:
    """Letterhead, headers apart from their text, lines wrapped and indented: the look of MIMIC-CXR reports."""
    wrapped = (f" {name.upper()}:\n \n" + _wrapped(text, 78, " ") for name, text in parts.items())
    return " " * 33 + "FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n" + "\n \n".join(wrapped) + "\n"


def under_titles(parts: Mapping[str, str]) -> str:
    """Headers alone on their lines, without a colon."""
    return "\n\n".join(f"{name.capitalize()}\n{_wrapped(text, 90)}" for name, text in parts.items())


def with_empty_headers(parts: Mapping[str, str]) -> str:
    """Every header, also where nothing follows it."""
    return "\n".join(f"{name.capitalize()}: {parts.get(name, '')}" for name in SECTIONS)


STYLES: Final[Mapping[str, Callable[[Mapping[str, str]], str]]] = {
    "lines": in_lines,
    "one line": in_one_line,
    "MIMIC-CXR": as_mimic,
    "titles": under_titles,
    "empty headers": with_empty_headers,
}


class Score(NamedTuple):
    """One section in one style: reports, share found word for word, mean F1 of its words where there are any."""

    n: int
    exact: float
    num_with_words: int
    token_f1: float


def token_f1(truth: str, found: str) -> float:
    """F1 of the bag of words.

    >>> round(token_f1("no edema", "no large edema"), 3)
    0.8
    """
    wanted, got = Counter(truth.split()), Counter(found.split())
    return 2 * (wanted & got).total() / max(1, wanted.total() + got.total())


def score(pairs: Sequence[tuple[str, str]]) -> Score:
    """Score (truth, found) pairs; blanks are folded."""
    folded = [(" ".join(truth.split()), " ".join(found.split())) for truth, found in pairs]
    words = [pair for pair in folded if any(pair)]
    exact = sum(truth == found for truth, found in folded) / max(1, len(folded))
    return Score(len(folded), exact, len(words), sum(token_f1(*pair) for pair in words) / max(1, len(words)))


def print_openi(reports: Sequence[OpeniReport], show: int) -> None:
    """The table of scores, then up to `show` reports that came out wrong."""
    print(f"n = {len(reports)} reports\n\n| style | section | exact | token F1 (n) |\n|---|---|---|---|")
    wrong: list[str] = []
    for style, write in STYLES.items():
        found = [split_report(write(parts_of(report))) for report in reports]
        for name in SECTIONS:
            pairs = [(getattr(r, name), getattr(f, name)) for r, f in zip(reports, found, strict=True)]
            got = score(pairs)
            print(f"| {style} | {name} | {got.exact:.4f} | {got.token_f1:.4f} ({got.num_with_words}) |")
        wrong += [
            f"--- {style}\n{write(parts_of(report))}\n=> {sections}"
            for report, sections in zip(reports, found, strict=True)
            if any(" ".join(getattr(sections, n).split()) != getattr(report, n) for n in SECTIONS)
        ]
    print(f"\n{len(wrong)} texts of {len(STYLES) * len(reports)} came out wrong")
    print("\n\n".join(wrong[:: max(1, len(wrong) // max(1, show))][:show]))


class Note(NamedTuple):
    """One note of MTSamples."""

    name: str
    text: str


def with_line_breaks(text: str) -> str:
    """Undo what the copy did: its line breaks are commas, after what ended a line or before a header in capitals."""
    return re.sub(r"(?<=[.:?!)])[ \t]*,|[ \t]*,(?=[A-Z][A-Z /]{2,30}:)", "\n", text)


def read_notes(path: Path) -> Iterator[Note]:
    """The notes filed under Radiology."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record["medical_specialty"].strip() == "Radiology":
                yield Note(f"{record['note_id']} {record['sample_name'].strip()}", record["transcription"])


def kind_of(sections: Sections, text: str) -> str:
    """What a note came out as."""
    if sections.findings.strip() == text.strip():
        return "all findings (no header known)"
    names = [name for name in ("findings", "impression") if getattr(sections, name)]
    return " and ".join(names) or "neither"


def print_mtsamples(notes: Sequence[Note], show: int) -> None:
    """How many notes get findings or an impression, as copied and with their line breaks; then notes to judge."""
    print(f"n = {len(notes)} radiology notes")
    for title, change in (("as copied", str), ("line breaks restored", with_line_breaks)):
        counts = Counter(kind_of(split_report(change(note.text)), change(note.text)) for note in notes)
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    for note in notes[:: max(1, len(notes) // max(1, show))][:show]:
        text = with_line_breaks(note.text)
        print(f"\n{'=' * 100}\n{note.name}\n{text}")
        sections = split_report(text)
        for name in (*SECTIONS, "technique", "other"):
            print(f"  >> {name}: {textwrap.shorten(getattr(sections, name), 300)}")


def main() -> None:
    """Parse, split, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=["openi", "mtsamples"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--half", choices=["evaluation", "development"], default="evaluation")
    parser.add_argument("--show", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    print(f"{arguments.half} half")
    if arguments.source == "openi":
        reports = [r for r in iter_reports(arguments.path, 256) if isinstance(r, OpeniReport)]
        print_openi([r for r in reports if half_of(r.uid) == arguments.half], arguments.show)
    else:
        notes = [note for note in read_notes(arguments.path) if half_of(note.name) == arguments.half]
        print_mtsamples(notes, arguments.show)


if __name__ == "__main__":
    main()
