"""Counterfactuals as sets of jobs: the same image without a finding, or without its evidence, read step by step.

A counterfactual is a set of ordinary jobs, one a step, from the image as it is (strength 1) to the image without
(strength 0): each has its own result, events and exports, waits in the same queue and belongs to the same session.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from kdistill.explain.batch import FileImage
from kdistill.explain.explanation import NOTICE
from kdistill.records import Record, Side
from kdistill.serve.counterfactual_words import Change, CounterfactualKind, finding_words, summary
from kdistill.serve.desk import Desk
from kdistill.serve.jobs import Job, JobStage
from kdistill.serve.occlusion import Occluded
from kdistill.serve.removals import Origin, Removed
from kdistill.serve.samples import enlarged

#: Requests whose images may be drawn at the same time; more are told to come again.
_MAX_DRAWING: Final = 4
_MADE: Final[Mapping[Origin, str]] = MappingProxyType(
    {
        "rendered": "The same patient drawn again by the phantom generator without the finding: anatomy, exposure, "
        "noise and every other finding are the same.",
        "pair": "The image without the finding is one of the run's published counterfactual pairs: the same patient, "
        "noise and all.",
    }
)
_MIXED: Final = "In between, the two pictures are mixed pixel by pixel."
#: A set that two models have read compares them and not the two pictures.
CHANGED_MODEL: Final = "The model was changed while the images were read, so they cannot be compared: ask again."
_GRADES: Final = f"{_MIXED} (The generator has three grades of severity and nothing between them.)"
T = TypeVar("T")


class CounterfactualStep(Record):
    """One step. `strength` is 1 for the image as it is, 0 for the image without.

    `job` is an ordinary job: `/v1/jobs/{job}` and its events tell where it stands, `result` is its explanation.
    `image` is the picture that was read, as PNG, at the size at which pages show it.
    """

    strength: float
    job: str
    stage: JobStage
    result: str | None
    image: str


class Counterfactual(Record):
    """A set of steps.

    Attributes:
        id: Its name.
        kind: "removed": the finding is taken away; "occluded": its evidence is blurred over.
        observation: Which.
        side: The finding's own side (ground truth); None for an occlusion.
        stage: "done" once all steps are; "failed" or "expired" if one of them is.
        made: How the image without came to be.
        between: How the steps in between came to be.
        steps: From strength 1 to 0.
        summary: What happened, in one line, once it is done; of a failed set, why, where it can be said.
        notice: Research use only.
    """

    id: str
    kind: CounterfactualKind
    observation: str
    side: Side | None
    stage: JobStage
    made: str
    between: str
    steps: tuple[CounterfactualStep, ...]
    summary: str | None = None
    notice: str = NOTICE


@dataclass(frozen=True)
class Asked:
    """What a set is about."""

    kind: CounterfactualKind
    observation: str
    side: Side | None
    made: str
    between: str
    patches: tuple[int, int] | None = None
    #: The model whose evidence it is; None where it is nobody's.
    model: str | None = None


@dataclass(frozen=True)
class _Steps:
    """A set, kept as long as its first job is: it names the others and holds no image."""

    asked: Asked
    strengths: tuple[float, ...]
    jobs: tuple[str, ...]


class CounterfactualDesk:
    """Makes counterfactuals and finds them again.

    Args:
        desk: Where their steps are queued.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._sets = desk, WeakKeyDictionary[Job, _Steps]()
        self._drawing = threading.BoundedSemaphore(_MAX_DRAWING)

    def drawn(self, num_steps: int, draw: Callable[[], T]) -> T:
        """Draw images, if there is room for the steps that will be made of them.

        Raises:
            HTTPException: 429 too many wait or draw; 409 there never will be room.
        """
        room = self._desk.jobs.config.max_waiting
        if num_steps > room:
            raise HTTPException(409, f"this server lets {room} images wait: ask for at most {room} steps")
        if self._desk.jobs.num_waiting + num_steps > room or not self._drawing.acquire(blocking=False):
            raise self._desk.busy()
        try:
            return draw()
        finally:
            self._drawing.release()

    def start(
        self, session: str, asked: Asked, images: Sequence[FileImage], made_from: str | None = None
    ) -> Counterfactual:
        """Queue the steps of a set, evenly from strength 1 to 0.

        What this session was told of the image as it is, is told again to the last digit: read in another batch, the
        last digits would differ.

        Raises:
            HTTPException: 429 too many would wait; 404 the job that they were made from is gone.
        """
        first = self._desk.jobs.told(session, images[0])
        jobs = self._desk.queue_all(session, images, made_from=made_from, first=first)
        self._sets[jobs[0]] = _Steps(asked, strengths_of(len(jobs)), tuple(job.id for job in jobs))
        return self.look(jobs[0].id, session)

    def jobs(self, set_id: str, session: str) -> tuple[_Steps, list[Job]]:
        """The steps of a set of this session.

        Raises:
            HTTPException: 404 for any other id, and where a step has been deleted.
        """
        steps = self._steps(set_id, session)
        return steps, [self._desk.find(job_id, session) for job_id in steps.jobs]

    def look(self, set_id: str, session: str) -> Counterfactual:
        """Where a set stands.

        Raises:
            HTTPException: 404 there is none of this name in this session.
        """
        steps, jobs = self.jobs(set_id, session)
        asked, stage = steps.asked, _stage([job.stage for job in jobs])
        first, last = jobs[0].explanation, jobs[-1].explanation
        told = None
        if _is_mixed(asked, jobs):
            stage, told = "failed", CHANGED_MODEL
        elif stage == "done" and first is not None and last is not None:
            change = Change(asked.kind, asked.observation, asked.side, first, last, asked.patches)
            told = summary(change, self._desk.jobs.context.labeler)
        return Counterfactual(
            id=set_id,
            kind=asked.kind,
            observation=asked.observation,
            side=asked.side,
            stage=stage,
            made=asked.made,
            between=asked.between,
            steps=tuple(_step(set_id, n, *pair) for n, pair in enumerate(zip(steps.strengths, jobs, strict=True))),
            summary=told,
        )

    def delete(self, set_id: str, session: str) -> None:
        """Forget a set and all its steps now.

        Raises:
            HTTPException: 404 there is none of this name in this session.
        """
        for job_id in self._steps(set_id, session).jobs:
            self._desk.jobs.delete(job_id, session)

    def _steps(self, set_id: str, session: str) -> _Steps:
        steps = self._sets.get(self._desk.find(set_id, session))
        if steps is None:
            raise HTTPException(404, "no such counterfactual in this session")
        return steps


