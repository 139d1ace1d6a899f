"""Test studies of the run, to try the page without an image of one's own; with their truth, where it is known."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdistill.explain.batch import DISPLAY_PX, FileImage
from kdistill.records import Record, Study
from kdistill.studies.depth import depth_of_grey
from kdistill.studies.store import load_images, load_studies, load_truth

MAX_SAMPLES: Final = 24


class Sample(Record):
    """One sample on offer."""

    number: int
    name: str


class Truth(Record):
    """What is known of a sample; `present` is None where the data set has no ground truth.

    `image_sha256` is that of the sample's explanation: after a change of the run a number may stand for another study.
    """

    present: tuple[str, ...] | None
    report: str
    image_sha256: str


class Samples:
    """The first test studies of a run.

    Args:
        studies_dir: The run's studies stage.
    """

    def __init__(self, studies_dir: Path) -> None:
        self.studies_dir = studies_dir
        self._studies: list[Study] = load_studies(studies_dir, "test")[:MAX_SAMPLES]
        self._images, self._truth = load_images(studies_dir), load_truth(studies_dir)

    def __len__(self) -> int:
        return len(self._studies)

    def all(self) -> list[Sample]:
        """What is on offer; names say nothing of the finding or the patient."""
        return [Sample(number=n, name=f"Sample {n + 1}") for n in range(len(self))]

    def image(self, number: int) -> FileImage:
        """A sample's image as if it had been sent.

        Raises:
            IndexError: There is no such sample.
        """
        pixels = self._pixels(number)
        depth = depth_of_grey(pixels.astype(np.float32) / np.float32(255))
        return FileImage(f"Sample {number + 1}", pixels, enlarged(pixels), _digest(pixels), None, depth=depth)

    def truth(self, number: int) -> Truth:
        """A sample's truth and report.

        Raises:
            IndexError: There is no such sample.
        """
        study = self.study(number)
        known = (self._truth or {}).get(study.study_id)
        present = None if known is None else tuple(name for name, value in known.truth.items() if value == 1)
        return Truth(present=present, report=study.report, image_sha256=_digest(self._pixels(number)))

    def _pixels(self, number: int) -> NDArray[np.uint8]:
        return np.asarray(self._images[self.study(number).images[0].row])

    def study(self, number: int) -> Study:
        """A sample's study.

        Raises:
            IndexError: There is no such sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._studies[number]


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A canonical image at the size at which pages show it."""
    size = max(DISPLAY_PX, len(pixels))
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
