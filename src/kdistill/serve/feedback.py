"""What readers say about an answer, in one SQLite file that several servers may share. Needs no web framework.

Rows are only ever added: the last word of a reader about a target counts, the earlier ones are its history. A row holds
the hash of the image, what the model showed and what the reader says of it; no image, no name of a file, nothing of a
DICOM header, no session. A result's id is not stored either: only a hash of it, whose key ends with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kdistill.errors import EnvironmentFault, InputError
from kdistill.serve.judgements import Judgement
from kdistill.serve.preferences import Preference

#: "kdFB", in the header of the file: another program's data base is never written to.
APPLICATION_ID: Final = 0x6B644642
SCHEMA_VERSION: Final = 1
_PAGE_BYTES: Final = 4096
_COLUMNS: Final = ("image_sha256", "model", "target", "reader", "judgement")
_SCHEMA: Final = f"""
CREATE TABLE judgements (
  id INTEGER PRIMARY KEY,
  result TEXT NOT NULL,
  {", ".join(f"{name} TEXT NOT NULL" for name in _COLUMNS)}
) STRICT;
CREATE INDEX by_result ON judgements (result, target, reader);
CREATE INDEX by_image ON judgements (image_sha256);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
#: A table of its own, which a file from before there were comparisons is given when it is opened: whoever knows only
#: the other one reads and writes it as before, so that this is no new version of the file.
_PREFERENCES: Final = (
    "CREATE TABLE IF NOT EXISTS preferences (id INTEGER PRIMARY KEY, result TEXT NOT NULL, image_sha256 TEXT NOT NULL, "
    "reader TEXT NOT NULL, preference TEXT NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS preferences_by_image ON preferences (image_sha256)",
    "CREATE INDEX IF NOT EXISTS preferences_by_result ON preferences (result, reader)",
)


class FeedbackUnavailable(EnvironmentFault):
    """The file cannot be written or read just now; nothing of the request was stored."""


