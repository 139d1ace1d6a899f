"""A study plan -> its radiograph and the mask of each of its observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from kdistill.observations import FINDINGS
from kdistill.studies.phantom.anatomy import thorax_of
from kdistill.studies.phantom.findings import draw_finding
from kdistill.studies.phantom.marks import lead_markers
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.scene import Effect, Scene, develop, expose
from kdistill.studies.phantom.shapes import Field, blur

#: A pixel belongs to a finding where the smoothed change that it causes is above this share of its maximum.
MASK_THRESHOLD = 0.25
#: Smoothing of the causal difference, as a share of the image's width (2 pixels at 128).
MASK_BLUR = 1 / 64


@dataclass(frozen=True, eq=False)
class Rendering:
    """One radiograph: `image` float32 [H, W] in 0..1 (MONOCHROME2) and a boolean mask [H, W] per drawn observation."""

    image: Field
    masks: dict[str, NDArray[np.bool_]]


def render(plan: StudyPlan, size_px: int) -> Rendering:
    """Draw a study.

    The mask of an observation is where taking it out of the noise-free image changes it: the absolute difference,
    smoothed, above a quarter of its maximum.

    Args:
        plan: What the study shows.
        size_px: Width and height of the image.
    """
    scene = Scene(thorax_of(plan.seed, plan.sex, plan.view_position), size_px)
    film = scene.thorax.film
    effects = _effects(plan, scene)
    clean = scene.attenuation([effect for _, effect in effects])
    markers = lead_markers(plan.seed, size_px, plan.shortcut)
    image = expose(clean + markers, film, plan.seed)
    shown = develop(clean, film)
    masks = {}
    for name in dict.fromkeys(name for name, _ in effects):
        without = scene.attenuation([effect for other, effect in effects if other != name])
        masks[name] = _mask(np.abs(develop(without, film) - shown))
    return Rendering(image, masks)


def _effects(plan: StudyPlan, scene: Scene) -> list[tuple[str, Effect]]:
    """Effects in the order of the observations, so that the order in the plan changes nothing."""
    ordered = sorted(plan.findings, key=lambda finding: (FINDINGS.index(finding.observation), finding.variant))
    return [(finding.observation, draw_finding(finding, scene)) for finding in ordered]


def _mask(change: Field) -> NDArray[np.bool_]:
    smooth = blur(change, MASK_BLUR * change.shape[0])
    return smooth > max(MASK_THRESHOLD * float(smooth.max()), 1e-6)


def render_uint8(plan: StudyPlan, size_px: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    """Draw a study as 8-bit grey levels (0..255), with its masks."""
    drawn = render(plan, size_px)
    return np.rint(drawn.image * 255).astype(np.uint8), drawn.masks


def _render_task(task: tuple[StudyPlan, int]) -> Rendering:
    return render(*task)


def render_many(
    plans: Sequence[StudyPlan],
    size_px: int,
    processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Rendering]:
    """Draw studies in order; the pictures are the same for any number of processes.

    Args:
        plans: Studies.
        size_px: Width and height of the images.
        processes: Worker processes; 1 draws in this one.
        on_progress: Called with (done, total) after each.
    """
    if processes <= 1:
        for done, plan in enumerate(plans, start=1):
            yield render(plan, size_px)
            if on_progress is not None:
                on_progress(done, len(plans))
        return
    # spawn: a fork of a process that has started threads (torch) may hang
    with ProcessPoolExecutor(max_workers=processes, mp_context=get_context("spawn")) as pool:
        tasks = ((plan, size_px) for plan in plans)
        for done, drawn in enumerate(pool.map(_render_task, tasks, chunksize=16), start=1):
            yield drawn
            if on_progress is not None:
                on_progress(done, len(plans))
