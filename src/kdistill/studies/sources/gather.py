"""Tables with a row an image -> studies with several images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kdistill.records import Study
from kdistill.studies.sources.common import SourceImage, SourceStudy, SourceTable
from kdistill.studies.table import Problems


@dataclass
class Gathered:
    """Studies in the order of their first rows; what stands in further rows adds images.

    A study whose images carry different labels is left out: which of them is right cannot be told.
    """

    items: dict[str, SourceStudy] = field(default_factory=dict)
    _differing: set[str] = field(default_factory=set)
    _paths: set[Path] = field(default_factory=set)

    def add(self, study: Study, image: SourceImage, line: int, problems: Problems, file: str = "") -> None:
        """Add one row; an image that stands above already is a mistake of the table."""
        if image.path in self._paths:
            problems.add(line, "the same image stands above", file)
            return
        self._paths.add(image.path)
        item = self.items.setdefault(study.study_id, SourceStudy(study, []))
        if item.study.labels != study.labels:
            self._differing.add(study.study_id)
        item.images.append(image)

    def table(self) -> SourceTable:
        """The studies, and those left out because their images carry different labels."""
        kept = [item for study_id, item in self.items.items() if study_id not in self._differing]
        return SourceTable(kept, [(study_id, "labels_differ_between_images") for study_id in sorted(self._differing)])
