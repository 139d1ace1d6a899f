"""The studies that are scored, as published: who they are, what is known of them, what the arms say."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError
from kdistill.evaluation import text
from kdistill.evaluation.config import SubgroupBy
from kdistill.evaluation.measures import TextMaterial
from kdistill.evaluation.scores import Outputs, Reference, ReferenceKind
from kdistill.evaluation.targets import BLANK, mask_silent_columns, state_matrix
from kdistill.labelers.labeler import Labeler, labeler_id
from kdistill.labelers.stage import TEST_LABELS, StudyLabels, report_kind
from kdistill.observations import NUM_OBSERVATIONS, Labels
from kdistill.records import Split, Study, read_jsonl
from kdistill.studies.store import load_studies, load_truth

logger = logging.getLogger(__name__)

PREDICTIONS: Final = "predictions.parquet"
_COLUMNS: Final = ("study_id", "split", "probabilities", "findings", "impression", "rationale")
_AGE_BANDS: Final = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))


@dataclass(frozen=True)
class Cohort:
    """The N studies of one split, in their published order."""

    split: Split
    studies: tuple[Study, ...]

    @property
    def study_ids(self) -> tuple[str, ...]:
        """The studies' names."""
        return tuple(study.study_id for study in self.studies)

    @property
    def patient_ids(self) -> tuple[str, ...]:
        """The patient of each study."""
        return tuple(study.patient_id for study in self.studies)

    @property
    def sources(self) -> tuple[str, ...]:
        """The data set of each study."""
        return tuple(study.source for study in self.studies)

    @property
    def reported(self) -> NDArray[np.intp]:
        """Rows of the studies that have a report."""
        return np.asarray([row for row, study in enumerate(self.studies) if study.report.strip()], dtype=np.intp)


def load_cohort(studies_dir: Path, split: Split) -> Cohort:
    """The studies of a split (possibly none: every score is then null with that reason)."""
    return Cohort(split, tuple(load_studies(studies_dir, split)))


def load_reference(
    kind: ReferenceKind, cohort: Cohort, studies_dir: Path, labels_dir: Path, labeler: Labeler
) -> tuple[Reference, dict[str, int]] | None:
    """One kind of reference for the cohort, or None where the data have none.

    Returns:
        The reference, and counts of what was left out of it, by name.
    """
    left_out: dict[str, int] = {}
    match kind:
        case "truth":
            truth = load_truth(studies_dir) or {}
            found = {name: _certain(truth[name].truth) for name in cohort.study_ids if name in truth}
        case "labels":
            found = {study.study_id: study.labels for study in cohort.studies if study.labels}
        case "report":
            found, left_out["reports_not_read"] = _report_labels(cohort, labels_dir)
    states = state_matrix([found.get(name, {}) for name in cohort.study_ids])
    if kind == "labels":
        states, left_out["silent_label_columns"] = mask_silent_columns(states, cohort.sources)
    if not (states >= BLANK).any():
        return None
    return Reference(kind, states, _writer(labels_dir, labeler) if kind == "report" else None), left_out


def _writer(labels_dir: Path, labeler: Labeler) -> str:
    """What labelled the test reports: the labels stage says so itself; a difference from ours is told."""
    path, ours = labels_dir / "labeler.json", labeler_id(labeler)
    if not path.is_file():
        return ours
    said = json.loads(path.read_text(encoding="utf-8"))
    theirs = f"{said['name']}@{said['revision']}"
    if theirs != ours:
        logger.warning("test reports were labelled by %s, generated ones by %s: rerun the labels stage", theirs, ours)
    return theirs


def _report_labels(cohort: Cohort, labels_dir: Path) -> tuple[dict[str, Labels], int]:
    """The labels of the test reports, and how many reports the labeler cannot read.

    A report in another language has a row without mentions; as a reference it would call every finding absent.
    """
    path = labels_dir / TEST_LABELS
    lines = {line.study_id: line.labels for line in read_jsonl(path, StudyLabels)} if path.is_file() else {}
    readable = {study.study_id for study in cohort.studies if report_kind(study.report) == "labelled"}
    return {name: labels for name, labels in lines.items() if name in readable}, len(lines.keys() - readable)


def _certain(truth: Mapping[str, int]) -> Labels:
    return {name: 1 if value else 0 for name, value in truth.items()}


