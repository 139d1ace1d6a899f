"""CSV tables of studies, read strictly: all problems at once, each with its line number."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, Final

from kdistill.errors import InputError
from kdistill.observations import LabelState
from kdistill.records import Split

MAX_PROBLEMS: Final = 50
#: Most characters of one line and of one table after decompression; the largest table that we know has 90 million.
MAX_LINE_CHARS: Final = 1_000_000
MAX_TABLE_CHARS: Final = 2_000_000_000
_GZIP: Final = b"\x1f\x8b"
_WHICH_FILES: Final = "Give the folder that holds it; docs/data.md says which files each layout has."
_STATES: Final[dict[str, LabelState]] = {
    "": None,
    "1": 1,
    "1.0": 1,
    "0": 0,
    "0.0": 0,
    "-1": -1,
    "-1.0": -1,
    "nan": None,
}


_NUMBER: Final = re.compile(r"[-+0-9.]{1,6}")


class Problems:
    """Collects what is wrong with a table, so that a user mends a file once and not fifty times."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, line: int, what: str, file: str = "") -> None:
        """Note one problem at a line of the file (the header is line 1); `file` where there are several."""
        self.found.append(f"{file} line {line}: {what}".lstrip())

    def raise_if_any(self, remedy: str) -> None:
        """Raise InputError with the first 50 problems and the number of the rest."""
        if self.found:
            more = len(self.found) - MAX_PROBLEMS
            shown = self.found[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise InputError("\n  ".join(["has mistakes", *shown]), where=self.where, remedy=remedy)


def read_rows(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a UTF-8 CSV (BOM and CRLF welcome) as (line number, row) pairs; fields are stripped.

    Raises:
        InputError: Missing, not UTF-8, a required column absent (the columns that exist are named), or rows of another
            length than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), remedy=_WHICH_FILES) from error
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 (byte {error.start})", where=path.name, remedy="Save it as UTF-8.") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in required if name not in header]
        if missing:
            raise InputError(
                f"column {', '.join(missing)} is missing", where=path.name, remedy=f"It has: {', '.join(header)}"
            )
        return list(_checked_rows(reader, header, path.name))
    except csv.Error as error:
        raise InputError(f"is no CSV ({error})", where=f"{path.name} line {reader.line_num}") from error


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Stream some columns of a large UTF-8 CSV, plain or gzip (its content decides), as (line number, stripped values).

    A table of a million rows is never held as a whole.

    Args:
        path: The table.
        columns: At least two column names, in the order in which their values are wanted.

    Raises:
        InputError: Missing, damaged or cut short, too large after decompression, not UTF-8, a column absent or standing
            twice, or rows of another length than the header (after the last row, with line numbers).
    """
    number = 0
    try:
        with _decompressed(path) as text:
            reader = csv.reader(_bounded_lines(text, path.name))
            header = [name.strip() for name in next(reader, [])]
            _require_columns(header, columns, path.name)
            pick = itemgetter(*(header.index(name) for name in columns))
            problems = Problems(path.name)
            for fields in reader:
                number = reader.line_num
                if len(fields) == len(header):
                    yield number, tuple(map(str.strip, pick(fields)))
                elif any(field.strip() for field in fields):
                    problems.add(number, f"{len(fields)} fields, the header has {len(header)}")
            problems.raise_if_any("Quote fields that hold commas or line breaks.")
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8", where=f"{path.name} after line {number}") from error
    except csv.Error as error:
        raise InputError(f"is no CSV ({error})", where=f"{path.name} after line {number}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"is damaged or cut short ({error})", where=f"{path.name} after line {number}", remedy="Download it again."
        ) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), remedy=_WHICH_FILES) from error


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[io.TextIOWrapper]:
    with path.open("rb") as file:
        plain: IO[bytes] = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file  # type: ignore[assignment]
        with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
            yield text


def _bounded_lines(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    total = 0
    while line := text.readline(MAX_LINE_CHARS):
        total += len(line)
        if len(line) == MAX_LINE_CHARS or total > MAX_TABLE_CHARS:
            raise InputError("is too large: no table of studies", where=name)
        yield line


def _require_columns(header: Sequence[str], columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in header]
    twice = [column for column in columns if header.count(column) > 1]
    if missing or twice:
        what = f"column {', '.join(missing)} is missing" if missing else f"column {', '.join(twice)} stands twice"
        raise InputError(what, where=name, remedy=f"It has: {', '.join(header)[:500]}")


def table_header(path: Path) -> list[str]:
    """The column names of a CSV, plain or gzip; empty where it cannot be read (`read_columns` then says why)."""
    try:
        with _decompressed(path) as text:
            return [name.strip() for name in next(csv.reader(_bounded_lines(text, path.name)), [])]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        return []


def _checked_rows(reader: Iterator[list[str]], header: list[str], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    problems = Problems(name)
    for fields in reader:
        line = reader.line_num  # type: ignore[attr-defined]
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            problems.add(line, f"{len(fields)} fields, the header has {len(header)}")
            continue
        yield line, {key: value.strip() for key, value in zip(header, fields, strict=True)}
    problems.raise_if_any("Quote fields that hold commas or line breaks.")


def parse_state(value: str) -> LabelState:
    """A label cell: 1, 0, -1 or empty.

    Raises:
        ValueError: Anything else.
    """
    try:
        return _STATES[value.strip().lower()]
    except KeyError:
        shown = f" {value!r}" if _NUMBER.fullmatch(value) else ""  # anything longer may be a name out of its column
        raise ValueError(f"label{shown} is not 1, 0, -1 or empty") from None


def split_of(patient_id: str, *, validate_share: float, test_share: float) -> Split:
    """The split of a patient by a hash of the id: the same on every machine, whatever the order of the file."""
    value = int.from_bytes(hashlib.sha256(patient_id.encode("utf-8")).digest()[:8], "big") / 2**64
    if value < test_share:
        return "test"
    return "validate" if value < test_share + validate_share else "train"


def cell(row: dict[str, str], key: str, convert: Callable[[str], float]) -> float | None:
    """An optional numeric cell: None where it is absent, empty or no number (NIH writes ages like 058Y)."""
    text = row.get(key, "").rstrip("Yy")
    try:
        value = convert(text) if text else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None  # JSON has no NaN
