"""Read anybody's CSV, JSON, JSONL or parquet of references or predictions; every problem is named with its line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError
from kdistill.evaluation.cohort import join_report
from kdistill.evaluation.targets import UNKNOWN, state_matrix
from kdistill.observations import INDEX, NUM_OBSERVATIONS, OBSERVATIONS, Labels, LabelState

#: Problems listed in one message (FAULTS row 21).
MAX_LISTED: Final = 50
_TRUTH_PREFIX: Final = "truth:"
#: The column that names a study where no other is named.
STUDY_ID: Final = "study_id"


@dataclass
class Problems:
    """Collects what is wrong in one file, so that it is all said at once."""

    where: str
    found: list[str] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        """Remember a problem in a line."""
        self.found.append(f"line {line}: {what}")

    def check(self) -> None:
        """Raise what was found, if anything."""
        if self.found:
            listed = "\n  ".join(self.found[:MAX_LISTED])
            more = f"\n  and {len(self.found) - MAX_LISTED} more" if len(self.found) > MAX_LISTED else ""
            raise InputError(f"{len(self.found)} problems\n  {listed}{more}", where=self.where)


@dataclass(frozen=True)
class Sheet:
    """One file, by study. Matrices are [N, 14]; None where the file has no such column.

    A patient is None where the file does not name it. `num_abstained` counts explanations that gave no answer; they are
    no predictions and have no row here.
    """

    study_ids: tuple[str, ...]
    patient_ids: tuple[str | None, ...] | None
    labels: NDArray[np.int8] | None = None
    truth: NDArray[np.int8] | None = None
    probabilities: NDArray[np.float64] | None = None
    reports: tuple[str, ...] | None = None
    rationales: tuple[str, ...] | None = None
    num_abstained: int = 0


def read_reference(path: Path, key: str = STUDY_ID) -> Sheet:
    """Read a reference file.

    Columns: study_id (or id), patient_id if known, and any of: the 14 observations (1, 0, -1, empty),
    `truth:<observation>` (1, 0), a `labels` object (JSONL, as `kdistill label` writes it), `report`, or `findings` and
    `impression`. Feedback of the reading room is one (`kdistill feedback export`).

    Args:
        path: The file.
        key: The column that names a study, if not study_id.

    Raises:
        InputError: Unreadable, no usable column, a study twice, a value that is no label: all with their lines.
    """
    rows, problems = _rows(path)
    columns = {key for _, row in rows for key in row}
    labelled = "labels" in columns or any(name in columns for name in OBSERVATIONS)
    truthful = any(f"{_TRUTH_PREFIX}{name}" in columns for name in OBSERVATIONS)
    sheet = Sheet(
        study_ids=_study_ids(rows, problems, key),
        patient_ids=_patient_ids(rows, columns),
        labels=state_matrix([_labels(line, row, "", problems) for line, row in rows]) if labelled else None,
        truth=state_matrix([_labels(line, row, _TRUTH_PREFIX, problems) for line, row in rows]) if truthful else None,
        reports=_reports(rows, columns),
    )
    if sheet.labels is None and sheet.truth is None and sheet.reports is None:
        problems.add(1, f"no observation column, no truth: column and no report; columns are {sorted(columns)}")
    problems.check()
    return sheet


def read_predictions(path: Path, key: str = STUDY_ID) -> Sheet:
    """Read a prediction file.

    Columns: study_id (or id), patient_id if known, and any of: the 14 observations (probabilities in [0, 1]), a
    `probabilities` list of 14, `report`, or `findings` and `impression`, `rationale`. Explanations are read too, as
    `kdistill explain --json` prints them; those that abstained are left out.

    Args:
        path: The file.
        key: The column that names a study, if not study_id.

    Raises:
        InputError: As for `read_reference`; a column of probabilities must be full.
    """
    found, problems = _rows(path)
    rows = [(line, _unfolded(row)) for line, row in found if row.get("abstained") is not True]
    if found and not rows:
        problems.add(1, f"all {len(found)} explanations abstained: there is no prediction")
    columns = {key for _, row in rows for key in row}
    scored = "probabilities" in columns or any(name in columns for name in OBSERVATIONS)
    sheet = Sheet(
        study_ids=_study_ids(rows, problems, key),
        patient_ids=_patient_ids(rows, columns),
        probabilities=_probabilities(rows, columns, problems) if scored else None,
        reports=_reports(rows, columns),
        rationales=tuple(join_report(row.get("rationale")) for _, row in rows) if "rationale" in columns else None,
        num_abstained=len(found) - len(rows),
    )
    if sheet.probabilities is None and sheet.reports is None:
        problems.add(1, f"no probability column and no report; columns are {sorted(columns)}")
    problems.check()
    return sheet


Rows = list[tuple[int, Mapping[str, Any]]]


def _rows(path: Path) -> tuple[Rows, Problems]:
    """(line number, columns) of every record; for parquet the number of the row, from 1."""
    problems = Problems(path.name)
    try:
        match path.suffix.lower():
            case ".csv":
                rows = list(_csv_rows(path, problems))
            case ".jsonl":
                rows = list(_jsonl_rows(path, problems))
            case ".json":
                rows = list(_json_rows(path, problems))
            case ".parquet":
                rows = list(_parquet_rows(path))
            case suffix:
                raise InputError(
                    f"unknown kind of file {suffix!r}", where=path.name, remedy="Use .csv, .json, .jsonl, .parquet."
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=path.name) from error
    if not rows:
        problems.add(1, "no record")
    return rows, problems


def _csv_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row or None in row.values():
                problems.add(reader.line_num, "not as many fields as the header")
            yield reader.line_num, {key.strip(): value for key, value in row.items() if key is not None}


def _jsonl_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                problems.add(number, "not JSON")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                problems.add(number, "not a JSON object")


def _json_rows(path: Path, problems: Problems) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """A list of objects, or one of them; counted from 1."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError("is no JSON", where=path.name) from error
    for number, record in enumerate(found if isinstance(found, list) else [found], start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            problems.add(number, "not a JSON object")


def _unfolded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """An explanation as columns: a probability for each observation, the rationale as one text."""
    readings = row.get("observations")
    if not isinstance(readings, list) or not all(isinstance(reading, dict) for reading in readings):
        return row
    known = {
        reading["name"]: reading["probability"]
        for reading in readings
        if reading.get("name") in INDEX and reading.get("probability") is not None
    }
    reasons = row.get("rationale")
    if isinstance(reasons, list):
        known["rationale"] = " ".join(str(reason.get("text", "")) for reason in reasons if isinstance(reason, dict))
    return {**row, **known}


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), start=1)
    except pyarrow.ArrowException as error:
        raise InputError(f"is no parquet file ({type(error).__name__})", where=path.name) from error


