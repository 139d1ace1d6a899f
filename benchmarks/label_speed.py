"""Reports a second of one core: our rules against medspacy's ConText, on the same Open-i reports and the same words.

    python benchmarks/label_speed.py ARCHIVE                        (openi_reports/ecgen-radiology.tar.gz)
    PYTHONPATH=src VENV/bin/python benchmarks/label_speed.py ARCHIVE --with medspacy

medspacy forces numpy 1.26, so it lives in an environment of its own (python -m venv VENV; VENV/bin/pip install
medspacy) that needs nothing of ours but this source tree. Its pipeline is the default one of `medspacy.load()`:
tokenizer, PyRuSH sentences, target matcher, ConText with its own English rules. Its target rules are our phrases for
the 14 observations; a stem ("atelecta*") becomes the forms that stand in the reports. Time is CPU time: what other
processes take does not count. Loading and building the rules are not timed.
"""

from __future__ import annotations

import argparse
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from kdistill.labelers import phrases

MAX_REPORT_BYTES = 1_000_000


def read_texts(archive: Path) -> list[str]:
    """Findings and impression of every report that has any, in the archive's order."""
    texts = []
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and member.name.endswith(".xml") and (file := files.extractfile(member)):
                root = ElementTree.fromstring(file.read(MAX_REPORT_BYTES))
                parts = {node.get("Label"): (node.text or "").strip() for node in root.iter("AbstractText")}
                texts.append("\n\n".join(part for name in ("FINDINGS", "IMPRESSION") if (part := parts.get(name))))
    return [text for text in texts if text]


def literals(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(observation, phrase) for every phrase of ours; a stem as each of its forms in the texts."""
    everything = "\n".join(texts).lower()
    for observation, listing in phrases.MENTIONS.items():
        for phrase in dict.fromkeys(" ".join(part.split()) for part in listing.split("|")):
            if "*" not in phrase:
                yield observation, phrase
                continue
            pattern = r"[\s\-]+".join(re.escape(word).replace(r"\*", "[a-z]*") for word in phrase.split())
            for form in sorted(set(re.findall(rf"\b{pattern}\b", everything))):
                yield observation, " ".join(form.split())


def open_rules() -> Callable[[str], object]:
    """Our labeler."""
    from kdistill.labelers.rules import RuleLabeler

    labeler = RuleLabeler()
    print(f"{labeler.name} {labeler.revision}")
    return labeler.label


def open_medspacy(texts: Sequence[str]) -> Callable[[str], object]:
    """medspacy's default pipeline with our phrases as targets."""
    from importlib.metadata import version

    import medspacy
    from loguru import logger
    from medspacy.ner import TargetRule

    logger.remove()  # PyRuSH logs every sentence at debug level, which would be counted against it
    pipeline = medspacy.load()
    rules = [TargetRule(phrase, observation) for observation, phrase in literals(texts)]
    pipeline.get_pipe("medspacy_target_matcher").add(rules)
    print(f"medspacy {version('medspacy')}, spaCy {version('spacy')}, {len(rules)} target rules, {pipeline.pipe_names}")
    return pipeline


def main() -> None:
    """Read, open, time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--with", dest="reader", choices=["rules", "medspacy"], default="rules")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="Read every K-th report only.")
    arguments = parser.parse_args()
    texts = read_texts(arguments.archive)
    read = open_rules() if arguments.reader == "rules" else open_medspacy(texts)
    texts = texts[:: arguments.every]
    read(texts[0])  # whatever is built on first use
    for number in range(arguments.passes):
        start, wall = time.process_time(), time.perf_counter()
        for text in texts:
            read(text)
        cpu, wall = time.process_time() - start, time.perf_counter() - wall
        rate = len(texts) / cpu
        print(f"pass {number + 1}: n = {len(texts)}, {rate:,.1f} reports/s (CPU {cpu:.1f} s, wall {wall:.1f} s)")


if __name__ == "__main__":
    main()
