"""`kdistill score`: score anybody's generated reports or probabilities from two files. No model, no run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError
from kdistill.evaluation.cohort import label_texts, text_material
from kdistill.evaluation.config import EvaluationConfig
from kdistill.evaluation.scores import (
    Entry,
    Outputs,
    Reference,
    Score,
    all_families,
    make_scope,
    score_arm,
    score_floors,
    score_texts,
)
from kdistill.evaluation.tabular import STUDY_ID, Sheet, read_predictions, read_reference, without_columns
from kdistill.evaluation.targets import BLANK, UNKNOWN
from kdistill.labelers.labeler import Labeler, RememberingLabeler, labeler_id
from kdistill.observations import NUM_OBSERVATIONS

#: Study ids named in a message; the rest are counted.
_NAMED: Final = 5


@dataclass(frozen=True)
class FileScores:
    """The scores, and what a reader must know about how they came about (one sentence each)."""

    scores: tuple[Score, ...]
    notes: tuple[str, ...]


def score_files(
    reference: Path,
    predictions: Path,
    *,
    labeler: Labeler,
    config: EvaluationConfig | None = None,
    allow_missing: bool = False,
    key: str = STUDY_ID,
) -> FileScores:
    """Score a prediction file against a reference file (CSV, JSON, JSONL or parquet; columns in `tabular`).

    Args:
        reference: study_id with labels, truth or report text.
        predictions: study_id with probabilities, report text or both.
        labeler: Reads the texts.
        config: Resampling settings.
        allow_missing: Score the common studies although some reference studies have no prediction.
        key: The column that names a study in both files.

    Raises:
        InputError: Unreadable files, or studies that do not match (named and counted).
    """
    config = config or EvaluationConfig()
    theirs, ours = read_reference(reference, key), read_predictions(predictions, key)
    common, notes = _match(theirs, ours, predictions.name, allow_missing=allow_missing)
    if ours.num_abstained:
        notes.append(f"{ours.num_abstained} explanations abstained and are left out")
    theirs, ours = _take(theirs, common), _take(ours, common)
    patients, note = _patients(theirs, ours)
    if note:
        notes.append(note)
    entries = _score(theirs, ours, patients, predictions.stem, labeler, config)
    return FileScores(tuple(entry.score.model_copy(update={"seeds": ()}) for entry in entries), tuple(notes))


def _patients(theirs: Sheet, ours: Sheet) -> tuple[list[str], str | None]:
    """The patient of each study, by either file, and what a reader must know of those that neither names.

    An unnamed patient is one of its own: taken together they would be drawn as one patient with all their studies.
    """
    nobody: tuple[None, ...] = (None,) * len(theirs.study_ids)
    pairs = zip(theirs.patient_ids or nobody, ours.patient_ids or nobody, strict=True)
    named = [first if first is not None else second for first, second in pairs]
    own, unnamed = "intervals may be too narrow", named.count(None)
    note: str | None = None
    if theirs.patient_ids is None and ours.patient_ids is None:
        note = f"no patient_id column: every study counts as a patient of its own, {own}"
    elif unnamed:
        note = f"{unnamed} studies without a patient_id count as patients of their own, {own}"
    # Two prefixes, so that a study's name never meets a patient's.
    found = [f"study {s}" if p is None else f"patient {p}" for s, p in zip(theirs.study_ids, named, strict=True)]
    return found, note


def _match(theirs: Sheet, ours: Sheet, where: str, *, allow_missing: bool) -> tuple[list[str], list[str]]:
    """The common studies in the reference's order, and notes about the others."""
    predicted, known = set(ours.study_ids), set(theirs.study_ids)
    missing = [name for name in theirs.study_ids if name not in predicted]
    extra = [name for name in ours.study_ids if name not in known]
    common = [name for name in theirs.study_ids if name in predicted]
    told = [
        f"{len(names)} of {total} {what} ({_some(names)})"
        for names, total, what in (
            (missing, len(theirs.study_ids), "reference studies have no prediction"),
            (extra, len(ours.study_ids), "predictions have no reference study"),
        )
        if names
    ]
    if not common or (missing and not allow_missing):
        raise InputError(
            "; ".join(told),
            where=where,
            remedy="Give a prediction for every reference study (an empty report counts), or allow missing ones. "
            "Where both files name studies by another column, say which: --key image_sha256.",
        )
    return common, told


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more