def load_outputs(
    arm: str, seed: int, student_dir: Path, cohort: Cohort, labeler: Labeler, *, with_text: bool
) -> Outputs:
    """What one student said about the cohort, in the cohort's order, its texts labelled.

    Args:
        arm: Name of the arm.
        seed: Its seed.
        student_dir: The published folder with predictions.parquet.
        cohort: The studies to score.
        labeler: Reads the texts.
        with_text: Also prepare BLEU and ROUGE against the studies' own reports.

    Raises:
        InputError: The file is missing or damaged, a study is missing or stands twice, or there are not
            14 probabilities.
    """
    where = f"{arm}/seed-{seed}/{PREDICTIONS}"
    rows = _in_order(_read_parquet(student_dir / PREDICTIONS, where, cohort.split), cohort, where)
    reports = [join_report(row["findings"], row["impression"]) for row in rows]
    outputs = Outputs(
        arm=arm,
        seed=seed,
        probabilities=_probabilities([row["probabilities"] for row in rows], where),
        report_states=label_texts(reports, labeler),
        rationale_states=label_texts([join_report(row["rationale"]) for row in rows], labeler),
    )
    if not with_text or outputs.report_states is None:
        return outputs
    return replace(outputs, text=text_material(reports, [study.report for study in cohort.studies]))


def join_report(*sections: object) -> str:
    """Findings and impression as one text, the form that a labeler reads (see records.Study.report)."""
    return "\n".join(str(section) for section in sections if section)


def _read_parquet(path: Path, where: str, split: str) -> list[dict[str, object]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(_COLUMNS))
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"cannot be read ({type(error).__name__})", where=where, remedy="Run the student stage again."
        ) from error
    return [row for row in table.to_pylist() if row["split"] == split]


def _in_order(rows: Sequence[dict[str, object]], cohort: Cohort, where: str) -> list[dict[str, object]]:
    by_id = {str(row["study_id"]): row for row in rows}
    missing = [name for name in cohort.study_ids if name not in by_id]
    if len(by_id) < len(rows) or missing:
        raise InputError(
            f"{len(missing)} of {len(cohort.studies)} {cohort.split} studies are missing, "
            f"{len(rows) - len(by_id)} stand twice",
            where=where,
            remedy="Arms are compared on the same studies only: run the student stage again.",
        )
    return [by_id[name] for name in cohort.study_ids]


def _probabilities(values: Sequence[object], where: str) -> NDArray[np.float64] | None:
    """[N, 14], NaN for a missing number; None where no study has any (an arm without a label head)."""
    if all(value is None for value in values):
        return None
    array = np.full((len(values), NUM_OBSERVATIONS), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, list):
            if len(value) != NUM_OBSERVATIONS:
                raise InputError(f"{len(value)} probabilities instead of {NUM_OBSERVATIONS}", where=where)
            array[row] = [np.nan if number is None else number for number in value]
    return array


def label_texts(texts: Sequence[str], labeler: Labeler) -> NDArray[np.int8] | None:
    """Label each text, int8 [N, L]; None where not one text holds a word (the arm does not write this)."""
    if not any(one.strip() for one in texts):
        return None
    return state_matrix(labeler.label_all(texts))


def text_material(generated: Sequence[str], reference: Sequence[str]) -> TextMaterial:
    """BLEU and ROUGE of each study (zero where it has no report; such rows are never scored)."""
    return TextMaterial(text.bleu_statistics(generated, reference), text.rouge_l(generated, reference))


def subgroup_rows(cohort: Cohort, by: SubgroupBy, rows: NDArray[np.intp]) -> dict[str, NDArray[np.intp]]:
    """Split rows by a field of the study; {} unless they fall into more than one group (unknown values are in none)."""
    groups: dict[str, list[int]] = {}
    for row in rows.tolist():
        value = _group(cohort.studies[row], by)
        if value:
            groups.setdefault(f"{by}={value}", []).append(row)
    if len(groups) < 2:
        return {}
    return {name: np.asarray(members, dtype=np.intp) for name, members in sorted(groups.items())}


def _group(study: Study, by: SubgroupBy) -> str | None:
    match by:
        case "source":
            return study.source or None
        case "sex":
            return study.sex
        case "view_position":
            return study.view_position
        case "age":
            bands = [
                f"{low}-{high - 1}" for low, high in _AGE_BANDS if study.age is not None and low <= study.age < high
            ]
            return bands[0] if bands else None
