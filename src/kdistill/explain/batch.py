"""Explain image files, one or many: results appear one by one, the bad ones go to rejected.jsonl, a rerun goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.config import ENDINGS, ExplainFormat
from kdistill.explain.explanation import Explanation, QualityPolicy
from kdistill.explain.exports import export
from kdistill.explain.reading import ImageReader, Reading
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.depth import Depth
from kdistill.studies.dicom import dicom_header
from kdistill.studies.film import Note
from kdistill.studies.images import read_file, to_square
from kdistill.studies.quality.assess import Quality, assess

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

REJECTED: Final = "rejected.jsonl"
#: Pages show the image at this size; the student reads it at its own.
DISPLAY_PX: Final = 512
_NOT_IMAGES: Final = frozenset({".json", ".jsonl", ".html", ".csv", ".txt", ".md", ".yaml", ".yml"})


class FileImage(NamedTuple):
    """One file as it was read; `quality` is None where the policy is not to look, `depth` where nobody wants it."""

    study_id: str
    pixels: NDArray[np.uint8]
    display: NDArray[np.uint8]
    sha256: str
    quality: Quality | None
    header: Dataset | None = None
    notes: tuple[Note, ...] = ()
    depth: Depth | None = None


class Outcome(NamedTuple):
    """What became of one image: the files written for it (none: rejected), and whether they stood there before."""

    study_id: str
    files: tuple[Path, ...]
    was_done: bool = False


def find_images(sources: Sequence[Path]) -> list[tuple[str, Path]]:
    """(study_id, path) of every image named, and of every file below a folder that could be one.

    The study_id is the path below the folder, so that equal names in two folders stay apart.

    Raises:
        InputError: A source does not exist, there is no image in any, or two images would get one name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        if not source.exists():
            raise InputError("no such file or folder", where=str(source), remedy="Look for a slip in the path.")
        files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
        for path in files:
            if source.is_dir() and (path.suffix.lower() in _NOT_IMAGES or path.name.startswith(".")):
                continue
            name = path.name if source.is_file() else path.relative_to(source).as_posix()
            if found.setdefault(name, path) != path:
                raise InputError(f"two images are called {name!r}", remedy="Explain the folders one by one.")
    if not found:
        raise InputError(
            "there is no image in it",
            where=", ".join(str(source) for source in sources),
            remedy="Give PNG, JPEG or DICOM files, or a folder of them (hidden files and tables are passed over).",
        )
    return list(found.items())


