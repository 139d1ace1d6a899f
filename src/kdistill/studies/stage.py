"""The studies stage: studies and images from any source, in one layout (see `store`); ground truth apart."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from kdistill.artifact import StageWriter
from kdistill.errors import InputError, PolicyError
from kdistill.records import Split, Study, Truth, write_jsonl
from kdistill.studies import store
from kdistill.studies.config import (
    CombinedStudies,
    FileSource,
    PhantomStudies,
    StudiesConfig,
)
from kdistill.studies.decoding import Decoded, DecoderPool
from kdistill.studies.image_appender import ImageAppender
from kdistill.studies.images import box_mask
from kdistill.studies.sources.common import (
    PixelBox,
    SourceImage,
    SourceStudy,
    frontal_first,
    published_masks,
    refuse_confused,
    refuse_empty,
    with_images,
)
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
            _build_files(stage, config.sources, processes, on_progress)
        case _:
            _build_files(stage, (config,), processes, on_progress)


def _build_files(stage: StageWriter, sources: tuple[FileSource, ...], processes: int, on_progress: OnProgress) -> None:
    tables = [read_source(source) for source in sources]
    for source, table in zip(sources, tables, strict=True):
        refuse_empty(table, source.path)
    refuse_confused([item.study for table in tables for item in table.studies])
    total, done = sum(len(table.studies) for table in tables), 0
    with _StudyWriter(stage, sources[0].size_px) as writer:
        for source, table in zip(sources, tables, strict=True):
            for name, reason in table.left_out:
                writer.reject(name, reason)
            for name, count in table.counts.items():
                stage.count(name, count)
            before = len(writer.studies) + writer.not_frontal  # a lateral film is left out, not unusable
            for item, images, masks in _decoded(table.studies, source, processes):
                writer.add(item, images, masks, source)
                done += 1
                if on_progress:
                    on_progress(done, total)
            _refuse_too_many(source, len(table.studies), len(writer.studies) + writer.not_frontal - before)
        writer.refuse_shared_pixels()
        writer.publish()


Results = list[Decoded | InputError]


def _decoded(
    items: list[SourceStudy], source: FileSource, processes: int
) -> Iterator[tuple[SourceStudy, Results, dict[str, Decoded | InputError]]]:
    """Each study with its decoded images and masks, in order; a few are in flight, whatever the data set's size."""

    def paths() -> Iterator[Path]:
        for item in items:
            yield from (image.path for image in item.images)
            yield from published_masks(item).values()

    with DecoderPool(processes, source.size_px, require_chest=source.require_chest) as pool:
        results = pool.map(paths())
        for item in items:
            images = [next(results) for _ in item.images]
            yield item, images, {name: next(results) for name in published_masks(item)}


def _refuse_too_many(source: FileSource, listed: int, kept: int) -> None:
    share = (listed - kept) / listed
    if share > source.max_rejected_share:
        raise InputError(
            f"{listed - kept} of {listed} studies have no usable image ({share:.0%})",
            where=Path(source.path).name,
            remedy=f"Mend the files, or raise max_rejected_share ({source.max_rejected_share}).",
        )