class FeedbackStore:
    """Opens a feedback file, or makes it, and keeps one connection that writes. Safe to call from any thread.

    Args:
        path: The file; its folder must be there.
        max_mb: It is not let grow beyond this (MB of 10^6 bytes).
        wait_s: Seconds to wait for another process that writes.

    Raises:
        InputError: No SQLite file, or one of another program or another version.
        EnvironmentFault: It cannot be made or written.
    """

    def __init__(self, path: Path, *, max_mb: int = 256, wait_s: float = 2.0) -> None:
        self.path = path
        self._lock, self._key = threading.Lock(), secrets.token_bytes(32)
        with _told(path):
            _make_private(path)
            self._connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            with _told(path):
                _prepare(self._connection, path, wait_s)
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute(f"PRAGMA max_page_count = {max_mb * 1_000_000 // _PAGE_BYTES}")
            self._file = _inode(path)
        except BaseException:
            self._connection.close()
            raise

    def add(self, result_id: str, judgement: Judgement) -> Judgement:
        """Store a judgement about a result, unless it is the reader's last word already.

        Returns:
            What stands in the file now: the stored one, with the time at which it was first said.

        Raises:
            FeedbackUnavailable: Disk full, read-only, locked by another process, or the file was moved away.
        """
        result = self._result(result_id)
        with self._lock, _told(self.path), self._transaction():
            last = self._last(result, judgement)
            if last is not None and last.says_the_same(judgement):
                return last
            values = (judgement.image_sha256, judgement.model, judgement.target, judgement.reader)
            marks = ", ".join("?" * (1 + len(_COLUMNS)))
            self._connection.execute(
                f"INSERT INTO judgements (result, {', '.join(_COLUMNS)}) VALUES ({marks})",
                (result, *values, judgement.model_dump_json()),
            )
        return judgement

    def prefer(self, result_id: str, preference: Preference) -> Preference:
        """Store which of two answers about a result's image is preferred, unless it is the reader's last word already.

        Returns:
            What stands in the file now: the stored one, with the time at which it was first said.

        Raises:
            FeedbackUnavailable: As for `add`.
        """
        result = self._result(result_id)
        with self._lock, _told(self.path), self._transaction():
            row = self._connection.execute(
                "SELECT preference FROM preferences WHERE result = ? AND reader = ? ORDER BY id DESC LIMIT 1",
                (result, preference.reader),
            ).fetchone()
            last = None if row is None else Preference.model_validate_json(row[0])
            if last is not None and last.says_the_same(preference):
                return last
            self._connection.execute(
                "INSERT INTO preferences (result, image_sha256, reader, preference) VALUES (?, ?, ?, ?)",
                (result, preference.image_sha256, preference.reader, preference.model_dump_json()),
            )
        return preference

    def of_result(self, result_id: str) -> list[Judgement]:
        """The last word of each reader about each target of a result, in the order in which they were said.

        Raises:
            FeedbackUnavailable: As for `add`.
        """
        query = (
            "SELECT judgement FROM judgements WHERE id IN "
            "(SELECT max(id) FROM judgements WHERE result = ? GROUP BY target, reader) ORDER BY id"
        )
        with self._lock, _told(self.path):
            rows = self._connection.execute(query, (self._result(result_id),)).fetchall()
        return [Judgement.model_validate_json(text) for (text,) in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _result(self, result_id: str) -> str:
        return hashlib.blake2b(result_id.encode(), key=self._key, digest_size=12).hexdigest()

    def _last(self, result: str, judgement: Judgement) -> Judgement | None:
        row = self._connection.execute(
            "SELECT judgement FROM judgements WHERE result = ? AND target = ? AND reader = ? ORDER BY id DESC LIMIT 1",
            (result, judgement.target, judgement.reader),
        ).fetchone()
        return None if row is None else Judgement.model_validate_json(row[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if _inode(self.path) != self._file:  # SQLite would go on writing into a file that nobody finds any more
            raise FeedbackUnavailable("the feedback file was moved or deleted", remedy="Start the server again.")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise


def stored(path: Path) -> Iterator[tuple[str, Judgement]]:
    """Every judgement of a feedback file with its result's hash, by image, in the order in which they were said.

    Reads over a connection of its own, so that servers can go on writing.

    Raises:
        InputError: No such file, no SQLite file, or one of another program or another version.
        EnvironmentFault: It cannot be read.
    """
    for result, text in _rows(path, "judgements", "judgement"):
        yield result, Judgement.model_validate_json(text)


def stored_preferences(path: Path) -> Iterator[tuple[str, Preference]]:
    """Every preference between two models, as `stored` gives judgements; none from a file that is older than they are.

    Raises:
        InputError: As for `stored`.
        EnvironmentFault: It cannot be read.
    """
    for result, text in _rows(path, "preferences", "preference"):
        yield result, Preference.model_validate_json(text)


def _rows(path: Path, table: str, column: str) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        raise InputError("no such file", where=path.name, remedy="Give the file that serve --feedback named.")
    with _told(path), contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        if not _is_ours(connection, path):
            return
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        if tables:
            yield from connection.execute(f"SELECT result, {column} FROM {table} ORDER BY image_sha256, id")


def _make_private(path: Path) -> None:
    """Make the file readable by its owner only; SQLite gives the files beside it the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds this schema; False for an empty one.

    Raises:
        InputError: It belongs to another program or version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, tables) == (0, 0, 0):
        return False
    if application != APPLICATION_ID:
        raise InputError(
            "is an SQLite file of another program", where=path.name, remedy="Name a new file; it is made here."
        )
    if version != SCHEMA_VERSION:
        raise InputError(
            f"holds feedback in form {version}, and this version of kdistill writes form {SCHEMA_VERSION}",
            where=path.name,
            remedy="Name a new file, or use the version that made this one.",
        )
    return True


def _prepare(connection: sqlite3.Connection, path: Path, wait_s: float) -> None:
    _is_ours(connection, path)  # before the first write: a foreign file stays as it is
    _write_ahead(connection, path, wait_s)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _is_ours(connection, path):  # another server may have made it in the meantime
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        for statement in _PREFERENCES:
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _write_ahead(connection: sqlite3.Connection, path: Path, wait_s: float) -> None:
    """Turn the write-ahead log on. SQLite does not wait for a lock here, so that two first starts need a second try."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise EnvironmentFault(
            "the file system keeps no write-ahead log", where=path.name, remedy="Name a file on a local disk."
        )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as sentences of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise InputError(
                "is no SQLite file, or a damaged one", where=path.name, remedy="Name a new file; it is made here."
            ) from error
        raise FeedbackUnavailable(_reason(error), remedy="Try again; the server's operator can mend it.") from error
    except OSError as error:
        raise EnvironmentFault(
            f"cannot be opened ({error.strerror})", where=path.name, remedy="Name a file in a folder you may write to."
        ) from error


def _code(error: sqlite3.DatabaseError) -> int:
    """SQLite's primary result code (the low byte); 0 where Python's driver objects, which gives none."""
    try:
        return error.sqlite_errorcode & 0xFF
    except AttributeError:
        return 0


def _reason(error: sqlite3.DatabaseError) -> str:
    match _code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "the feedback file is locked by another process"
        case sqlite3.SQLITE_FULL:
            return "there is no room left for feedback"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "the feedback file is read-only"
        case _:
            return "the feedback file cannot be used just now"
