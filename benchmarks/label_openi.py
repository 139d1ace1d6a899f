"""Compare the rule labeler with the manual terms of Open-i, observation by observation, and time it.

    python benchmarks/label_openi.py ARCHIVE        (openi_reports/ecgen-radiology.tar.gz)
    python benchmarks/label_openi.py ARCHIVE --half development --disagreements 50

The reports are split in two by a hash of their id. Rules were changed only after reading the development half; the
figures in docs/labeler.md are those of the other half. The archive is read in place, nothing is unpacked.
Source of the reports: Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080 (CC BY-NC-ND 4.0).
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lxml import etree

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import Labels, as_binary
from kdistill.studies.sources.openi_terms import TERMS

#: Nobody indexed these reports, or only as unreadable.
UNINDEXED: Final = "No Indexing"
MAX_REPORT_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class Report:
    """One Open-i report: its id, the text that counts, and its manual terms."""

    id: str
    text: str
    terms: tuple[str, ...]

    @property
    def half(self) -> str:
        """ "development" or "evaluation", by a hash of the id."""
        return ("development", "evaluation")[int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2]

    def states(self, observation: str) -> bool:
        """Whether the manual terms state the observation."""
        wanted = TERMS[observation]
        return any(term == head or term.startswith(head + "/") for term in self.terms for head in wanted)


def read_archive(path: Path) -> Iterator[Report]:
    """Yield the reports of the archive in its order; entities and network access are off."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".xml") and (file := archive.extractfile(member)):
                root = etree.fromstring(file.read(MAX_REPORT_BYTES), parser)
                parts = {node.get("Label"): (node.text or "").strip() for node in root.iter("AbstractText")}
                text = "\n\n".join(part for name in ("FINDINGS", "IMPRESSION") if (part := parts.get(name)))
                terms = tuple((node.text or "").strip() for node in root.iter("major"))
                yield Report(Path(member.name).stem, text, terms)


def f1_row(
    observation: str, reports: Sequence[Report], labels: Sequence[Labels], *, positive_only: bool
) -> list[float]:
    """Precision, recall and F1 of an observation; an uncertain label counts as negative if `positive_only`."""
    policy = "negative" if positive_only else "positive"
    truth = [report.states(observation) for report in reports]
    found = [as_binary(label[observation], policy) == 1 for label in labels]
    both = sum(t and f for t, f in zip(truth, found, strict=True))
    precision = both / sum(found) if any(found) else float("nan")
    recall = both / sum(truth) if any(truth) else float("nan")
    return [precision, recall, 2 * both / max(1, sum(found) + sum(truth))]


def print_table(reports: Sequence[Report], labels: Sequence[Labels]) -> None:
    """The F1 table as Markdown, with n and the number positive."""
    print(f"n = {len(reports)} reports\n")
    print("| observation | positive | precision | recall | F1 | F1, uncertain as negative |")
    print("|---|---|---|---|---|---|")
    for observation in TERMS:
        row = f1_row(observation, reports, labels, positive_only=False)
        certain = f1_row(observation, reports, labels, positive_only=True)[2]
        number = sum(report.states(observation) for report in reports)
        print(f"| {observation} | {number} | " + " | ".join(f"{value:.3f}" for value in [*row, certain]) + " |")


def print_speed(labeler: RuleLabeler, texts: Sequence[str]) -> None:
    """Reports a second of one core, by CPU time (what other processes take does not count) and by the wall clock."""
    cpu, wall = [], []
    for _ in range(5):
        start, start_wall = time.process_time(), time.perf_counter()
        labeler.label_all(texts)
        cpu.append(len(texts) / (time.process_time() - start))
        wall.append(len(texts) / (time.perf_counter() - start_wall))
    print(f"{labeler.name} {labeler.revision}, n = {len(texts)} reports, five passes, reports/s (least, median, most)")
    for name, rates in (("CPU time", sorted(cpu)), ("wall clock", sorted(wall))):
        print(f"  {name}: {rates[0]:,.0f} {rates[2]:,.0f} {rates[4]:,.0f}")


def print_disagreements(reports: Sequence[Report], labels: Sequence[Labels], limit: int) -> None:
    """Every n-th disagreement, so that all observations have their share."""
    found = [
        (observation, report, label[observation])
        for report, label in zip(reports, labels, strict=True)
        for observation in TERMS
        if (label[observation] in (1, -1)) != report.states(observation)
    ]
    print(f"\n{len(found)} disagreements: {dict(Counter(item[0] for item in found))}\n")
    for observation, report, state in sorted(found, key=lambda item: item[0])[:: max(1, len(found) // limit)][:limit]:
        print(f"--- {observation}: labeler {state}, terms {list(report.terms)}\n{report.text}\n")


def main() -> None:
    """Parse, label, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--half", choices=["evaluation", "development"], default="evaluation")
    parser.add_argument("--disagreements", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    reports = list(read_archive(arguments.archive))
    labeler = RuleLabeler()
    texts = [report.text for report in reports]
    labels = labeler.label_all(texts)
    print_speed(labeler, texts)
    kept = [
        (report, label)
        for report, label in zip(reports, labels, strict=True)
        if report.half == arguments.half and report.text and UNINDEXED not in report.terms
    ]
    seen = {report.text for report in reports if report.half != arguments.half}
    repeated = sum(report.text in seen for report, _ in kept)
    print(f"{arguments.half} half; {repeated} of its texts stand word for word in the other half")
    print_table([report for report, _ in kept], [label for _, label in kept])
    if arguments.disagreements:
        print_disagreements([report for report, _ in kept], [label for _, label in kept], arguments.disagreements)


if __name__ == "__main__":
    main()
