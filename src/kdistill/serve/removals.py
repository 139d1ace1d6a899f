"""A sample with one of its findings taken away: the same patient, rendered again without it.

Only the phantom knows such an image, and it is trusted only where the generator also gives the sample itself, pixel for
pixel; else the run's published pairs are looked through. What can be taken away is what is present: whoever is told
this is told the truth of the sample.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdistill.config import parse_yaml, validate
from kdistill.errors import ConfigError
from kdistill.observations import NO_FINDING
from kdistill.records import Record, Side
from kdistill.serve.samples import Samples
from kdistill.studies.config import PhantomStudies
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render
from kdistill.studies.phantom.stage import sides_of, to_bytes
from kdistill.studies.phantom.world import plans_of_test_study
from kdistill.studies.store import load_pair_images, load_pairs

#: Where the image without the finding comes from: drawn now by the generator, or published with the run.
Origin = Literal["rendered", "pair"]

NO_PHANTOM: Final = (
    "These studies were not drawn by the phantom generator, so nobody knows how they would look without a finding. "
    "Blur its evidence instead."
)
NOT_THE_SAME: Final = (
    "The generator does not give this sample again pixel for pixel (other settings, or another version of NumPy), and "
    "the run holds no pair of it, so no image without a finding is trusted."
)
NOTHING_THERE: Final = "Nothing is present in this sample, so nothing can be taken away."


class Removable(Record):
    """A finding that is present in a sample and can be taken away."""

    name: str
    side: Side | None
    origin: Origin


class Removables(Record):
    """What can be taken away from a sample; where there is nothing, why.

    `image_sha256` is that of the sample's explanation: after a change of the run a number may stand for another study.
    """

    findings: tuple[Removable, ...]
    image_sha256: str
    reason: str | None = None


class Removed(NamedTuple):
    """A sample without a finding.

    Attributes:
        pixels: uint8 [S, S], as the sample's.
        finding: What was taken away.
        remaining: What is still present, with its side where that is known.
    """

    pixels: NDArray[np.uint8]
    finding: Removable
    remaining: tuple[tuple[str, Side | None], ...]


class Removals:
    """Samples without one of their findings.

    Args:
        samples: The samples on offer.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples, self._config = samples, _phantom_config(samples.studies_dir)
        self._lock = threading.Lock()
        self._plans: dict[int, StudyPlan | None] = {}
        self._drawn: dict[tuple[int, str], NDArray[np.uint8]] = {}

    def of(self, number: int) -> Removables:
        """What can be taken away from a sample.

        Raises:
            IndexError: There is no such sample.
        """
        plan, sha256 = self._plan(number), self._samples.image(number).sha256
        if plan is not None:
            sides = sides_of(plan)
            names = dict.fromkeys(finding.observation for finding in plan.findings)
            found = tuple(Removable(name=name, side=sides.get(name), origin="rendered") for name in names)
            return Removables(findings=found, image_sha256=sha256, reason=None if found else NOTHING_THERE)
        found = tuple(removed.finding for removed in self._pairs(number).values())
        reason = NOT_THE_SAME if self._samples.study(number).source == "phantom" else NO_PHANTOM
        return Removables(findings=found, image_sha256=sha256, reason=None if found else reason)

    def without(self, number: int, observation: str) -> Removed | None:
        """A sample without one finding; None where it is not among those that `of` offers.

        Raises:
            IndexError: There is no such sample.
        """
        plan = self._plan(number)
        if plan is None:
            return self._pairs(number).get(observation)
        if not plan.has(observation):
            return None
        key = (number, observation)
        if key not in self._drawn:
            self._drawn[key] = to_bytes(render(plan.without(observation), self._size_px).image)
        sides = sides_of(plan)
        others = dict.fromkeys(f.observation for f in plan.findings if f.observation != observation)
        finding = Removable(name=observation, side=sides.get(observation), origin="rendered")
        return Removed(self._drawn[key], finding, tuple((name, sides.get(name)) for name in others))

    @property
    def _size_px(self) -> int:
        assert self._config is not None
        return self._config.size_px

    def _plan(self, number: int) -> StudyPlan | None:
        """The plan whose rendering is the sample, pixel for pixel; drawn once for each sample."""
        study_id, stored = self._samples.study(number).study_id, self._samples.image(number).pixels
        with self._lock:
            if number not in self._plans:
                plans = () if self._config is None else plans_of_test_study(self._config, number)
                same = (plan for plan in plans if plan.study_id == study_id and _gives(plan, stored))
                self._plans[number] = next(same, None)
            return self._plans[number]

    def _pairs(self, number: int) -> Mapping[str, Removed]:
        """Observation -> what the run published of this sample without it."""
        images = load_pair_images(self._samples.studies_dir)
        if images is None:
            return {}
        study_id, stored = self._samples.study(number).study_id, self._samples.image(number).pixels
        return {
            pair.observation: Removed(
                np.asarray(images[pair.after_row]),
                Removable(name=pair.observation, side=pair.before_side, origin="pair"),
                tuple((name, None) for name, there in pair.after_truth.items() if there and name != NO_FINDING),
            )
            for pair in load_pairs(self._samples.studies_dir)
            if pair.kind == "removed" and pair.study_id == study_id and np.array_equal(images[pair.before_row], stored)
        }


def _gives(plan: StudyPlan, stored: NDArray[np.uint8]) -> bool:
    return np.array_equal(to_bytes(render(plan, len(stored)).image), stored)


def _phantom_config(studies_dir: Path) -> PhantomConfig | None:
    """How the studies were drawn; None where they come from elsewhere, or from settings that are not known here."""
    path = studies_dir / "config.yaml"
    if not path.is_file():
        return None
    try:
        studies = parse_yaml(path.read_text(encoding="utf-8"), where=path.name).get("studies")
        return validate(PhantomStudies, studies, where=path.name) if studies.get("kind") == "phantom" else None
    except ConfigError:
        return None
