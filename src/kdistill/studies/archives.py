"""Archives that users give (.zip, .tar, .tar.gz, .tar.xz, .tar.bz2): read and unpacked without trusting a word of them.

Names may lead nowhere but below the target; links, devices and sparse files are refused; bytes are counted as they are
written, never believed from a header; archives inside an archive stay closed. A refusal refuses the whole archive: half
of a data set is worse than none.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final, NamedTuple

from kdistill.errors import InputError, PolicyError

_CHUNK: Final = 1 << 16
#: A single read by the tar reader above this is a header (a name, a pax record), and no honest one is so long.
_MAX_HEADER: Final = 1 << 20
_MAX_NAME: Final = 1024
_FREE_BYTES: Final = 50 * 10**6
_ARCHIVES: Final = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf", b"Rar!")
_DAMAGE: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)


class ArchiveLimits(NamedTuple):
    """What an archive may hold, counted while reading: bytes in all and in one file, entries, depth of folders.

    `ratio`: bytes in all for each byte of the archive, beyond a first 50 MB. Images hardly shrink, plain DICOM with
    wide black margins by less than 10, a bomb by 1,000. `setting`: what a user raises where `total_bytes` is too few.
    """

    total_bytes: int = 200 * 10**9
    ratio: int = 50
    entry_bytes: int = 2 * 10**9
    entries: int = 2_000_000
    depth: int = 24
    setting: str = ""


class ArchiveFile(NamedTuple):
    """A file of an archive: its name, checked, and its bytes."""

    name: str
    chunks: Iterator[bytes]


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that we unpack; its content decides, not its name."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or _is_tar(start)


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def extract(path: Path, target: Path, limits: ArchiveLimits | None = None) -> int:
    """Unpack an archive below an empty folder.

    Args:
        path: The archive.
        target: An existing, empty folder of the caller's; on an error it may hold some files.
        limits: What is allowed.

    Returns:
        The number of files written. Archives inside the archive and system files (.DS_Store, __MACOSX) are left out.

    Raises:
        PolicyError: A name that leads out, a link, a device, a name twice, or more than the limits allow.
        InputError: Not an archive, damaged or encrypted.
    """
    count = 0
    for entry in archive_files(path, limits):
        place = target / entry.name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            # O_EXCL and O_NOFOLLOW: nothing that stands there already is written through.
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise PolicyError("holds a name twice, or a file and a folder of one name", where=path.name) from error
        with os.fdopen(handle, "wb") as file:
            for chunk in entry.chunks:
                file.write(chunk)
        count += 1
    return count


def archive_files(path: Path, limits: ArchiveLimits | None = None) -> Iterator[ArchiveFile]:
    """Yield the files of an archive in their order; read each one's chunks before the next is asked for.

    Raises:
        PolicyError, InputError: As `extract`.
    """
    with _damage_named(path), path.open("rb") as file:
        budget = _Budget(path, limits or ArchiveLimits())
        start = file.read(512)
        file.seek(0)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_files(path, file, budget)
        elif start.startswith(b"\x1f\x8b"):
            yield from _tar_files(gzip.GzipFile(fileobj=file), budget)  # type: ignore[arg-type]
        elif start.startswith(b"BZh"):
            yield from _tar_files(bz2.BZ2File(file), budget)
        elif start.startswith(b"\xfd7zXZ\x00"):
            yield from _tar_files(lzma.LZMAFile(file), budget)  # noqa: SIM115
        elif _is_tar(start):
            yield from _tar_files(file, budget)
        else:
            raise InputError("is no archive that we read", where=path.name, remedy="Give a .zip or a .tar.gz.")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            f"is a damaged archive ({type(error).__name__})", where=path.name, remedy="Copy or download it again."
        ) from error
    except NotImplementedError as error:
        raise InputError(
            "is compressed in a way that Python does not read", where=path.name, remedy="Pack it again as .tar.gz."
        ) from error
    except UnicodeError as error:
        raise InputError("holds names that are no text", where=path.name, remedy="Pack it again.") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or 'damaged'})", where=path.name) from error


def _size(path: Path) -> int:
    return path.stat().st_size


class _Budget:
    """Counts entries and bytes as they come, and refuses what is too much."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        self._archive, self._limits = path.name, limits
        self._max_bytes = min(limits.total_bytes, _FREE_BYTES + limits.ratio * _size(path))
        self._entries = self._bytes = 0
        self._names: set[str] = set()

    def refused(self, what: str, remedy: str = "Pack the plain files again.") -> PolicyError:
        return PolicyError(what, where=self._archive, remedy=remedy)

    def count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self.refused(f"holds more than {self._limits.entries:,} entries", "Split it.")

    def check_name(self, name: str) -> str:
        """The name as a relative path, or a refusal. Names are never shown: they may hold a patient's."""
        parts = PurePosixPath(name).parts
        if "\\" in name or name.startswith("/") or ":" in (parts[0] if parts else "") or ".." in parts:
            raise self.refused("holds a name that leads out of its folder, or one with a backslash")
        if not parts or len(name) > _MAX_NAME or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
            raise self.refused("holds an empty name or one that is too long")
        if any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in name):
            raise self.refused("holds a name with control characters")
        if len(parts) > self._limits.depth:
            raise self.refused(f"holds folders more than {self._limits.depth} deep")
        key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
        if key in self._names:
            raise self.refused("holds a name twice")
        self._names.add(key)
        return "/".join(parts)

    def counted(self, stream: IO[bytes], *, counted_below: bool = False) -> Iterator[bytes]:
        """The stream's chunks, each counted before it is handed on (in all, unless the stream below counts already)."""
        size = 0
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            if size > self._limits.entry_bytes:
                raise self.refused(f"holds a file of more than {self._limits.entry_bytes:,} bytes")
            if not counted_below:
                self.count_bytes(len(chunk))
            yield chunk

    def count_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._max_bytes:
            by_setting = self._limits.setting and self._max_bytes == self._limits.total_bytes
            mend = f"raise {self._limits.setting}, or " if by_setting else ""
            raise self.refused(
                f"unpacks to more than {self._max_bytes:,} bytes",
                f"If it is no bomb, {mend}unpack it yourself and give the folder.",
            )

    @property
    def max_directory_bytes(self) -> int:
        """Bound of a zip's table of contents, which Python reads at once: 46 bytes an entry and a usual name."""
        return self._limits.entries * 200 + (1 << 16)