class _StudyWriter:
    """Writes studies, images, truth and masks of all sources in one order; pixels go to disk as they come."""

    def __init__(self, stage: StageWriter, size_px: int) -> None:
        self.studies: list[Study] = []
        self.truths: list[Truth] = []
        self.rejected: list[dict[str, object]] = []
        self.not_frontal = 0
        self._stage = stage
        self._images = ImageAppender(stage.dir / store.IMAGES, size_px)
        self._masks = ImageAppender(stage.dir / store.MASKS, size_px)
        self._seen: dict[bytes, tuple[str, Split]] = {}
        self._shared = 0

    def __enter__(self) -> _StudyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._images.close()
        self._masks.close()

    def reject(self, item: str, reason: str) -> None:
        """Leave an image or a row of a table out, and count it."""
        self.rejected.append({"item": item, "reason": reason})
        self._stage.count(f"rejected_{reason}")

    def add(
        self, item: SourceStudy, results: Results, masks: dict[str, Decoded | InputError], source: FileSource
    ) -> None:
        """Keep a study's usable images; a study without one, or without a frontal one where asked, is left out."""
        usable: list[tuple[SourceImage, Decoded]] = []
        for listed, found in zip(item.images, results, strict=True):
            if isinstance(found, InputError):
                self.reject(listed.path.name, "image_unusable")
                logger.warning("quarantined an image: %s", found.what)
            else:
                usable.append((self._noted(listed, found), found))
        if not usable:
            self._stage.count("rejected_study_without_image")
            return
        if source.frontal_only and all(listed.is_frontal is False for listed, _ in usable):
            self.reject(item.images[0].path.name, "view_not_frontal")
            self.not_frontal += 1
            return
        rows = [self._append(found, item.study) for _, found in usable]
        self._note_study(item, [listed for listed, _ in usable], rows, source)
        if (item.truth or item.boxes or item.mask_paths) and item.study.split == "test":
            first = results[0]
            shape = None if isinstance(first, InputError) else first.shape
            self.truths.append(self._truth(item, masks, shape, source.size_px))

    def _noted(self, listed: SourceImage, found: Decoded) -> SourceImage:
        """Count what must be told; where the data set says nothing of the view, the file's own tags do."""
        for note in found.notes:
            self._stage.count(f"images_noted_{note}")
        return listed if listed.view_position else replace(listed, view_position=found.view_position)

    def _append(self, found: Decoded, study: Study) -> int:
        key = hashlib.sha256(found.pixels.tobytes()).digest()
        first_id, first_split = self._seen.setdefault(key, (study.study_id, study.split))
        if first_id != study.study_id:
            self._stage.count("images_with_equal_pixels")
            self._shared += first_split != study.split
        return self._images.append(found.pixels)

    def _note_study(self, item: SourceStudy, kept: list[SourceImage], rows: list[int], source: FileSource) -> None:
        if source.first_view == "frontal":
            order = frontal_first(kept)
            kept, rows = [kept[index] for index in order], [rows[index] for index in order]
        study = with_images(item.study, kept, rows, Path(source.path))
        view = kept[0].view_position or study.view_position
        self.studies.append(study.model_copy(update={"view_position": view}))
        self._stage.count(f"studies_{study.split}")

    def _truth(
        self, item: SourceStudy, masks: dict[str, Decoded | InputError], shape: tuple[int, int] | None, size_px: int
    ) -> Truth:
        """Truth with its masks; boxes are in pixels of the study's first image, whose rows and columns are `shape`."""
        rows: dict[str, int] = {}
        for name, boxes in item.boxes.items():
            if shape is None or not _inside(boxes, shape):
                self._stage.count("boxes_outside_the_image")
                continue
            rows[name] = self._masks.append(box_mask(boxes, shape, size_px))
        for name, found in masks.items():
            if isinstance(found, InputError):
                self._stage.count("masks_unusable")
                logger.warning("left a mask out: %s", found.what)
                continue
            # Some tools write 0 and 255, most segmentation tools 0 and 1.
            rows[name] = self._masks.append((2 * found.pixels.astype(np.int64) > found.pixels.max()).astype(np.uint8))
        return Truth(study_id=item.study.study_id, truth=item.truth, masks=rows, sides=item.sides)

    def refuse_shared_pixels(self) -> None:
        """Raise `PolicyError` where equal pixels stand in two splits under different studies."""
        if self._shared:
            raise PolicyError(
                f"{self._shared} images stand in two splits with equal pixels under different studies",
                remedy="Run `kdistill data check` for the list; remove one of each or put them into one split.",
            )

    def publish(self) -> None:
        """Write the tables, and finish the arrays."""
        write_jsonl(self._stage.dir / store.STUDIES, self.studies)
        write_jsonl(self._stage.dir / store.REJECTED, self.rejected)
        if self.truths:
            write_jsonl(self._stage.dir / store.TRUTH, self.truths)
        self._images.close()
        self._masks.close()
        if not self._masks.count:
            (self._stage.dir / store.MASKS).unlink()


def _inside(boxes: Iterable[PixelBox], shape: tuple[int, int]) -> bool:
    """Whether boxes fit their image; those of the originals do not fit a copy that was made smaller."""
    height, width = shape
    return all(box.right <= width + 1 and box.bottom <= height + 1 for box in boxes)