def removed_by(removed: Removed) -> Asked:
    """What a set without a finding is about."""
    finding, others = removed.finding, [finding_words(*other) for other in removed.remaining]
    left = f"Still there: {', '.join(others)}." if others else "Nothing else is present."
    return Asked("removed", finding.name, finding.side, f"{_MADE[finding.origin]} {left}", _GRADES)


def occluded_by(occluded: Occluded, observation: str, model: str) -> Asked:
    """What a set without a model's evidence for an observation is about."""
    number, total = int(occluded.patches.sum()), occluded.patches.size
    made = (
        f"An occlusion test, no healthy image: where the model's evidence is strongest ({number} of {total} patches, "
        f"{occluded.mass:.0%} of the evidence), the film became a smooth continuation of what surrounds it. The model "
        "may react to the smooth patch itself."
    )
    return Asked("occluded", observation, None, made, _MIXED, (number, total), model)


def strengths_of(num_steps: int) -> tuple[float, ...]:
    """Evenly from 1 to 0.

    >>> strengths_of(3)
    (1.0, 0.5, 0.0)
    """
    return tuple(round(float(value), 4) for value in np.linspace(1, 0, num_steps))


def _step(set_id: str, number: int, strength: float, job: Job) -> CounterfactualStep:
    return CounterfactualStep(
        strength=strength,
        job=job.id,
        stage=job.stage,
        result=f"/v1/results/{job.id}" if job.stage == "done" else None,
        image=f"/v1/counterfactuals/{set_id}/steps/{number}/image",
    )


def _is_mixed(asked: Asked, jobs: Sequence[Job]) -> bool:
    """Whether two models have to do with a set: a swap came between two of its steps, or before the first."""
    models = {job.explanation.model for job in jobs if job.explanation is not None}
    return len(models if asked.model is None else models | {asked.model}) > 1


def _stage(stages: Sequence[JobStage]) -> JobStage:
    worst: tuple[JobStage, ...] = ("failed", "expired")
    for stage in worst:
        if stage in stages:
            return stage
    if all(stage == "done" for stage in stages):
        return "done"
    return "waiting" if all(stage == "waiting" for stage in stages) else "reading"


def _mixed(whole: NDArray[np.uint8], without: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    mixed = strength * whole.astype(np.float64) + (1 - strength) * without.astype(np.float64)
    return np.rint(mixed).astype(np.uint8)


def sample_steps(sample: FileImage, without: NDArray[np.uint8], observation: str, num_steps: int) -> list[FileImage]:
    """The sample itself, and copies of it on the way to the image without.

    A changed copy says so in its name, its hash is that of its own pixels, and it has no header of a real study.
    """
    images = [sample]
    for strength in strengths_of(num_steps)[1:]:
        pixels = _mixed(sample.pixels, without, strength)
        name = f"{sample.study_id} with {observation} at {strength:g}"
        images.append(FileImage(name, pixels, enlarged(pixels), hashlib.sha256(pixels.tobytes()).hexdigest(), None))
    return images


def occluded_steps(image: FileImage, occluded: Occluded, observation: str, num_steps: int) -> list[FileImage]:
    """The image itself, and copies of it on the way to the occluded one; quality is that of the film as it was sent."""
    images = [image]
    for strength in strengths_of(num_steps)[1:]:
        pixels = _mixed(image.pixels, occluded.pixels, strength)
        name = f"{image.study_id} with the evidence for {observation} blurred to {strength:g}"
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        display = _mixed(image.display, occluded.display, strength)
        images.append(FileImage(name, pixels, display, digest, image.quality, None, image.notes))
    return images
