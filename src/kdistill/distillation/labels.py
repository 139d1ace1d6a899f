"""Training and validation labels of an arm: from the data set's columns, else from a named reading of the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdistill.distillation.config import DistillationConfig, LabelSource
from kdistill.errors import InputError
from kdistill.observations import INDEX, OBSERVATIONS, LabelState, as_binary
from kdistill.records import Study

LABELS, READINGS = "labels.jsonl", "readings.jsonl"
Counter = Callable[[str, int], None]


def load_stated_labels(source: LabelSource, labels_dir: Path, rationales_dir: Path) -> dict[str, dict[str, LabelState]]:
    """study_id -> what the report states: by explicit mention (the labels stage), or as the teacher reads it.

    Only training and validation studies with a report are in either file.
    """
    match source:
        case "none":
            return {}
        case "explicit":
            path = labels_dir / LABELS
        case "teacher":
            path = rationales_dir / READINGS
    return {line["study_id"]: line["labels"] for line in read_lines(path)}


def read_lines(path: Path) -> list[dict]:
    """The lines of a JSONL file that an earlier stage published.

    Raises:
        InputError: It is missing or a line is no JSON object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({type(error).__name__})",
            where=str(path),
            remedy="Run the stage that writes it first (kdistill run RECIPE --resume).",
        ) from error


def label_targets(
    studies: Sequence[Study],
    stated: Mapping[str, Mapping[str, LabelState]],
    config: DistillationConfig,
    count: Counter,
) -> np.ndarray:
    """float32 [N, 14]: 1, 0 or NaN (not known).

    A label column of the data set beats what is read from the report. What a report does not mention is negative or
    masked by `config.blank`; what a study without a report has no column for is always masked.

    Args:
        studies: N studies.
        stated: See `load_stated_labels`.
        config: Holds the policies.
        count: Called with label_from_column, label_from_report and label_masked.
    """
    targets = np.full((len(studies), len(OBSERVATIONS)), np.nan, dtype=np.float32)
    for row, study in enumerate(studies):
        for column, observation in enumerate(OBSERVATIONS):
            value, origin = _target(study, stated.get(study.study_id), observation, config)
            count(origin if value is not None else "label_masked", 1)
            if value is not None:
                targets[row, column] = value
    return targets


def _target(
    study: Study, stated: Mapping[str, LabelState] | None, observation: str, config: DistillationConfig
) -> tuple[int | None, str]:
    column = (study.labels or {}).get(observation)
    if column is not None:
        return as_binary(column, config.uncertain), "label_from_column"
    if stated is None:
        return None, "label_masked"
    state = stated.get(observation)
    if state is None:
        return (0 if config.blank == "negative" else None), "label_from_report"
    return as_binary(state, config.uncertain), "label_from_report"


def load_confidence(source: LabelSource, rationales_dir: Path) -> dict[str, dict[str, float]]:
    """study_id -> how sure the teacher is of each label that it read; nothing for readings by rules."""
    if source != "teacher":
        return {}
    return {line["study_id"]: line["confidence"] for line in read_lines(rationales_dir / READINGS)}


def softened(
    targets: np.ndarray, studies: Sequence[Study], confidence: Mapping[str, Mapping[str, float]]
) -> np.ndarray:
    """`label_targets` [N, 14] with each positive at the reader's confidence; columns of the data stay as they are."""
    soft = targets.copy()
    for row, study in enumerate(studies):
        columns = study.labels or {}
        for name, sure in confidence.get(study.study_id, {}).items():
            if targets[row, INDEX[name]] == 1 and columns.get(name) is None:
                soft[row, INDEX[name]] = sure
    return soft


def left_blank(studies: Sequence[Study], stated: Mapping[str, Mapping[str, LabelState]]) -> np.ndarray:
    """bool [N, 14]: what a report that was read does not mention, and no column of the data tells."""
    return np.array(
        [
            [
                study.study_id in stated
                and stated[study.study_id].get(name) is None
                and (study.labels or {}).get(name) is None
                for name in OBSERVATIONS
            ]
            for study in studies
        ],
        dtype=bool,
    ).reshape(len(studies), len(OBSERVATIONS))
