"""Reports from anybody's file: CSV, JSONL, plain text (one report a line) or standard input.

A table's identifier is its `id`, `study_id` or `report_id` column, else the number of the record, counted from 1.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from kdistill.errors import InputError

ID_COLUMNS: Final = ("id", "study_id", "report_id")
#: Problems named in one error; a file with more is of the wrong kind.
MAX_PROBLEMS: Final = 50
#: One field of a CSV, in characters. The csv module's own limit (131,072) would refuse a long report.
MAX_FIELD_CHARS: Final = 10_000_000


def read_reports(path: str | Path, column: str = "report") -> Iterator[tuple[str, str]]:
    """Yield (id, report text) of every record, in order.

    Args:
        path: A .csv, .tsv, .jsonl or .txt file, or "-" for plain text on standard input (one report a line).
        column: CSV column or JSONL key that holds the report; not used for plain text.

    Raises:
        InputError: The file cannot be read, is no UTF-8, has another ending, lacks the column (those it has are named),
            or has broken lines (all of them named by number, at most 50). Nothing is yielded from a broken file.
    """
    if str(path) == "-":
        return iter(_plain(_decode(sys.stdin.buffer.read(), "standard input")))
    file = Path(path)
    text = _decode(_bytes(file), file.name)
    match file.suffix.lower():
        case ".csv":
            return iter(_table(text, column, ",", file.name))
        case ".tsv":
            return iter(_table(text, column, "\t", file.name))
        case ".jsonl" | ".ndjson":
            return iter(_jsonl(text, column, file.name))
        case ".txt":
            return iter(_plain(text))
    raise InputError(
        f"unknown kind of file {file.suffix or '(no ending)'!r}",
        where=file.name,
        remedy="Use .csv, .tsv, .jsonl, .txt or -.",
    )


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=file.name) from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"byte {error.start} is no UTF-8", where=f"{where} line {line}", remedy="Save the file as UTF-8."
        ) from error


def _plain(text: str) -> list[tuple[str, str]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(str(number), line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _table(text: str, column: str, delimiter: str, where: str) -> list[tuple[str, str]]:
    limit = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return _table_rows(reader, column, where)
    finally:
        csv.field_size_limit(limit)


def _table_rows(reader: csv.Reader, column: str, where: str) -> list[tuple[str, str]]:  # type: ignore[name-defined]
    header = [name.strip() for name in _next_row(reader, where) or []]
    report_at, id_at = _columns(header, column, where)
    reports: list[tuple[str, str]] = []
    problems: list[str] = []
    start = reader.line_num + 1
    while (row := _next_row(reader, where)) is not None:
        if row and len(row) != len(header):
            problems.append(f"line {start}: {len(row)} fields, the header has {len(header)}")
        elif row:
            reports.append((_identifier(row, id_at, len(reports) + 1), row[report_at]))
        start = reader.line_num + 1
    _refuse(problems, where)
    return reports


def _next_row(reader: csv.Reader, where: str) -> list[str] | None:  # type: ignore[name-defined]
    try:
        return next(reader, None)
    except csv.Error as error:
        raise InputError(
            f"is no valid CSV ({error})",
            where=f"{where} line {reader.line_num}",
            remedy='Quote fields and double the " in them.',
        ) from error


def _columns(header: list[str], column: str, where: str) -> tuple[int, int | None]:
    if not any(header):
        raise InputError(
            "is empty", where=where, remedy=f"The first line must name the columns, {column!r} among them."
        )
    if column not in header:
        raise InputError(
            f"no column {column!r}", where=f"{where} line 1", remedy=f"Choose one with --column: {', '.join(header)}"
        )
    return header.index(column), next((header.index(name) for name in ID_COLUMNS if name in header), None)


def _identifier(row: list[str], id_at: int | None, number: int) -> str:
    return row[id_at] if id_at is not None else str(number)


def _jsonl(text: str, column: str, where: str) -> list[tuple[str, str]]:
    reports: list[tuple[str, str]] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            reports.append(_record(json.loads(line), column, len(reports) + 1))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    _refuse(problems, where)
    return reports


def _record(data: object, column: str, number: int) -> tuple[str, str]:
    if not isinstance(data, Mapping):
        raise ValueError("is no JSON object")
    if column not in data:
        raise ValueError(f"no key {column!r}; it has {', '.join(map(str, data))}")
    report = data[column]
    if report is not None and not isinstance(report, str):
        raise ValueError(f"{column!r} is no text")
    identifier = next((data[name] for name in ID_COLUMNS if data.get(name) is not None), number)
    return str(identifier), report or ""


def _refuse(problems: list[str], where: str) -> None:
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS])
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise InputError(f"{shown}{more}", where=where, remedy="Mend or remove these lines.")
