"""What is no upright frontal chest film: real films spoiled in known ways, and drawn pictures of other things.

Every function takes a random generator, so that a seed fixes every picture. Values are in [0, 1], bright = dense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Rng = np.random.Generator
Grey = np.ndarray


def varied(film: Grey, rng: Rng) -> Grey:
    """The same film as another department might send it: framing, tilt, exposure, blur, noise, borders."""
    image = _cut(film, rng.uniform(0, 0.09, 4))
    image = np.clip(turned_by(image, float(rng.normal(0, 3.0))), 0, 1)
    image = image ** float(np.exp(rng.normal(0, 0.3)))
    low, high = rng.uniform(0, 0.15), rng.uniform(0.75, 1.0)
    image = low + (high - low) * image
    image = _resized(image, int(rng.integers(36, 257)))
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(0.005, 0.03), image.shape)
    if rng.random() < 0.35:
        image = _bordered(image, rng)
    return np.clip(image, 0, 1).astype(np.float32)


def _cut(image: Grey, shares: np.ndarray) -> Grey:
    height, width = image.shape
    top, bottom, left, right = (shares * (height, height, width, width)).astype(int)
    return image[top : height - bottom, left : width - right]


def turned_by(image: Grey, degrees: float) -> Grey:
    """Rotate by a few degrees about the centre; what comes in at the corners is black."""
    picture = Image.fromarray(image.astype(np.float32))
    return np.asarray(picture.rotate(degrees, Image.Resampling.BILINEAR))


def _resized(image: Grey, longer_px: int) -> Grey:
    scale = longer_px / max(image.shape)
    size = (max(24, round(image.shape[1] * scale)), max(24, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _bordered(image: Grey, rng: Rng) -> Grey:
    """A collimator's or scanner's border: one grey on some sides, with a little noise now and then."""
    widths = (rng.uniform(0, 0.12, 4) * (rng.random(4) < 0.5) * max(image.shape)).astype(int)
    padded = np.pad(image, (widths[:2], widths[2:]), constant_values=float(rng.choice([0.0, 0.0, 0.03, 1.0])))
    return padded + rng.normal(0, 0.004, padded.shape) * (rng.random() < 0.5)


def tiles(film: Grey, rng: Rng) -> Grey:
    """The film cut into 9 or 16 tiles that are put together in another order."""
    number = int(rng.integers(3, 5))
    height, width = (size // number for size in film.shape)
    cut = [
        film[i * height : (i + 1) * height, j * width : (j + 1) * width] for i in range(number) for j in range(number)
    ]
    order = rng.permutation(number * number)
    return np.block([[cut[order[i * number + j]] for j in range(number)] for i in range(number)])


def piece(film: Grey, rng: Rng) -> Grey:
    """A quarter to a half of each side: one lung, a shoulder, a piece of the abdomen."""
    height, width = film.shape
    h, w = (int(size * rng.uniform(0.25, 0.48)) for size in film.shape)
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return film[top : top + h, left : left + w]


def photographed(film: Grey, rng: Rng, size_px: int = 256) -> Grey:
    """The film on a light box or a monitor, taken with a telephone: askew, surroundings, uneven light, glare, moire."""
    surroundings = rng.uniform(0.05, 0.9) + 0.1 * clouds(rng, size_px) - 0.05
    height, width = film.shape
    shown = rng.uniform(0.55, 0.88) * size_px / max(film.shape)
    half = np.array([width, height]) * shown / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    angle = np.deg2rad(rng.uniform(-14, 14))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = corners @ turn + size_px / 2 + rng.normal(0, 0.035 * size_px, (4, 2))
    whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    coefficients = _projection(corners, whole)
    picture = Image.fromarray((film * rng.uniform(0.6, 0.95) + rng.uniform(0, 0.2)).astype(np.float32) + 2)
    warped = np.asarray(
        picture.transform((size_px, size_px), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    )
    image = np.where(warped > 1.9, warped - 2, surroundings)
    return np.clip(_lit(image, rng), 0, 1).astype(np.float32)


def _lit(image: Grey, rng: Rng) -> Grey:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / image.shape[0]
    slope = 1 + rng.uniform(-0.4, 0.4) * (x - 0.5) + rng.uniform(-0.4, 0.4) * (y - 0.5)
    centre, width = rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.15, 2)
    glare = rng.uniform(0, 0.7) * np.exp(-(((x - centre[0]) / width[0]) ** 2) - ((y - centre[1]) / width[1]) ** 2)
    waves = rng.uniform(0, 0.04) * np.sin(2 * np.pi * (rng.uniform(15, 60) * x + rng.uniform(15, 60) * y))
    return image * slope + glare + waves + rng.normal(0, rng.uniform(0.003, 0.02), image.shape)


def _projection(target: np.ndarray, source: np.ndarray) -> tuple[float, ...]:
    """The eight numbers with which Pillow maps output corners `target` [4, 2] to input corners `source` [4, 2]."""
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(values)).tolist())


def clouds(rng: Rng, size_px: int, slope: float | None = None) -> Grey:
    """Noise whose amplitude falls with frequency as in photographs (Field 1987, doi:10.1364/JOSAA.4.002379)."""
    slope = float(rng.uniform(0.8, 1.8)) if slope is None else slope
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :])
    frequency[0, 0] = 1 / size_px
    spectrum = np.fft.rfft2(rng.normal(size=(size_px, size_px))) / frequency**slope
    image = np.fft.irfft2(spectrum, (size_px, size_px))
    low, high = np.percentile(image, [1, 99])
    return np.clip((image - low) / (high - low), 0, 1)


def dead_leaves(rng: Rng, size_px: int) -> Grey:
    """Discs and boxes of all sizes that hide each other: the edges of photographs (Lee et al. 2001, IJCV 41:35)."""
    picture = Image.new("F", (size_px, size_px), float(rng.random()))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(60, 400))):
        radius = min(4 / rng.random() ** 0.7, size_px / 2)
        x, y = rng.uniform(0, size_px, 2)
        shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
        shape((x - radius, y - radius, x + radius * rng.uniform(0.3, 2), y + radius), fill=float(rng.random()))
    return np.clip(np.asarray(picture) + 0.15 * (clouds(rng, size_px, 1.0) - 0.5), 0, 1)


def pattern(rng: Rng, size_px: int) -> Grey:
    """A gradient, stripes, a chequerboard or rings."""
    y, x = np.mgrid[:size_px, :size_px] / size_px
    angle, repeats = rng.uniform(0, 2 * np.pi), rng.uniform(1, 14)
    along = np.cos(angle) * x + np.sin(angle) * y
    match int(rng.integers(0, 4)):
        case 0:
            image = along
        case 1:
            image = np.sin(2 * np.pi * repeats * along)
        case 2:
            image = np.sign(np.sin(np.pi * repeats * x) * np.sin(np.pi * repeats * y))
        case _:
            image = np.sin(2 * np.pi * repeats * np.hypot(x - rng.random(), y - rng.random()))
    image = (image - image.min()) / (np.ptp(image) + 1e-9)
    return np.clip(image + rng.normal(0, rng.uniform(0, 0.05), image.shape), 0, 1)


def page(rng: Rng, size_px: int) -> Grey:
    """A page of lettering, dark on bright or the other way round."""
    picture = Image.new("L", (size_px, size_px), 255)
    draw, height = ImageDraw.Draw(picture), int(rng.integers(8, 22))
    font, letters = ImageFont.load_default(height), list("abcdefghijklmnopqrstuvwxyz    ")
    for top in range(int(rng.integers(4, 30)), size_px - height, round(height * rng.uniform(1.2, 1.8))):
        draw.text(
            (rng.integers(4, 30), top), "".join(rng.choice(letters, int(rng.integers(5, 60)))), font=font, fill=10
        )
    image = np.asarray(picture) / 255.0
    return 1 - image if rng.random() < 0.5 else image


def noise(rng: Rng, size_px: int) -> Grey:
    """Every pixel for itself, or in blocks of a few."""
    block = int(rng.choice([1, 1, 2, 4, 8]))
    number = size_px // block
    values = (
        rng.random((number, number)) if rng.random() < 0.5 else np.clip(rng.normal(0.5, 0.2, (number, number)), 0, 1)
    )
    return np.kron(values, np.ones((block, block)))


#: Drawn pictures that no X-ray made.
PICTURES: Final[Mapping[str, Callable[[Rng, int], Grey]]] = MappingProxyType(
    {"clouds": clouds, "dead_leaves": dead_leaves, "pattern": pattern, "page": page, "noise": noise}
)
