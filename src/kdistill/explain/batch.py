"""Explain image files, one or many: results appear one by one, the bad ones go to rejected.jsonl, a rerun goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.errors import InputError
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.config import ExplainFormat
from kdistill.explain.explanation import Explanation
from kdistill.explain.page import explanation_page
from kdistill.explain.reading import ImageReader
from kdistill.studies.images import read_grey, to_square

logger = logging.getLogger(__name__)

REJECTED: Final = "rejected.jsonl"
#: Pages show the image at this size; the student reads it at its own.
DISPLAY_PX: Final = 512
_NOT_IMAGES: Final = frozenset({".json", ".jsonl", ".html", ".csv", ".txt", ".md", ".yaml", ".yml"})


class FileImage(NamedTuple):
    """One file as it was read."""

    study_id: str
    path: Path
    pixels: NDArray[np.uint8]
    display: NDArray[np.uint8]
    sha256: str


def find_images(sources: Sequence[Path]) -> list[tuple[str, Path]]:
    """(study_id, path) of every image named, and of every file below a folder that could be one.

    The study_id is the path below the folder, so that equal names in two folders stay apart.

    Raises:
        InputError: A source does not exist, or two images would get one name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        if not source.exists():
            raise InputError("no such file or folder", where=str(source))
        files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
        for path in files:
            if source.is_dir() and (path.suffix.lower() in _NOT_IMAGES or path.name.startswith(".")):
                continue
            name = path.name if source.is_file() else path.relative_to(source).as_posix()
            if found.setdefault(name, path) != path:
                raise InputError(f"two images are called {name!r}", remedy="Explain the folders one by one.")
    return list(found.items())


def file_stem(study_id: str) -> str:
    """A file name for a study: readable characters of its id, and a hash that keeps different ids apart."""
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in study_id)[:60]
    return f"{readable}-{hashlib.sha256(study_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def explain_files(
    sources: Sequence[Path],
    reader: ImageReader,
    context: ExplanationContext,
    *,
    out_dir: Path | None,
    formats: Sequence[ExplainFormat] = ("json", "html"),
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Explanation]:
    """Explain files and folders of files, yielding each explanation as soon as its files are written.

    A study whose files already stand in `out_dir`, from the same model and the same image bytes, is not read again. A
    file that cannot be read is written to rejected.jsonl with its reason and the rest goes on; a single file that
    cannot be read raises.

    Args:
        sources: Image files (PNG, JPEG, DICOM) and folders.
        reader: The student.
        context: See `ExplanationContext`.
        out_dir: Where to write; None to write nothing.
        formats: What to write for each study.
        on_progress: (done, total).

    Raises:
        InputError: A source does not exist; or the only image is not readable.
    """
    items = find_images(sources)
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / REJECTED).unlink(missing_ok=True)
    size, done = context.config.batch_size, 0
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        yield from _explain_batch(batch, reader, context, out_dir, formats, alone=len(items) == 1)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(items))


def _explain_batch(
    items: Sequence[tuple[str, Path]],
    reader: ImageReader,
    context: ExplanationContext,
    out_dir: Path | None,
    formats: Sequence[ExplainFormat],
    *,
    alone: bool,
) -> Iterator[Explanation]:
    images: list[FileImage] = []
    for study_id, path in items:
        try:
            image = _read(study_id, path, reader.size_px)
        except InputError as error:
            if alone:
                raise
            _reject(out_dir, study_id, error)
            continue
        if out_dir is None or not _is_done(out_dir, image, context.model, formats):
            images.append(image)
    if not images:
        return
    readings = reader.read(np.stack([image.pixels for image in images]))
    for image, reading in zip(images, readings, strict=True):
        explanation = explain(image.study_id, image.pixels, reading, context, image_sha256=image.sha256)
        if out_dir is not None:
            write_explanation(out_dir, explanation, image.display, formats)
        yield explanation


def _read(study_id: str, path: Path, size_px: int) -> FileImage:
    grey = read_grey(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileImage(study_id, path, to_square(grey, size_px), to_square(grey, max(size_px, DISPLAY_PX)), sha256)


def _reject(out_dir: Path | None, study_id: str, error: InputError) -> None:
    logger.warning("%s rejected: %s", study_id, error.what)
    if out_dir is not None:
        with (out_dir / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"item": study_id, "reason": error.what}, ensure_ascii=False) + "\n")


def _is_done(out_dir: Path, image: FileImage, model: str, formats: Sequence[ExplainFormat]) -> bool:
    stem = file_stem(image.study_id)
    if not all((out_dir / f"{stem}.{kind}").is_file() for kind in {"json", *formats}):
        return False
    try:
        written = Explanation.model_validate_json((out_dir / f"{stem}.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return (written.model, written.image_sha256) == (model, image.sha256)


def write_explanation(
    out_dir: Path, explanation: Explanation, image: NDArray[np.uint8], formats: Sequence[ExplainFormat]
) -> None:
    """Write one study's files; each appears whole or not at all, the JSON last (its presence says "done")."""
    stem = file_stem(explanation.study_id)
    if "html" in formats:
        _write_whole(out_dir / f"{stem}.html", explanation_page(explanation, image))
    _write_whole(out_dir / f"{stem}.json", explanation.model_dump_json())


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
