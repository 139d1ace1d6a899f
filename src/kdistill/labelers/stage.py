"""The labels stage: read every study's report once; what cannot be read is counted by name."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from kdistill.artifact import StageWriter
from kdistill.labelers.config import LabelerConfig
from kdistill.labelers.labeler import Labeler, open_labeler
from kdistill.labelers.language import is_english, is_placeholder_only
from kdistill.observations import Labels
from kdistill.records import Record, Split, Study, read_jsonl, write_jsonl

TRAINING_LABELS: Final = "labels.jsonl"
TEST_LABELS: Final = "test_labels.jsonl"
#: Characters; ten times the longest report of Open-i (measured: 2,241). Such a report is labelled all the same.
OVER_LONG_CHARS: Final = 20_000

ReportKind = Literal["labelled", "empty", "placeholder_only", "not_english"]


class StudyLabels(Record):
    """The 14 labels of one study as its report states them."""

    study_id: str
    split: Split
    labels: Labels


def report_kind(report: str) -> ReportKind:
    """What a labeler can do with a report.

    >>> report_kind("___ ___."), report_kind("Kein Erguss und kein Infiltrat."), report_kind("No effusion.")
    ('placeholder_only', 'not_english', 'labelled')
    """
    if not report.strip():
        return "empty"
    if is_placeholder_only(report):
        return "placeholder_only"
    return "labelled" if is_english(report.lower()) else "not_english"


def label_studies(studies: Iterable[Study], labeler: Labeler, counts: Counter[str]) -> list[StudyLabels]:
    """Label the studies that have a report, counting every study by what its report is.

    Empty and placeholder-only reports say nothing: they get no row. A report in another language gets a row without
    mentions. `counts` sums to the studies over "labelled", "empty", "placeholder_only" and "not_english"; "over_long"
    counts besides.
    """
    read: list[Study] = []
    for study in studies:
        kind = report_kind(study.report)
        counts[kind] += 1
        counts["over_long"] += len(study.report) > OVER_LONG_CHARS
        if kind in ("labelled", "not_english"):
            read.append(study)
    found = labeler.label_all([study.report for study in read])
    return [
        StudyLabels(study_id=study.study_id, split=study.split, labels=labels)
        for study, labels in zip(read, found, strict=True)
    ]


def build_labels(stage: StageWriter, config: LabelerConfig, studies_dir: Path) -> None:
    """Write labels.jsonl (train and validate) and test_labels.jsonl (test: read by evaluation only).

    Args:
        stage: The folder to write into; receives the counts of `label_studies`.
        config: Which labeler.
        studies_dir: The studies stage (studies.jsonl).

    Raises:
        InputError: studies.jsonl is missing or damaged, or what the labeler needs is (see `open_labeler`).
    """
    labeler = open_labeler(config)
    counts: Counter[str] = Counter(
        dict.fromkeys(("labelled", "empty", "placeholder_only", "not_english", "over_long"), 0)
    )
    rows = label_studies(read_jsonl(studies_dir / "studies.jsonl", Study), labeler, counts)
    write_jsonl(stage.dir / TRAINING_LABELS, (row for row in rows if row.split != "test"))
    write_jsonl(stage.dir / TEST_LABELS, (row for row in rows if row.split == "test"))
    _write_labeler(stage.dir / "labeler.json", labeler)
    for name, count in counts.items():
        stage.count(name, count)
    stage.log("labelled", labeler=labeler.name, revision=labeler.revision, rows=len(rows))


def _write_labeler(path: Path, labeler: Labeler) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump({"name": labeler.name, "revision": labeler.revision}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
