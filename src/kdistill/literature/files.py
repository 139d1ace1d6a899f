"""Files, folders and archives to article readers: content decides, bytes are counted, nothing is written to disk."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from kdistill.errors import InputError
from kdistill.literature import jats, pubmed
from kdistill.literature.config import FilesSource, LiteratureConfig
from kdistill.literature.items import Dropped, Items, ReadFault, ReadReason
from kdistill.literature.jsonl import read_jsonl_articles
from kdistill.literature.xml_stream import root_name

_HEAD_BYTES: Final = 64 * 1024
_TAR_BLOCK: Final = 512
_GZIP: Final = b"\x1f\x8b"
_MIB: Final = 1024 * 1024


class CappedStream(io.RawIOBase):
    """Reads `head`, then on from `rest`, and stops with a fault once more than `limit` bytes have come.

    It hands on whatever one read of `rest` gives, so that records before a tear in the file are still read.
    """

    def __init__(self, rest: IO[bytes], limit: int, head: bytes = b"") -> None:
        self._rest, self._limit, self._head, self._count = rest, limit, head, 0

    def readable(self) -> bool:
        """Always: see io.RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; see io.RawIOBase.

        Raises:
            ReadFault: The limit is passed.
        """
        size = len(buffer)
        data, self._head = self._head[:size], self._head[size:]
        data = data or self._rest.read1(size)  # type: ignore[attr-defined]
        self._count += len(data)
        if self._count > self._limit:
            raise ReadFault("too_large", f"more than {self._limit} bytes after decompression")
        buffer[: len(data)] = data
        return len(data)


def list_files(source: FilesSource) -> list[Path]:
    """All files of a source in a fixed order; hidden ones and folders behind symbolic links are left out.

    Raises:
        InputError: A path does not exist.
    """
    found: list[Path] = []
    for path in source.path:
        path = path.expanduser()
        if path.is_dir():
            found += sorted(_walk(path))
        elif path.is_file():
            found.append(path)
        else:
            raise InputError("no such file or folder", where=str(path), remedy="Correct literature.sources.path.")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def read_file(path: Path, source: FilesSource, config: LiteratureConfig) -> Items:
    """Yield the items of one file. A fault of the file becomes one dropped item; what came before it stays."""
    count = 0
    try:
        with path.open("rb") as file:
            for item in _read_opened(file, path.name, source, config):
                count += 1
                yield item
    except (OSError, EOFError, ReadFault, tarfile.TarError, zlib.error) as error:
        reason, detail = _fault(error)
        yield Dropped(path.name, reason, f"{detail}; {count} records before it were read")


def _fault(error: Exception) -> tuple[ReadReason, str]:
    match error:
        case ReadFault():
            return error.reason, error.detail
        case EOFError():
            return "truncated", "the compressed data ends too early"
        case gzip.BadGzipFile():
            return "corrupt", "gzip checksum or header is wrong"
        case zlib.error():
            return "corrupt", "the compressed data is damaged"
        case tarfile.ReadError():
            return "truncated", "the archive ends too early or is damaged"
        case OSError():
            return "corrupt", f"cannot be read ({error.strerror or 'I/O error'})"
        case _:
            return "corrupt", "the archive is damaged"


def _read_opened(file: io.BufferedReader, name: str, source: FilesSource, config: LiteratureConfig) -> Items:
    plain = _decompressed(file)
    head = _head(plain)
    # An archive may be larger than any one file in it, so what it is decides which limit counts.
    if _is_tar(head):
        yield from _read_tar(CappedStream(plain, config.max_archive_mb * _MIB, head), name, source, config)
    else:
        yield from _read_plain(CappedStream(plain, config.max_file_mb * _MIB, head), head, name, source)


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    # GzipFile checks the CRC at the end of each member, also of files made of several.
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file  # type: ignore[return-value]


def _head(stream: IO[bytes]) -> bytes:
    head = b""
    while len(head) < _TAR_BLOCK and (data := stream.read1(_HEAD_BYTES)):  # type: ignore[attr-defined]
        head += data
    return head


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _read_plain(stream: CappedStream, head: bytes, name: str, source: FilesSource) -> Items:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return read_jsonl_articles(io.BufferedReader(stream), name, source)
    if text.startswith((b"<", b"\xff\xfe<", b"\xfe\xff\x00<")):
        return _xml_reader(root_name(head))(stream, name)  # type: ignore[arg-type]
    raise ReadFault("unknown_format", "neither XML nor JSON Lines, by its first bytes")


def _xml_reader(root: str | None) -> Callable[[IO[bytes], str], Items]:
    if root in pubmed.ROOTS:
        return pubmed.read_pubmed
    if root in jats.ROOTS:
        return jats.read_jats
    raise ReadFault("not_an_article", f"XML with the root element {(root or '?')[:60]!r}")


def _read_tar(stream: CappedStream, name: str, source: FilesSource, config: LiteratureConfig) -> Items:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # a stream needs no list of what has passed
            if member.isdir() or Path(member.name).name.startswith("."):
                continue
            yield from _read_member(archive, member, name, source, config)


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, source: FilesSource, config: LiteratureConfig
) -> Items:
    where = f"{name}:{Path(member.name).name}"
    extracted = archive.extractfile(member) if member.isreg() else None
    if extracted is None:
        yield Dropped(where, "not_a_plain_file", "a link or device in an archive is never followed")
        return
    try:
        yield from _read_member_bytes(extracted, where, source, config)
    except (ReadFault, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason, detail = _fault(error)
        yield Dropped(where, reason, detail)


def _read_member_bytes(file: IO[bytes], where: str, source: FilesSource, config: LiteratureConfig) -> Items:
    plain = _decompressed(io.BufferedReader(file))  # type: ignore[arg-type]
    head = _head(plain)
    if _is_tar(head):
        raise ReadFault("nested_archive", "an archive inside an archive is not opened")
    yield from _read_plain(CappedStream(plain, config.max_file_mb * _MIB, head), head, where, source)
