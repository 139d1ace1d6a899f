"""`data check`: what a user should know of a data set before training on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from pydantic import Field

from kdistill.errors import InputError
from kdistill.labelers.language import is_english, is_placeholder_only
from kdistill.pipeline.recipe import load_recipe
from kdistill.records import Record, Study
from kdistill.studies.config import FileSource, FolderStudies, StudiesConfig
from kdistill.studies.images import read_grey
from kdistill.studies.sources.common import SourceStudy
from kdistill.studies.sources.read import read_source

_LONG_REPORT = 20_000


class DataCheck(Record):
    """What was found. `leaks` make the check fail; `warnings` are for the user to judge."""

    source: str
    counts: dict[str, int]
    leaks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: dict[str, str] = Field({}, description="Image file -> why it cannot be used (at most 50).")

    def lines(self) -> list[str]:
        """The findings as text, one a line."""
        shown = [f"{count:>7}  {name}" for name, count in self.counts.items()]
        shown += [f"warning: {text}" for text in self.warnings]
        shown += [f"unusable: {name}: {reason}" for name, reason in self.unusable.items()]
        return [f"data: {self.source}", *shown, *[f"LEAK: {text}" for text in self.leaks]]


def check_data(source: str) -> DataCheck:
    """Check a folder with studies.csv, or the studies section of a recipe.

    Raises:
        InputError: The table is wrong (all problems with line numbers), or there is nothing to check.
    """
    folder = Path(source)
    if folder.is_dir():
        return _check(source, [FolderStudies(path=source)])
    config: StudiesConfig = load_recipe(source).studies
    match config.kind:
        case "phantom":
            raise InputError(
                "its studies are rendered, not read: there is no data set to check",
                where=source,
                remedy="Write one with `kdistill phantom render --out DIR` and check DIR.",
            )
        case "combined":
            return _check(source, list(config.sources))
        case _:
            return _check(source, [config])


def _check(name: str, sources: list[FileSource]) -> DataCheck:
    tables = [read_source(source) for source in sources]
    items = [item for table in tables for item in table.studies]
    counts: Counter[str] = Counter(studies=len(items), patients=len({item.study.patient_id for item in items}))
    counts.update(reason for table in tables for _, reason in table.left_out)
    for table in tables:
        counts.update(table.counts)
    counts.update(f"split {item.study.split}" for item in items)
    counts.update(f"view {item.study.view_position or 'unknown'}" for item in items)
    pixels = _Pixels()
    for item in items:
        pixels.read(item)
    counts["images"] = pixels.count
    counts["images unusable"] = len(pixels.unusable)
    warnings = [*_about_reports([item.study for item in items]), *_about_labels(items), *pixels.warnings()]
    return DataCheck(
        source=name,
        counts=dict(counts),
        leaks=tuple(pixels.leaks),
        warnings=tuple(warnings),
        unusable=dict(list(pixels.unusable.items())[:50]),
    )


class _Pixels:
    """Reads every image once; remembers hashes only."""

    def __init__(self) -> None:
        self.count = 0
        self.unusable: dict[str, str] = {}
        self.leaks: list[str] = []
        self._first: dict[str, Study] = {}
        self._equal = 0

    def read(self, item: SourceStudy) -> None:
        for path in (image.path for image in item.images):
            self.count += 1
            try:
                grey = read_grey(path)
            except InputError as error:
                self.unusable[path.name] = error.what
                continue
            key = hashlib.sha256(grey.tobytes() + str(grey.shape).encode()).hexdigest()
            first = self._first.setdefault(key, item.study)
            if first.study_id != item.study.study_id:
                self._note_equal(first, item.study)

    def _note_equal(self, first: Study, second: Study) -> None:
        self._equal += 1
        if first.split != second.split:
            self.leaks.append(
                f"studies {first.study_id} ({first.split}) and {second.study_id} ({second.split}) have equal pixels"
            )

    def warnings(self) -> list[str]:
        return [f"{self._equal} images have the same pixels as an image of another study"] if self._equal else []


def _about_reports(studies: list[Study]) -> list[str]:
    reports = [study.report for study in studies]
    found = {
        "have no report": sum(not report for report in reports),
        "have a report of placeholders (___) only": sum(is_placeholder_only(r) for r in reports),
        "have a report that is not English": sum(
            bool(r) and not is_placeholder_only(r) and not is_english(r.lower()) for r in reports
        ),
        f"have a report longer than {_LONG_REPORT} characters": sum(len(report) > _LONG_REPORT for report in reports),
    }
    return [f"{count} of {len(studies)} studies {text}" for text, count in found.items() if count]


def _about_labels(items: list[SourceStudy]) -> list[str]:
    labelled = [item.study.labels for item in items if item.study.labels]
    contradicting = sum(
        labels.get("No Finding") == 1
        and any(value == 1 for key, value in labels.items() if key not in ("No Finding", "Support Devices"))
        for labels in labelled
    )
    return [f"{contradicting} studies are labelled No Finding and a finding at once"] if contradicting else []