def _study_ids(rows: Rows, problems: Problems, key: str) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for line, row in rows:
        name = row.get(STUDY_ID, row.get("id")) if key == STUDY_ID else row.get(key)
        if name is None or str(name).strip() == "":
            problems.add(line, f"no {key}")
        elif str(name) in seen:
            problems.add(line, f"the same {key} as line {seen[str(name)]}")
        else:
            seen[str(name)] = line
    return tuple(seen)


def _patient_ids(rows: Rows, columns: set[str]) -> tuple[str | None, ...] | None:
    """The patient of each study, None where the field is empty (or NaN from a data frame)."""
    if "patient_id" not in columns:
        return None
    named = (row.get("patient_id") for _, row in rows)
    return tuple(None if name is None or name != name or not str(name).strip() else str(name) for name in named)


def _reports(rows: Rows, columns: set[str]) -> tuple[str, ...] | None:
    if not columns & {"report", "findings", "impression"}:
        return None
    return tuple(str(row.get("report") or join_report(row.get("findings"), row.get("impression"))) for _, row in rows)


def _labels(line: int, row: Mapping[str, Any], prefix: str, problems: Problems) -> Labels:
    """The labels of one record; a column that it does not have is left out."""
    nested = row.get("labels") if not prefix else None
    values = nested if isinstance(nested, Mapping) else row
    labels: Labels = {}
    for name in OBSERVATIONS:
        if prefix + name in values:
            allowed = (1, 0) if prefix else (1, 0, -1)
            state = _state(values[prefix + name], allowed)
            if state is not None and state not in allowed:
                problems.add(
                    line, f"{prefix}{name}: {values[prefix + name]!r} is none of {', '.join(map(str, allowed))}, empty"
                )
            elif state is not None or not prefix:
                labels[name] = state  # type: ignore[assignment]
    return labels


def _state(value: object, allowed: tuple[int, ...]) -> LabelState | int:
    """The state, None for empty, or something that is not in `allowed`."""
    number = _number(value)
    if number is None:
        return None
    return int(number) if math.isfinite(number) and number in allowed else max(allowed) + 1


def _number(value: object) -> float | None:
    """None for an empty field (also NaN from a data frame); infinity for what is no number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.inf
    return None if math.isnan(number) else number


def _probabilities(rows: Rows, columns: set[str], problems: Problems) -> NDArray[np.float64]:
    """[N, 14]; NaN in columns that the file does not have."""
    present = [index for index, name in enumerate(OBSERVATIONS) if name in columns or "probabilities" in columns]
    result = np.full((len(rows), NUM_OBSERVATIONS), np.nan)
    for place, (line, row) in enumerate(rows):
        listed = row.get("probabilities")
        if listed is not None and (not isinstance(listed, list) or len(listed) != NUM_OBSERVATIONS):
            problems.add(line, f"probabilities must be a list of {NUM_OBSERVATIONS}")
            continue
        for index in present:
            value = listed[index] if listed is not None else row.get(OBSERVATIONS[index])
            number = _number(value)
            if number is None or not 0 <= number <= 1:
                problems.add(line, f"{OBSERVATIONS[index]}: {value!r} is no probability in [0, 1]")
            else:
                result[place, index] = number
    return result


def without_columns(states: NDArray[np.int8], columns: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Mark observations [L] as UNKNOWN in the reference, because the predictions have no such column."""
    result = states.copy()
    result[:, columns] = UNKNOWN
    return result
