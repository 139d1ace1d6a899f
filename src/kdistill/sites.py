"""Where each observation shows itself on a frontal chest radiograph: observation x side x zone -> boxes.

Coordinates are fractions of the image (x from the image's left = the patient's right, y from the top), for an upright
frontal film that fills the image from the lower neck to the upper abdomen: the standard film. The boxes are coarse
textbook regions, written down from the sources below without looking at any data set's boxes or at the phantom's
geometry; they say where to look, not where the finding ends. On a film that is framed otherwise they are carried along
with the lungs: `to_frame` maps them from the standard film's thorax to one that `studies.frame` found.

Sources: Hansell et al. 2008, Fleischner Society glossary, doi:10.1148/radiol.2462070712 (zones, signs, their places);
Goodman, Felson's Principles of Chest Roentgenology (silhouette sign, costophrenic sulci, mediastinal contours); Irvin
et al. 2019, arXiv:1901.07031 (meaning of the observations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from kdistill.records import Place, Side, Zone


class Box(NamedTuple):
    """A rectangle in fractions of the image: x to the image's right, y downwards, left < right, top < bottom."""

    left: float
    top: float
    right: float
    bottom: float


class Frame(NamedTuple):
    """Where the thorax lies on a film, in fractions of the image; the lungs may go on beyond its edge.

    Left, top, right and bottom bound both lung fields together (apices to costophrenic angles); `midline` is the x of
    the spine, which is not the middle of the box on a rotated film.
    """

    left: float
    top: float
    right: float
    bottom: float
    midline: float


#: The thorax of the standard film: rows and columns of the lungs in the boxes below. Maps every box to itself.
REFERENCE: Final = Frame(left=0.06, top=0.08, right=0.94, bottom=0.86, midline=0.50)

#: The zones divide the lung height in thirds (Hansell et al. 2008: "zone" is a height on the film, not a lobe).
_ZONE_ROWS: Final[Mapping[Zone, tuple[float, float]]] = MappingProxyType(
    {"upper": (0.08, 0.38), "middle": (0.30, 0.58), "lower": (0.50, 0.86)}
)
_LUNG_ROWS: Final = (0.08, 0.86)


class Site(NamedTuple):
    """The canonical place of an observation: rows, columns for each side, or one box for midline structures."""

    rows: tuple[float, float]
    right: tuple[float, float]
    left: tuple[float, float]
    lateralised: bool
    zoned: bool


def _paired(
    rows: tuple[float, float],
    *,
    outer: float = 0.06,
    inner: float = 0.50,
    zoned: bool = True,
) -> Site:
    return Site(rows, (outer, inner), (1 - inner, 1 - outer), lateralised=True, zoned=zoned)


def _midline(rows: tuple[float, float], columns: tuple[float, float]) -> Site:
    return Site(rows, columns, columns, lateralised=False, zoned=False)


SITES: Final[Mapping[str, Site]] = MappingProxyType(
    {
        # Judged over both lungs, heart and mediastinum: no part of the chest may be left out.
        "No Finding": _midline((0.04, 0.94), (0.04, 0.96)),
        # Upper mediastinum: from the thoracic inlet to the carina and the aortic knob (Felson, ch. mediastinum).
        "Enlarged Cardiomediastinum": _midline((0.06, 0.62), (0.30, 0.70)),
        # Cardiothoracic ratio: both heart borders; the left one may reach the lateral wall.
        "Cardiomegaly": _midline((0.42, 0.88), (0.22, 0.86)),
        "Lung Lesion": _paired(_LUNG_ROWS),
        "Lung Opacity": _paired(_LUNG_ROWS),
        # Perihilar and basal, spares the apices (bat wing; septal lines at the bases).
        "Edema": _paired((0.22, 0.82), outer=0.08),
        "Consolidation": _paired(_LUNG_ROWS),
        "Pneumonia": _paired(_LUNG_ROWS),
        # Plate-like at the bases; volume loss shows at the hemidiaphragm.
        "Atelectasis": _paired((0.40, 0.90)),
        # Air rises: apical and lateral on an upright film.
        "Pneumothorax": _paired((0.04, 0.70), outer=0.04),
        # Fluid sinks: costophrenic sulcus and up the lateral wall.
        "Pleural Effusion": _paired((0.48, 0.95), outer=0.02),
        # Apical caps and plaques along the lateral wall and diaphragm.
        "Pleural Other": _paired((0.04, 0.88), outer=0.02),
        "Fracture": _paired((0.06, 0.86), outer=0.02),
        # Tubes and lines run from the neck to the upper abdomen; generator boxes lie below the clavicle.
        "Support Devices": _midline((0.0, 0.90), (0.08, 0.92)),
    }
)


#: A displaced region shares less than this of its area with the stated one; its own area differs by at most the other.
MAX_OVERLAP: Final = 0.10
MAX_AREA_CHANGE: Final = 0.25


