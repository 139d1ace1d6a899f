"""What crosses stages. One class for one thing; JSONL on disk, one record a line, UTF-8, keys as declared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from kdistill.errors import InputError
from kdistill.observations import FINDINGS, OBSERVATIONS, LabelState

Split = Literal["train", "validate", "test"]
State = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "bilateral"]
Zone = Literal["upper", "middle", "lower"]
#: Where the where term's region is put: where the literature says, or at a wrong place, for a control.
Place = Literal["stated", "mirrored", "displaced"]
Severity = Literal["mild", "moderate", "severe"]
PairKind = Literal["removed", "added", "moved", "shortcut"]


class Record(BaseModel):
    """Base of all records: immutable and strict."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Article(Record):
    """One publication. `id` is unique in a corpus; `source` names the file that it came from (never a full path)."""

    id: str
    title: str = ""
    text: str
    pmid: str | None = None
    pmcid: str | None = None
    doi: str | None = None
    year: int | None = None
    mesh: tuple[str, ...] = ()
    license: str | None = None
    retracted: bool = False
    source: str | None = None


class Passage(Record):
    """A few consecutive sentences of one article: what is indexed, retrieved and cited."""

    id: str
    article_id: str
    pmid: str | None = None
    title: str = ""
    year: int | None = None
    text: str


class StudyImage(Record):
    """One image of a study. `row` is its index in the studies stage's images.npy."""

    image_path: str
    row: int
    view_position: str | None = None
    dicom_id: str | None = None


class Study(Record):
    """One examination of one patient. Carries no ground truth: that lives in truth.jsonl, for evaluation and audit.

    `labels` holds only the label columns of the data set itself (1, 0, -1, None); a column that has no sound mapping
    is absent. `source` names the data set, so that confounds between sets can be shown.
    """

    study_id: str
    patient_id: str
    split: Split
    images: tuple[StudyImage, ...]
    source: str = ""
    view_position: str | None = None
    sex: str | None = None
    age: float | None = None
    indication: str = ""
    findings: str = ""
    impression: str = ""
    labels: dict[str, LabelState] | None = None
    prior_study_id: str | None = None

    @field_validator("labels")
    @classmethod
    def _known_observations(cls, value: dict[str, LabelState] | None) -> dict[str, LabelState] | None:
        if value is not None and (unknown := set(value) - set(OBSERVATIONS)):
            raise ValueError(f"unknown observations {sorted(unknown)}")
        return value

    @property
    def report(self) -> str:
        """Findings and impression, the text that a labeler reads ("" for a study without a report)."""
        return "\n".join(part for part in (self.findings, self.impression) if part)


class Truth(Record):
    """Ground truth of one study, for evaluation and audit only. `masks`: observation -> row of masks.npy.

    `truth` is empty where a data set gives regions (readers' boxes) but no more than mined labels.
    """

    study_id: str
    truth: dict[str, int]
    masks: dict[str, int] = {}
    sides: dict[str, Side] = {}


class CounterfactualPair(Record):
    """Two renderings of one patient that differ in one thing. Rows index pair_images.npy.

    `before` shows the study as it is, `after` with the observation removed, added or moved to the other side, or with
    the shortcut toggled (then `observation` is the one tied to it in training). `mask_row` indexes pair_masks.npy.
    """

    pair_id: str
    kind: PairKind
    study_id: str
    patient_id: str
    observation: str
    before_row: int
    after_row: int
    mask_row: int | None = None
    before_side: Side | None = None
    after_side: Side | None = None
    before_truth: dict[str, int] = {}
    after_truth: dict[str, int] = {}
    shortcut_before: bool | None = None


class Citation(Record):
    """A verbatim span of an article that supports a sentence."""

    article_id: str
    pmid: str | None = None
    quote: str


class RationaleEntry(Record):
    """The teacher's reasoning about one observation in one study."""

    observation: str
    state: State
    side: Side | None = None
    zone: Zone | None = None
    severity: Severity | None = None
    evidence: tuple[str, ...] = ()
    mechanism: str = ""
    differential: str = ""
    text: str
    citations: tuple[Citation, ...] = ()


class Rationale(Record):
    """The teacher's text for one study: entries in the order of OBSERVATIONS, and their joined `text`.

    In rejected.jsonl `reason` names why it was refused; in rationales.jsonl it is None.
    """

    study_id: str
    teacher: str
    entries: tuple[RationaleEntry, ...]
    text: str
    reason: str | None = None


class Prediction(Record):
    """What one student says about one study: 14 probabilities in OBSERVATIONS order (None: it has no label head)."""

    study_id: str
    patient_id: str
    split: Split
    arm: str
    seed: int
    probabilities: tuple[float, ...] | None
    findings: str
    impression: str
    rationale: str


class ProbeItem(Record):
    """A held-out wording of a radiographic sign and the observation it points to (the teacher's knowledge probe).

    `declarative_only`: the literature states the sign, but never shows it in a case report.
    """

    phrase: str
    observation: str
    declarative_only: bool = False

    @field_validator("observation")
    @classmethod
    def _is_a_finding(cls, value: str) -> str:
        if value not in FINDINGS:
            raise ValueError(f"{value!r} is none of {', '.join(FINDINGS)}")
        return value


R = TypeVar("R", bound=Record)


def write_jsonl(path: Path, records: Iterable[Record | Mapping[str, object]]) -> int:
    """Write records one a line; returns how many. The file is synced; publishing it is the stage folder's business."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            data = record.model_dump(mode="json") if isinstance(record, Record) else record
            file.write(json.dumps(data, ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a JSONL file.

    Raises:
        InputError: The file is missing, or a line is no valid record (the line number is named).
    """
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"]) or "line"
                raise InputError(
                    f"{field}: {str(first['msg']).removeprefix('Value error, ')}", where=f"{path.name} line {number}"
                ) from error