def _zip_files(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[ArchiveFile]:
    _check_directory_size(path, file, budget)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            budget.count_entry()
            mode = info.external_attr >> 16
            if info.is_dir() or (info.create_system == 3 and stat.S_ISDIR(mode)):
                continue
            if info.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise budget.refused("holds a link or a device")
            if info.flag_bits & 0x1:
                raise InputError("is encrypted", where=path.name, remedy="Unpack it yourself and give the folder.")
            # zipfile cuts a name at a NUL; what the archive says is what must be safe.
            name = budget.check_name(info.orig_filename)
            with archive.open(info) as stream:
                yield from _without_nested(name, budget.counted(stream))


def _check_directory_size(path: Path, file: IO[bytes], budget: _Budget) -> None:
    """The size of a zip's table of contents, before a million entries become a million objects."""
    size = _size(path)
    tail_start = max(0, size - (1 << 16) - 22)
    file.seek(tail_start)
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    file.seek(0)
    if end < 0 or len(tail) < end + 20:
        raise InputError("is a zip file cut short", where=path.name, remedy="Copy or download it again.")
    directory_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    locator = tail.rfind(b"PK\x06\x07", 0, end)
    if directory_bytes == 0xFFFFFFFF and locator >= 0:
        offset = int.from_bytes(tail[locator + 8 : locator + 16], "little")
        file.seek(min(offset, size))
        directory_bytes = int.from_bytes(file.read(56)[40:48], "little")
        file.seek(0)
    if directory_bytes > budget.max_directory_bytes:
        raise budget.refused("has a table of contents that is too long", "Split it.")


class _Forward:
    """A stream that only goes forward, counts what is read, and refuses to hand out a huge header at once."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget, self._position = stream, budget, 0
        self.is_over = False

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_HEADER:
            raise self._budget.refused("has a header that is too long")
        data = self._stream.read(size)
        self._budget.count_bytes(len(data))
        self._position += len(data)
        self.is_over = not data
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or position < self._position:
            raise tarfile.ReadError("an archive that points backwards")
        while self._position < position:
            if not self.read(min(_CHUNK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")
        return self._position


def _tar_files(stream: IO[bytes], budget: _Budget) -> Iterator[ArchiveFile]:
    """Entries of a tar stream; its bytes are counted below the tar reader, so headers and skipped parts count too."""
    forward = _Forward(stream, budget)
    with tarfile.open(fileobj=forward, mode="r:") as archive:  # type: ignore[call-overload]
        while (member := archive.next()) is not None:
            budget.count_entry()
            # The list of members would grow with the archive.
            archive.members = []
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise budget.refused("holds a link, a device or a sparse file", "Pack the files: tar --dereference.")
            name = budget.check_name(member.name)
            content = archive.extractfile(member)
            assert content is not None
            yield from _without_nested(name, budget.counted(content, counted_below=True))
    if forward.is_over:  # a whole archive ends in blocks of zeros; one that was cut between two files does not
        raise tarfile.ReadError("no end mark")
    while forward.read(_CHUNK):  # to the end: only there a compressed stream's checksum is compared
        pass


def _without_nested(name: str, chunks: Iterator[bytes]) -> Iterator[ArchiveFile]:
    """The file, unless it is a system's or an archive itself: those stay closed and are not handed on."""
    parts = name.split("/")
    if parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db"):
        for _ in chunks:
            pass
        return
    first = next(chunks, b"")
    if first.startswith(_ARCHIVES) or _is_tar(first[:512]):
        for _ in chunks:
            pass
        return
    yield ArchiveFile(name, _joined(first, chunks))
    for _ in chunks:  # what the caller did not read
        pass


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def only_folder(target: Path) -> Path:
    """The folder in which the data stand: `target`, or the only folder that it holds (archives often wrap one)."""
    while True:
        inside = list(target.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            return target
        target = inside[0]
