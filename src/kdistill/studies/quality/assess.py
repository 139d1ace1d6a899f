"""Is this a frontal chest radiograph that a student may be shown? Pixels only: a header's word is checked elsewhere.

Some checks refuse: too little contrast, noise, clipped exposure, and whatever the network does not take for an upright
film (turned, inverted, a photograph of a film, something else). Others only warn, because they are wrong too often or
because the film can still be read: mirrored, lettering. How often each is right: docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from kdistill.records import Record
from kdistill.studies.quality.features import content, features, small_picture, thin
from kdistill.studies.quality.lettering import count_letters
from kdistill.studies.quality.measures import clipped_share, grey_range, neighbour_correlation
from kdistill.studies.quality.network import CLASSES, Gate, PictureClass, load_gate

QualityKind = Literal[
    "low_contrast",
    "noise",
    "too_bright",
    "too_dark",
    "not_frontal_chest",
    "turned_left",
    "turned_right",
    "upside_down",
    "inverted",
    "photograph",
    "mirrored",
    "burned_in_text",
]

#: Images with a shorter side than this hold no film.
MIN_SIDE_PX: Final = 16
#: A marker has one letter, the phantom's tag four, "PORTABLE" eight, "SUPINE AP" eight; a name with a date has more.
MANY_LETTERS: Final = 10

_OF_CLASS: Final[Mapping[PictureClass, QualityKind]] = MappingProxyType(
    {
        "turned_left": "turned_left",
        "turned_right": "turned_right",
        "upside_down": "upside_down",
        "inverted": "inverted",
        "photograph": "photograph",
        "other": "not_frontal_chest",
    }
)
_SAYS: Final[Mapping[QualityKind, str]] = MappingProxyType(
    {
        "low_contrast": "The image is nearly constant: there is too little contrast to read.",
        "noise": "The image looks like noise: neighbouring pixels differ as they do on no radiograph.",
        "too_bright": "Much of the chest is one white (under-exposed, or cut off above): what was there is lost.",
        "too_dark": "Much of the chest is one black (over-exposed, or cut off below): what was there is lost.",
        "not_frontal_chest": "The image does not look like a frontal chest radiograph.",
        "turned_left": "The film looks turned by 90 degrees to the left (anticlockwise).",
        "turned_right": "The film looks turned by 90 degrees to the right (clockwise).",
        "upside_down": "The film looks upside down.",
        "inverted": "The film looks inverted: bones dark, air bright.",
        "photograph": "The image looks like a photograph of a film, or a screenshot with its surroundings.",
        "mirrored": "The heart seems to lie on the left of the picture: the film may be mirrored (or dextrocardia).",
        "burned_in_text": "Lettering is burned into the pixels: it may name the patient.",
    }
)
_ONLY_WARN: Final = frozenset[QualityKind]({"mirrored", "burned_in_text"})


class QualityFlag(Record):
    """One check of one image.

    Attributes:
        kind: What was looked for.
        score: 0 to 1, higher the more it looks like that; of the network's kinds, its probability.
        raised: Whether it counts as seen.
        refuses: Whether an image on which it is raised should not be read (the others only warn).
        text: One sentence for a reader.
    """

    kind: QualityKind
    score: float
    raised: bool
    refuses: bool
    text: str


class Quality(Record):
    """Every check of one image, raised or not, always in the same order."""

    checks: tuple[QualityFlag, ...]

    @property
    def flags(self) -> tuple[QualityFlag, ...]:
        """Those that are raised."""
        return tuple(check for check in self.checks if check.raised)

    @property
    def is_usable(self) -> bool:
        """Whether nothing that refuses is raised."""
        return not any(check.refuses for check in self.flags)

    def score(self, kind: QualityKind) -> float:
        """The score of one check."""
        return next(check.score for check in self.checks if check.kind == kind)


def assess(pixels: np.ndarray) -> Quality:
    """Look an image over; the same pixels always give the same answer.

    Args:
        pixels: Float [H, W] in [0, 1], bright = dense, the patient's right on the left, as `images.read_grey` gives it
            (black bars beside the film are cut off here). Lettering is only seen at full size.

    Raises:
        ValueError: Not a finite two-dimensional array with sides of at least 16 pixels.
    """
    if pixels.ndim != 2 or min(pixels.shape) < MIN_SIDE_PX or not np.isfinite(pixels).all():
        raise ValueError(f"expected a finite [H, W] with sides of at least {MIN_SIDE_PX}, got {list(pixels.shape)}")
    film = np.clip(pixels, 0, 1).astype(np.float32)
    gate = _gate()
    found = dict(_measured(film, gate.thresholds))
    found |= _seen(gate, film)
    return Quality(checks=tuple(_check(kind, *found[kind]) for kind in _SAYS))


@cache
def _gate() -> Gate:
    """The shipped weights, read once: they are constants of the package."""
    return load_gate()


def _check(kind: QualityKind, score: float, raised: bool) -> QualityFlag:
    return QualityFlag(
        kind=kind, score=round(score, 6), raised=raised, refuses=kind not in _ONLY_WARN, text=_SAYS[kind]
    )


def _measured(film: np.ndarray, limits: Mapping[str, float]) -> Iterator[tuple[QualityKind, tuple[float, bool]]]:
    """(kind, (score, raised)) of what is measured, not learned."""
    inside = content(thin(film))
    scores: dict[QualityKind, float] = {
        "low_contrast": 1 - grey_range(inside),
        "noise": float(np.clip(1 - neighbour_correlation(inside), 0, 1)),
        "too_bright": clipped_share(inside, bright=True),
        "too_dark": clipped_share(inside, bright=False),
    }
    for kind, score in scores.items():
        yield kind, (score, score > limits[kind])
    letters = count_letters(film)
    yield "burned_in_text", (letters / (letters + MANY_LETTERS), letters >= MANY_LETTERS)


def _seen(gate: Gate, film: np.ndarray) -> dict[QualityKind, tuple[float, bool]]:
    """What the network takes the picture for; at most one kind is raised, and mirrored only on an upright film."""
    row = gate.network.probabilities(features(small_picture(film))[None])[0]
    chance = dict(zip(CLASSES, row.tolist(), strict=True))
    upright = chance["upright"] + chance["mirrored"]
    doubted = 1 - upright > gate.thresholds["not_upright"]
    worst = max(_OF_CLASS, key=lambda name: chance[name])
    found = {kind: (chance[name], doubted and name == worst) for name, kind in _OF_CLASS.items()}
    mirrored = chance["mirrored"] / upright if upright > 0 else 0.0
    found["mirrored"] = (mirrored, not doubted and mirrored > gate.thresholds["mirrored"])
    return found
