"""The studies stage: studies and images from any source, in one layout (see `store`); ground truth apart."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from kdistill.artifact import StageWriter
from kdistill.errors import InputError, PolicyError
from kdistill.records import Study, Truth, write_jsonl
from kdistill.studies import store
from kdistill.studies.config import (
    CombinedStudies,
    FileSource,
    PhantomStudies,
    StudiesConfig,
)
from kdistill.studies.images import read_image
from kdistill.studies.sources.common import SourceImage, SourceStudy, with_images
from kdistill.studies.sources.read import read_source

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None] | None


def build_studies(
    stage: StageWriter, config: StudiesConfig, *, processes: int = 1, on_progress: OnProgress = None
) -> None:
    """Write studies.jsonl, images.npy and, where they are known, truth, masks and counterfactual pairs.

    Args:
        stage: Where to write.
        config: The source.
        processes: Processes that render or decode; the result does not depend on it.
        on_progress: Called with (done, total).

    Raises:
        InputError: The source's table is wrong, or too many images cannot be used.
        PolicyError: A patient stands in two splits, or the same pixels under two patients in different splits.
    """
    match config:
        case PhantomStudies():
            from kdistill.studies.phantom.stage import build_phantom

            build_phantom(stage, config, processes=processes, on_progress=on_progress)
        case CombinedStudies():
            _build_files(stage, config.sources, on_progress)
        case _:
            _build_files(stage, (config,), on_progress)


def _build_files(stage: StageWriter, sources: tuple[FileSource, ...], on_progress: OnProgress) -> None:
    tables = [read_source(source) for source in sources]
    total, done = sum(len(table.studies) for table in tables), 0
    writer = _StudyWriter()
    for source, table in zip(sources, tables, strict=True):
        for name, reason in table.left_out:
            writer.reject(stage, name, reason)
        for name, count in table.counts.items():
            stage.count(name, count)
        before = len(writer.studies)
        for item in table.studies:
            writer.add(stage, item, source)
            done += 1
            if on_progress:
                on_progress(done, total)
        _refuse_too_many(source, len(table.studies), len(writer.studies) - before)
    writer.refuse_shared_pixels()
    writer.publish(stage)


def _refuse_too_many(source: FileSource, listed: int, kept: int) -> None:
    if not listed:
        raise InputError("names no studies", where=Path(source.path).name)
    share = (listed - kept) / listed
    if share > source.max_rejected_share:
        raise InputError(
            f"{listed - kept} of {listed} studies have no usable image ({share:.0%})",
            where=Path(source.path).name,
            remedy=f"Mend the files, or raise max_rejected_share ({source.max_rejected_share}).",
        )


class _StudyWriter:
    """Gathers studies, images, truth and masks of all sources in one order."""

    def __init__(self) -> None:
        self.studies: list[Study] = []
        self.images: list[np.ndarray] = []
        self.truths: list[Truth] = []
        self.masks: list[np.ndarray] = []
        self.rejected: list[dict[str, object]] = []
        self._seen: dict[str, Study] = {}
        self._shared = 0

    def reject(self, stage: StageWriter, item: str, reason: str) -> None:
        self.rejected.append({"item": item, "reason": reason})
        stage.count(f"rejected_{reason}")

    def add(self, stage: StageWriter, item: SourceStudy, source: FileSource) -> None:
        """Read a study's images; a study without a usable one is quarantined and counted."""
        kept: list[SourceImage] = []
        rows: list[int] = []
        for listed in item.images:
            try:
                image = read_image(listed.path, source.size_px)
            except InputError as error:
                self.reject(stage, listed.path.name, "image_unusable")
                logger.warning("quarantined an image: %s", error.what)
                continue
            rows.append(len(self.images))
            kept.append(listed)
            self.images.append(image)
            self._note_pixels(stage, image, item.study)
        if not rows:
            stage.count("rejected_study_without_image")
            return
        study = with_images(item.study, kept, rows, Path(source.path))
        self.studies.append(study)
        stage.count(f"studies_{study.split}")
        if item.truth and study.split == "test":
            self.truths.append(self._truth(item, source))

    def _note_pixels(self, stage: StageWriter, image: np.ndarray, study: Study) -> None:
        first = self._seen.setdefault(hashlib.sha256(image.tobytes()).hexdigest(), study)
        if first.study_id != study.study_id:
            stage.count("images_with_equal_pixels")
            self._shared += first.split != study.split

    def _truth(self, item: SourceStudy, source: FileSource) -> Truth:
        rows: dict[str, int] = {}
        for name, path in item.mask_paths.items():
            rows[name] = len(self.masks)
            self.masks.append((read_image(path, source.size_px) > 127).astype(np.uint8))
        return Truth(study_id=item.study.study_id, truth=item.truth, masks=rows, sides=item.sides)

    def refuse_shared_pixels(self) -> None:
        if self._shared:
            raise PolicyError(
                f"{self._shared} images stand in two splits with equal pixels under different studies",
                remedy="Run `kdistill data check` for the list; remove one of each or put them into one split.",
            )

    def publish(self, stage: StageWriter) -> None:
        write_jsonl(stage.dir / store.STUDIES, self.studies)
        write_jsonl(stage.dir / store.REJECTED, self.rejected)
        save_images(stage.dir / store.IMAGES, self.images)
        if self.truths:
            write_jsonl(stage.dir / store.TRUTH, self.truths)
        if self.masks:
            save_images(stage.dir / store.MASKS, self.masks)


def save_images(path: Path, images: Iterable[np.ndarray]) -> None:
    """Stack uint8 [S, S] images into one .npy array [N, S, S]."""
    np.save(path, np.stack(list(images)), allow_pickle=False)