def make_folder(out_dir: Path) -> None:
    """Make the folder for the results, where it is missing.

    Raises:
        EnvironmentFault: It cannot be made or written.
    """
    with _written_into(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        _write_whole(out_dir / ".probe", b"")
        (out_dir / ".probe").unlink()


@contextmanager
def _written_into(out_dir: Path) -> Iterator[None]:
    """The system's refusals as sentences of ours."""
    try:
        yield
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise EnvironmentFault(
            f"cannot be written ({reason})",
            where=str(out_dir),
            remedy="Choose another folder (--out), or make room: the same command goes on from what stands there.",
        ) from error


def file_stem(study_id: str) -> str:
    """A file name for a study: readable characters of its id, and a hash that keeps different ids apart."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in study_id)[:60]
    return f"{readable}-{hashlib.sha256(study_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def explain_files(
    sources: Sequence[Path],
    reader: ImageReader,
    context: ExplanationContext,
    *,
    out_dir: Path,
    formats: Sequence[ExplainFormat],
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Outcome]:
    """Explain files and folders of files, yielding each outcome as soon as its files are written.

    A study whose files already stand in `out_dir`, from the same model, image bytes and quality policy, is not read
    again. A file that cannot be read is written to rejected.jsonl with its reason and the rest goes on; a single file
    that cannot be read raises.

    Args:
        sources: Image files (PNG, JPEG, DICOM) and folders.
        reader: The student.
        context: See `ExplanationContext`.
        out_dir: Where to write.
        formats: What to write for each study; JSON is always written.
        on_progress: (done, total).

    Raises:
        InputError: A source does not exist, or holds no image; or the only image is not readable.
        EnvironmentFault: `out_dir` cannot be written.
    """
    items = find_images(sources)
    make_folder(out_dir)
    (out_dir / REJECTED).unlink(missing_ok=True)
    wanted: tuple[ExplainFormat, ...] = ("json", *(kind for kind in formats if kind != "json"))
    size = context.config.batch_size
    with DecoderPool() as pool:
        work = _Work(reader, context, out_dir, wanted, len(items) == 1, pool)
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            yield from work.explain(batch)
            if on_progress is not None:
                on_progress(start + len(batch), len(items))


def explain_image(image: FileImage, reading: Reading, context: ExplanationContext) -> Explanation:
    """The explanation of an image from a file; its hash is that of the file's bytes."""
    return explain(
        image.study_id,
        image.pixels,
        reading,
        context,
        image_sha256=image.sha256,
        quality=image.quality,
        notes=image.notes,
    )


class _Work(NamedTuple):
    reader: ImageReader
    context: ExplanationContext
    out_dir: Path
    formats: tuple[ExplainFormat, ...]
    alone: bool
    pool: DecoderPool

    def explain(self, items: Sequence[tuple[str, Path]]) -> Iterator[Outcome]:
        """One batch: what is done already first, then what cannot be read, then the rest."""
        images: list[FileImage] = []
        for study_id, path in items:
            try:
                image = _read(study_id, path, self.reader.size_px, self.pool, self.context.config.quality)
            except InputError as error:
                if self.alone:
                    raise
                yield self._reject(study_id, error)
                continue
            if self._is_done(image):
                yield Outcome(study_id, self._files(study_id), was_done=True)
            else:
                images.append(image)
        if not images:
            return
        readings = self.reader.read(np.stack([image.pixels for image in images]))
        for image, reading in zip(images, readings, strict=True):
            try:
                self._write(explain_image(image, reading, self.context), image)
            except InputError as error:
                if self.alone:
                    raise InputError(error.what, where=image.study_id, remedy=error.remedy) from error
                yield self._reject(image.study_id, error)
                continue
            yield Outcome(image.study_id, self._files(image.study_id))

    def _files(self, study_id: str) -> tuple[Path, ...]:
        return tuple(self.out_dir / f"{file_stem(study_id)}{ENDINGS[kind]}" for kind in self.formats)

    def _reject(self, study_id: str, error: InputError) -> Outcome:
        logger.warning("an image was rejected: %s", error.what)
        with (self.out_dir / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"item": study_id, "reason": error.what}, ensure_ascii=False) + "\n")
        return Outcome(study_id, ())

    def _is_done(self, image: FileImage) -> bool:
        files = self._files(image.study_id)
        if not all(path.is_file() for path in files):
            return False
        try:
            written = Explanation.model_validate_json(files[0].read_text(encoding="utf-8"))
        except ValueError:
            return False
        now = (self.context.model, image.sha256, self.context.config.quality)
        return (written.model, written.image_sha256, written.quality_policy) == now

    def _write(self, explanation: Explanation, image: FileImage) -> None:
        """Each file appears whole or not at all, the JSON last: its presence says that the study is done."""
        files = dict(zip(self.formats, self._files(explanation.study_id), strict=True))
        now = datetime.now(UTC)
        contents = {kind: export(kind, explanation, image.display, image.header, recorded=now) for kind in files}
        with _written_into(self.out_dir):
            for kind in sorted(files, key=lambda kind: kind == "json"):
                _write_whole(files[kind], contents[kind])


def _read(study_id: str, path: Path, size_px: int, pool: DecoderPool, policy: QualityPolicy) -> FileImage:
    try:
        return image_of(study_id, read_file(path), size_px, pool, policy)
    except InputError as error:
        raise InputError(error.what, where=path.name, remedy=error.remedy) from error


def image_of(
    study_id: str, data: bytes, size_px: int, pool: DecoderPool, policy: QualityPolicy = "refuse"
) -> FileImage:
    """Decode the bytes of an image file for a student that reads squares of `size_px`.

    Args:
        study_id: What the study is called.
        data: The file.
        size_px: Side of the square that the student reads.
        pool: Where it is decoded.
        policy: "off": the image is not looked at before it is read.

    Raises:
        InputError: It cannot be used.
    """
    film = pool.read(data)
    sha256 = hashlib.sha256(data).hexdigest()
    quality = None if policy == "off" else assess(film.pixels)
    seen, shown = to_square(film.pixels, size_px), to_square(film.pixels, max(size_px, DISPLAY_PX))
    return FileImage(study_id, seen, shown, sha256, quality, dicom_header(data), film.notes, film.depth)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
