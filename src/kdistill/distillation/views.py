"""Which image of a study a training visit shows, where a study has several frontal ones. Prediction shows the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdistill.distillation.streams import Draw, generator
from kdistill.records import Study
from kdistill.studies.sources.common import is_frontal


@dataclass(frozen=True)
class FrontalViews:
    """The films of N studies that training may show, numbered through.

    Attributes:
        image_rows: int64 [F], row of images.npy of each film; those of a study stand together, in its order.
        starts: int64 [N + 1]; study n has the films starts[n] to starts[n + 1] - 1.
        seed: Seed of the run.
    """

    image_rows: np.ndarray
    starts: np.ndarray
    seed: int

    @classmethod
    def of(cls, studies: Sequence[Study], seed: int) -> FrontalViews:
        """All images that are said to be frontal; the first one of a study of which none is."""
        films = [_frontal_rows(study) for study in studies]
        return cls(
            np.array([row for own in films for row in own], dtype=np.int64),
            np.cumsum([0, *map(len, films)], dtype=np.int64),
            seed,
        )

    @property
    def num_with_several(self) -> int:
        """Studies for which there is something to draw."""
        return int((np.diff(self.starts) > 1).sum())

    def __call__(self, studies: Sequence[int], visits: Sequence[int]) -> np.ndarray:
        """The film that each visit shows, int64 [B]: a function of seed, visit and study alone, all equally likely."""
        return np.array([self._film(*pair) for pair in zip(studies, visits, strict=True)], dtype=np.int64)

    def _film(self, study: int, visit: int) -> int:
        start, stop = self.starts[study : study + 2].tolist()
        if stop - start == 1:
            return int(start)
        return int(start + generator(Draw.VIEW, self.seed, visit, study).integers(stop - start))


def _frontal_rows(study: Study) -> list[int]:
    frontal = [image.row for image in study.images if is_frontal(image.view_position)]
    return frontal or [study.images[0].row]
