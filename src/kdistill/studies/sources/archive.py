"""Files of an archive from untrusted bytes: read in place, links never followed, the unpacked bytes counted."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

from kdistill.errors import InputError

#: More entries than this are no set of reports (Open-i has 3,955).
MAX_ENTRIES: Final = 200_000
_GZIP: Final = b"\x1f\x8b"


class Member(NamedTuple):
    """One plain file of an archive. `name` is its last part only: no path of an archive is ever used on disk.

    `data` is None for what is no plain file (a link, a device) and for a file above the limit; `reason` says which.
    """

    name: str
    data: bytes | None
    reason: str = ""


class _Counted(io.RawIOBase):
    """Hands on what `rest` gives, and stops once more than `limit` bytes have come, whatever a header claims."""

    def __init__(self, rest: IO[bytes], limit: int, where: str) -> None:
        self._rest, self._limit, self._where, self._count = rest, limit, where, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest.read(len(buffer))
        self._count += len(data)
        if self._count > self._limit:
            raise InputError(
                f"unpacks to more than {self._limit // 1_000_000} MB",
                where=self._where,
                remedy="If it is the genuine archive, raise max_archive_mb.",
            )
        buffer[: len(data)] = data
        return len(data)


def iter_tar(path: Path, *, max_bytes: int, max_member_bytes: int) -> Iterator[Member]:
    """Yield the files of a .tar, .tar.gz or .tgz in its order, nothing written to disk.

    Args:
        path: The archive; its content decides whether it is compressed.
        max_bytes: Unpacked bytes of the whole archive.
        max_member_bytes: Bytes of one file; a larger one is yielded without data.

    Raises:
        InputError: It cannot be read, is no archive, is damaged or cut short, or passes a limit.
    """
    try:
        with path.open("rb") as file:
            plain: Any = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            counted = io.BufferedReader(_Counted(plain, max_bytes, path.name))
            with tarfile.open(fileobj=counted, mode="r|") as archive:
                yield from _members(archive, path.name, max_member_bytes)
    except OSError as error:
        what = f"cannot be read ({error.strerror or 'damaged or no gzip file'})"
        raise InputError(what, where=path.name, remedy="Download the archive again.") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(
            f"is no archive, damaged or cut short ({type(error).__name__})",
            where=path.name,
            remedy="Download the archive again.",
        ) from error


def _members(archive: tarfile.TarFile, where: str, max_member_bytes: int) -> Iterator[Member]:
    for number, member in enumerate(archive):
        archive.members = []  # type: ignore[attr-defined]  # a stream needs no list of what has passed
        if number >= MAX_ENTRIES:
            raise InputError(f"holds more than {MAX_ENTRIES} entries", where=where)
        name = PurePosixPath(member.name).name
        if member.isdir() or name.startswith("."):
            continue
        file = archive.extractfile(member) if member.isreg() else None
        if file is None:
            yield Member(name, None, "not_a_plain_file")
        elif member.size > max_member_bytes:
            yield Member(name, None, "too_large")
        else:
            yield Member(name, file.read())
