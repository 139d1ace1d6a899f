"""Pixels of a film at full depth, for the page's viewer, and what is known of how they came to be.

Nothing of a file's header leaves but its pixel spacing, which is two numbers.
"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Request, Response

from kdistill import __version__
from kdistill.explain.explanation import NOTICE
from kdistill.explain.sides import is_side_doubtful
from kdistill.records import Record
from kdistill.serve.security import COOKIE
from kdistill.studies.depth import Depth, depth_of_grey
from kdistill.studies.quality.assess import QualityFlag

if TYPE_CHECKING:
    from pydicom import Dataset

    from kdistill.explain.batch import FileImage
    from kdistill.serve.desk import Desk
    from kdistill.serve.jobs import Job

#: Longer sides are reduced to this: the largest detectors have 4300 pixels, the largest screens for reading 4096.
LONGEST_PX: Final = 4096
#: Header of the answer that holds `PixelHead` as JSON (ASCII).
HEAD: Final = "X-Pixels"
_LIBRARIES: Final = ("torch", "transformers", "numpy", "pydicom")

PixelKind = Literal["full", "display"]
SpacingPlace = Literal["patient", "detector", "unknown"]


class PixelHead(Record):
    """What the bytes are.

    Attributes:
        width: Columns.
        height: Rows.
        source_width: Columns of the file; more than `width` where the film was reduced.
        source_height: Rows of the file.
        low: The value that the picture given to the model shows as black.
        high: The value that it shows as white.
        slope: The file's unit is `slope * value + intercept`.
        intercept: See `slope`.
        is_linear: False: the file brings a curve in place of a window, and the values are taken behind it.
        kind: "display": 8 bits, from the padded square that reports and exports show.
        spacing_mm: Millimetres from row to row and from column to column of these pixels, where the file says it.
        spacing_at: Where that was measured: in the patient's plane (calibrated), at the detector (a little more), or
            the file does not say.
        is_side_doubtful: Whether the file's tags or the film's look speak against the patient's right on the left.
    """

    width: int
    height: int
    source_width: int
    source_height: int
    low: float
    high: float
    slope: float
    intercept: float
    is_linear: bool
    kind: PixelKind
    spacing_mm: tuple[float, float] | None
    spacing_at: SpacingPlace | None
    is_side_doubtful: bool


class Provenance(Record):
    """How a result came to be. `quality` is None where the film was not looked at at full size."""

    model: str
    image_sha256: str
    recorded: datetime
    kdistill: str
    libraries: dict[str, str]
    size_px: int
    source_width: int | None
    source_height: int | None
    quality: tuple[QualityFlag, ...] | None
    notice: str = NOTICE


def pixels_of(image: FileImage, kind: PixelKind) -> tuple[PixelHead, bytes] | None:
    """Pixels as uint16, little-endian, row by row; None where they are not kept any more."""
    depth = image.depth if kind == "full" else _display(image)
    if depth is None:
        return None
    height, width = depth.values.shape
    spacing = _spacing(image.header) if kind == "full" else None
    scale = depth.shape[0] / height
    head = PixelHead(
        width=width,
        height=height,
        source_width=depth.shape[1],
        source_height=depth.shape[0],
        low=round(depth.low, 4),
        high=round(depth.high, 4),
        slope=depth.slope,
        intercept=depth.intercept,
        is_linear=depth.is_linear,
        kind=kind,
        spacing_mm=None if spacing is None else (round(spacing[0] * scale, 6), round(spacing[1] * scale, 6)),
        spacing_at=None if spacing is None else spacing[2],
        is_side_doubtful=is_side_doubtful(image.notes, image.quality),
    )
    return head, depth.values.astype("<u2", copy=False).tobytes()


def _display(image: FileImage) -> Depth:
    return depth_of_grey(image.display.astype(np.float32) / np.float32(255))


def _spacing(header: Dataset | None) -> tuple[float, float, SpacingPlace] | None:
    """PixelSpacing, else ImagerPixelSpacing, and where it was measured; None where neither is two lengths.

    PixelSpacing is of the patient's plane only where the image was calibrated: its type says so, or it differs from the
    detector's (PS3.3 10.7.1.1 and 10.7.1.2). Alone, it leaves that open.
    """
    if header is None:
        return None
    own = _lengths(header, "PixelSpacing")
    detector = _lengths(header, "ImagerPixelSpacing") or _lengths(header, "NominalScannedPixelSpacing")
    lengths = own or detector
    if lengths is None:
        return None
    place: SpacingPlace = "detector"
    if own is not None and (_is_calibrated(header) or detector not in (None, own)):
        place = "patient"
    elif detector is None:
        place = "unknown"
    return lengths[0], lengths[1], place


def _is_calibrated(header: Dataset) -> bool:
    return header.get("PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL")


def _lengths(header: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        row, column = (float(value) for value in header.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (row, column) if 0 < row < 10 and 0 < column < 10 else None


def provenance_of(job: Job, model: str) -> Provenance:
    """How a job's result came to be; `model` answers now, and counts only where nothing has read the image yet."""
    image, depth = job.image, job.image.depth
    return Provenance(
        model=model if job.explanation is None else job.explanation.model,
        image_sha256=image.sha256,
        recorded=job.recorded,
        kdistill=__version__,
        libraries={name: version(name) for name in _LIBRARIES},
        size_px=len(image.pixels),
        source_width=None if depth is None else depth.shape[1],
        source_height=None if depth is None else depth.shape[0],
        quality=None if image.quality is None else image.quality.checks,
    )


def add_pixels(app: FastAPI, desk: Desk, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add the two paths; before `/v1/results/{id}/{kind}`, which would take them for formats.

    Args:
        app: The application.
        desk: Where jobs are found.
        responses: How it refuses, for the description.
    """

    def found(job_id: str, request: Request) -> Job:
        return desk.find(job_id, request.cookies.get(COOKIE, ""))

    binary: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/octet-stream": {}}, "description": f"uint16; {HEAD} says which."}
    }

    @app.get(
        "/v1/results/{job_id}/pixels",
        tags=["explain"],
        response_class=Response,
        responses={**responses, **binary},
    )
    def pixels(job_id: Annotated[str, Path(max_length=64)], request: Request, kind: PixelKind = "full") -> Response:
        """The film as uint16, little-endian, row by row, as soon as it is decoded; the header X-Pixels describes it."""
        read = pixels_of(found(job_id, request).image, kind)
        if read is None:
            raise HTTPException(404, "the newest films only are kept at full depth; ask for kind=display (8 bits)")
        head, content = read
        return Response(content, media_type="application/octet-stream", headers={HEAD: head.model_dump_json()})

    @app.get("/v1/results/{job_id}/provenance", tags=["explain"], responses=responses)
    def provenance(job_id: Annotated[str, Path(max_length=64)], request: Request) -> Provenance:
        """Which model read which pixels, when, with which versions, and every check of the film."""
        return provenance_of(found(job_id, request), desk.jobs.context.model)