def _take(sheet: Sheet, names: Sequence[str]) -> Sheet:
    place = {name: row for row, name in enumerate(sheet.study_ids)}
    rows = np.asarray([place[name] for name in names], dtype=np.intp)

    def texts(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if values is None else tuple(values[row] for row in rows)

    patients = sheet.patient_ids

    return Sheet(
        study_ids=tuple(names),
        patient_ids=None if patients is None else tuple(patients[row] for row in rows),
        labels=None if sheet.labels is None else sheet.labels[rows],
        truth=None if sheet.truth is None else sheet.truth[rows],
        probabilities=None if sheet.probabilities is None else sheet.probabilities[rows],
        reports=texts(sheet.reports),
        rationales=texts(sheet.rationales),
    )


def _score(
    theirs: Sheet, ours: Sheet, patients: Sequence[str], arm: str, labeler: Labeler, config: EvaluationConfig
) -> list[Entry]:
    labeler = RememberingLabeler(labeler)
    reported = np.asarray([row for row, one in enumerate(theirs.reports or ()) if one.strip()], dtype=np.intp)
    outputs = Outputs(
        arm=arm,
        seed=0,
        probabilities=ours.probabilities,
        report_states=None if ours.reports is None else label_texts(ours.reports, labeler),
        rationale_states=None if ours.rationales is None else label_texts(ours.rationales, labeler),
    )
    offered = {
        "report_f1": outputs.report_states is not None,
        "rationale_f1": outputs.rationale_states is not None,
        "auc": outputs.probabilities is not None,
    }
    families = [family for family in all_families() if offered[family.name]]
    entries: list[Entry] = []
    for reference in _references(theirs, reported, labeler):
        # F1 comes from the text, which speaks of all 14; only rankings are limited to the columns that are there.
        for family in families:
            against = _limited(reference, ours.probabilities) if family.name == "auc" else reference
            rows = np.flatnonzero((against.states >= BLANK).any(axis=1))
            scope = make_scope("file", rows, patients, num_bootstrap=config.num_bootstrap, seed=config.seed)
            bins = config.num_calibration_bins
            entries += score_arm([outputs], against, scope, [family], labeler=labeler_id(labeler), num_bins=bins)
            if family.name == "auc":
                entries += score_floors(against, scope, ["file"] * len(patients), num_bins=bins)
    if config.text_scores and ours.reports is not None and len(reported) and theirs.reports is not None:
        scope = make_scope("file", reported, patients, num_bootstrap=config.num_bootstrap, seed=config.seed)
        text = text_material(ours.reports, theirs.reports)
        entries += score_texts([Outputs(arm=arm, seed=0, text=text)], scope)
    return entries


def _references(theirs: Sheet, reported: NDArray[np.intp], labeler: Labeler) -> list[Reference]:
    references = []
    if theirs.truth is not None:
        references.append(Reference("truth", theirs.truth))
    if theirs.labels is not None:
        references.append(Reference("labels", theirs.labels))
    if theirs.reports is not None and len(reported):
        texts = [theirs.reports[row] for row in reported]
        states = np.full((len(theirs.study_ids), NUM_OBSERVATIONS), UNKNOWN, dtype=np.int8)
        read = label_texts(texts, labeler)
        if read is not None:
            states[reported] = read
        references.append(Reference("report", states, labeler_id(labeler)))
    return references


def _limited(reference: Reference, probabilities: NDArray[np.float64] | None) -> Reference:
    if probabilities is None:
        return reference
    absent: NDArray[np.bool_] = np.asarray(np.isnan(probabilities).all(axis=0))
    return Reference(reference.kind, without_columns(reference.states, absent), reference.labeler)
