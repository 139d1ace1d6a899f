"""Films -> rows of features with their class: what the gate's network learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import quality_bodies as bodies
import quality_kinds as kinds
from quality_films import NOT_CHEST_SETS, Film

from kdistill.studies.quality.features import features, small_picture
from kdistill.studies.quality.network import CLASSES

Rng = np.random.Generator
Grey = np.ndarray

BODIES: Final[Mapping[str, Callable[[Rng], Grey]]] = MappingProxyType(
    {"limb": bodies.limb, "trunk": bodies.trunk, "lateral": bodies.lateral}
)


#: Of the 64 x 64 set, every third film is spoiled: it is the largest, and of the patients of another.
_THINNED: Final = {"nih_64px": 3}


class Samples(NamedTuple):
    """Rows of features [N, F], class numbers [N], and each row's set or kind of picture and film number (-1: drawn)."""

    features: np.ndarray
    classes: np.ndarray
    sources: np.ndarray
    films: np.ndarray


def samples_of(films: Sequence[Film], seed: int, *, num_drawn: int) -> Samples:
    """Spoil every film in each way, and draw `num_drawn` pictures of each other kind."""
    rows: list[tuple[np.ndarray, int, str, int]] = []
    for number, film in enumerate(films):
        if number % _THINNED.get(film.set, 1):
            continue
        rng = np.random.default_rng([seed, number])
        for name, picture in of_film(film, rng):
            rows.append((_row(picture), CLASSES.index(name), film.set, number))
    for number, (kind, picture) in enumerate(drawn(seed, num_drawn)):
        varied = kinds.varied(picture, np.random.default_rng([seed, 1, number]))
        rows.append((_row(varied), CLASSES.index("other"), kind, -1))
    matrix, classes, sources, numbers = zip(*rows, strict=True)
    return Samples(np.stack(matrix), np.array(classes), np.array(sources), np.array(numbers))


def _row(picture: Grey) -> np.ndarray:
    return features(small_picture(picture.astype(np.float32)))


def of_film(film: Film, rng: Rng) -> Iterator[tuple[str, Grey]]:
    """(class, picture) of a film as it is and spoiled; of a picture of another body part, all are of class other."""
    grey = film.grey
    if film.set in NOT_CHEST_SETS:
        for _ in range(5):
            turned = np.rot90(grey, int(rng.integers(0, 4)))
            yield "other", kinds.varied(turned if rng.random() < 0.7 else 1 - turned, rng)
        return
    yield "upright", grey
    yield "upright", kinds.varied(grey, rng)
    either = grey if rng.random() < 0.5 else grey[:, ::-1]
    yield "mirrored", kinds.varied(grey[:, ::-1], rng)
    yield "turned_left", kinds.varied(np.rot90(either, 1), rng)
    yield "upside_down", kinds.varied(np.rot90(either, 2), rng)
    yield "turned_right", kinds.varied(np.rot90(either, 3), rng)
    yield "inverted", kinds.varied(1 - (grey if rng.random() < 0.6 else np.rot90(either, int(rng.integers(1, 4)))), rng)
    yield "photograph", kinds.photographed(kinds.varied(grey, rng), rng, int(rng.integers(128, 257)))
    if rng.random() < 0.4:
        yield "other", kinds.varied(kinds.tiles(grey, rng), rng)
    yield "other", kinds.varied(kinds.piece(np.rot90(grey, int(rng.integers(0, 4)) * (rng.random() < 0.5)), rng), rng)


def drawn(seed: int, number: int) -> Iterator[tuple[str, Grey]]:
    """(kind, picture): `number` of each kind of drawing."""
    for kind, draw in kinds.PICTURES.items():
        for n in range(number):
            rng = np.random.default_rng([seed, 2, n])
            yield kind, draw(rng, int(rng.integers(96, 224)))
    for kind, body in BODIES.items():
        for n in range(2 * number):
            yield kind, body(np.random.default_rng([seed, 3, n]))