def boxes(
    observation: str,
    side: Side | None = None,
    zone: Zone | None = None,
    *,
    frame: Frame = REFERENCE,
    place: Place = "stated",
) -> tuple[Box, ...]:
    """The boxes in which a reader would look for an observation.

    Args:
        observation: One of OBSERVATIONS.
        side: Cuts a lateralised site to the stated side; ignored for midline sites.
        zone: Cuts a zoned site to the stated third of the lung, where the two overlap; else the site stays whole.
        frame: The thorax of the film; the standard film's leaves the boxes as they are written down.
        place: A wrong place, for a control. mirrored: the boxes of the standard film reflected left to right; a stated
            side becomes the other one, the heart moves to the patient's right; what lies alike on both sides stays.
            displaced: see `displaced`; regions alike on both sides move as well, those that fill the film have no
            other place.

    Returns:
        One or two boxes; none where the region cannot be displaced.

    Raises:
        KeyError: The observation is unknown.
    """
    site = SITES[observation]
    top, bottom = site.rows
    if zone is not None and site.zoned:
        zone_top, zone_bottom = _ZONE_ROWS[zone]
        if min(bottom, zone_bottom) > max(top, zone_top):
            top, bottom = max(top, zone_top), min(bottom, zone_bottom)
    columns = {"right": (site.right,), "left": (site.left,)}.get(side or "", (site.right, site.left))
    found = [Box(left, top, right, bottom) for left, right in (columns if site.lateralised else (site.right,))]
    if place == "mirrored":
        found = [Box(1 - box.right, box.top, 1 - box.left, box.bottom) for box in found]
    elif place == "displaced":
        found = displaced(found)
    return tuple(Box(*row) for row in to_frame(np.array(found).reshape(-1, 4), np.array(frame)).tolist())


def displaced(region: Sequence[Box]) -> list[Box]:
    """A wrong place for a region of the standard film: nearly none of it in common, about the same area.

    The film is taken as closed to a ring, and the region turned by half of it: down, if it is at most half as high as
    the film (bases go to the apices, the heart to the clavicles), else across, if it is at most half as wide (a lung
    goes to the other one). Where it is neither, its place are the bands above and below it (edema of both lungs). In
    each case it shares nothing with the stated region. Larger regions have no such place: one that fills more than
    1 / (2 - MAX_OVERLAP - MAX_AREA_CHANGE) of the film must meet itself wherever it is put.

    Args:
        region: One box, or two that meet in the midline and have the same rows, as every site's.

    Returns:
        One or two boxes; none where there is no such place.
    """
    left, right = min(box.left for box in region), max(box.right for box in region)
    top, bottom = region[0].top, region[0].bottom
    if bottom - top <= 0.5:
        return [Box(left, start, right, end) for start, end in _turned(top, bottom)]
    if right - left <= 0.5:
        return [Box(start, top, end, bottom) for start, end in _turned(left, right)]
    area, bands = (right - left) * (bottom - top), 1 - (bottom - top)
    if abs(bands - area) > MAX_AREA_CHANGE * area:
        return []
    return [Box(0.0, 0.0, 1.0, top), Box(0.0, bottom, 1.0, 1.0)]


def _turned(start: float, end: float) -> list[tuple[float, float]]:
    """An interval of the ring 0..1, turned by half: in one piece, or in two where it crosses the edge."""
    start, end = start + 0.5, end + 0.5
    if start >= 1:
        return [(start - 1, end - 1)]
    return [(start, end)] if end <= 1 else [(start, 1.0), (0.0, end - 1)]


def to_frame(standard: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Carry boxes of the standard film to films whose thorax was found.

        x' = midline' + (x - midline) * half' / half        half: from the midline to the lung's outer border, each side
        y' = top' + (y - top) * height' / height

    Piecewise affine in x, so that the midline stays the midline; cut at the image's edge.

    Args:
        standard: [..., 4] boxes as in `Box`.
        frames: [..., 5] as in `Frame`; their other axes broadcast against the boxes'.

    Returns:
        [..., 4]; bit for bit the boxes where the frame is the reference.
    """
    frames = np.asarray(frames)
    left, top, right, bottom, midline = (frames[..., None, n] for n in range(5))
    x = standard[..., [0, 2]] - REFERENCE.midline
    x = midline + x * np.where(
        x < 0,
        (midline - left) / (REFERENCE.midline - REFERENCE.left),
        (right - midline) / (REFERENCE.right - REFERENCE.midline),
    )
    y = top + (standard[..., [1, 3]] - REFERENCE.top) * (bottom - top) / (REFERENCE.bottom - REFERENCE.top)
    moved = np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)
    return np.where((frames == np.array(REFERENCE)).all(-1)[..., None], standard, np.clip(moved, 0.0, 1.0))


def region_mask(
    observation: str,
    side: Side | None = None,
    zone: Zone | None = None,
    *,
    grid_size: int = 16,
    frame: Frame = REFERENCE,
    place: Place = "stated",
) -> np.ndarray:
    """Rasterise `boxes` on the patch grid; a region without a displaced place covers nothing.

    Returns:
        Float32 array [grid_size, grid_size] (rows from the top): the share of each cell that lies inside a box.
    """
    found = boxes(observation, side, zone, frame=frame, place=place) or (Box(0.0, 0.0, 0.0, 0.0),)
    return rasterise(np.array(found), grid_size)


def rasterise(regions: np.ndarray, grid_size: int) -> np.ndarray:
    """Boxes -> masks.

    Args:
        regions: [..., K, 4], K boxes a region as in `Box`; one of zeros covers nothing.
        grid_size: Cells along a side.

    Returns:
        Float32 [..., grid_size, grid_size]: the largest share of each cell that one of its region's boxes covers.
    """
    edges = np.linspace(0.0, 1.0, grid_size + 1)
    left, top, right, bottom = (regions[..., n, None] for n in range(4))
    columns = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None) * grid_size
    rows = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None) * grid_size
    return (rows[..., :, None] * columns[..., None, :]).astype(np.float32).max(axis=-3)
