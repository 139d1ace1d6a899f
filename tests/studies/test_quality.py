"""What the gate refuses, what it lets through, and that it answers the same, quickly, and from its own weights only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load, save

from kdistill.errors import WeightsError
from kdistill.studies.images import read_grey, to_square
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.quality.assess import MIN_SIDE_PX, Quality, assess
from kdistill.studies.quality.features import NUM_FEATURES, content, features
from kdistill.studies.quality.lettering import count_letters
from kdistill.studies.quality.network import CARD, WEIGHTS, load_gate
from kdistill.studies.quality.summary import Raised, raised_checks

SIZE = 128


def kinds(quality: Quality) -> set[str]:
    return {flag.kind for flag in quality.flags}


def _phantom(seed: int, size_px: int = SIZE, *, portable: bool = False) -> np.ndarray:
    plan = StudyPlan(
        f"s{seed}", f"p{seed}", seed, "FM"[seed % 2], 60.0, "AP" if portable else "PA", (), shortcut=portable
    )
    return render_uint8(plan, size_px)[0].astype(np.float32) / 255


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    """Six healthy chests."""
    return [_phantom(seed) for seed in range(6)]


def test_good_films_pass(phantoms: list[np.ndarray]) -> None:
    assert [kinds(assess(film)) for film in phantoms] == [set()] * len(phantoms)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("turned_left", lambda film: np.rot90(film, 1)),
        ("upside_down", lambda film: np.rot90(film, 2)),
        ("turned_right", lambda film: np.rot90(film, 3)),
        ("inverted", lambda film: 1 - film),
        ("too_bright", lambda film: np.clip(film * 3, 0, 1)),
        ("too_dark", lambda film: np.clip(film * 3 - 2, 0, 1)),
        ("low_contrast", lambda film: 0.4 + 0.05 * film),
        ("noise", lambda film: np.random.default_rng(0).random(film.shape)),
        ("not_frontal_chest", lambda film: np.roll(film, (SIZE // 2, SIZE // 2), axis=(0, 1))),
    ],
)
def test_each_fault_is_refused_by_its_name(phantoms: list[np.ndarray], kind: str, spoil) -> None:  # type: ignore[no-untyped-def]
    found = [assess(spoil(film)) for film in phantoms]
    assert not any(quality.is_usable for quality in found)
    assert sum(kind in kinds(quality) for quality in found) >= len(phantoms) - 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64)),
        np.full((64, 64), 0.5),
        np.tile(np.linspace(0, 1, 64), (64, 1)),
        np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((8, 8))),
        np.random.default_rng(0).normal(0.5, 0.2, (64, 64)),
    ],
    ids=["black", "grey", "gradient", "chequerboard", "noise"],
)
def test_what_no_x_ray_made_is_refused(image: np.ndarray) -> None:
    assert not assess(image).is_usable


def test_a_mirrored_film_is_only_warned_of(phantoms: list[np.ndarray]) -> None:
    found = [assess(film[:, ::-1]) for film in phantoms]
    assert all(quality.is_usable for quality in found)
    assert sum(kinds(quality) == {"mirrored"} for quality in found) >= len(phantoms) // 2


def test_same_pixels_same_answer_however_they_lie(phantoms: list[np.ndarray]) -> None:
    film = phantoms[0]
    assert assess(film) == assess(film.copy()) == assess(np.asfortranarray(film)) == assess(film.astype(np.float64))


def test_bars_of_padding_change_no_score_of_the_network(phantoms: list[np.ndarray]) -> None:
    film = phantoms[1][:, 12:-12]
    assert content(np.pad(film, ((5, 9), (30, 2)))).shape == content(film).shape
    padded = to_square(film, SIZE).astype(np.float32) / 255
    as_is = assess(np.rint(film * 255) / 255)
    for check, other in zip(as_is.checks, assess(padded).checks, strict=True):
        assert check.score == pytest.approx(other.score, abs=1e-5), check.kind


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(MIN_SIDE_PX, 80), st.integers(MIN_SIDE_PX, 80)).flatmap(
        lambda shape: arrays.arrays(
            np.float32, shape, elements=st.floats(0, 1, width=32), fill=st.floats(0, 1, width=32)
        )
    )
)
def test_any_image_gets_an_answer(image: np.ndarray) -> None:
    quality = assess(image)
    assert all(0 <= check.score <= 1 for check in quality.checks)
    assert sum(check.kind in ("inverted", "upside_down", "not_frontal_chest") for check in quality.flags) <= 1
    assert quality.is_usable == (not any(flag.refuses for flag in quality.flags))


@pytest.mark.parametrize("image", [np.zeros((8, 64)), np.zeros((4, 64, 64)), np.full((64, 64), np.nan)])
def test_what_is_no_image_is_an_error(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a finite"):
        assess(image)


def _shipped(name: str) -> bytes:
    return resources.files("kdistill.studies.quality").joinpath(name).read_bytes()


def test_weights_are_bound_to_their_card() -> None:
    weights = bytearray(_shipped(WEIGHTS))
    weights[-1] ^= 1
    with pytest.raises(WeightsError, match=CARD):
        load_gate(bytes(weights))
    card = json.loads(_shipped(CARD))
    assert len(_shipped(WEIGHTS)) < 300_000 and card["train"]["films"]["nih"] > 100


def test_weights_of_another_shape_are_refused() -> None:
    import hashlib

    tensors = load(_shipped(WEIGHTS))
    other = save({**tensors, "first": np.ascontiguousarray(tensors["first"][:, :-1])})
    card = {**json.loads(_shipped(CARD)), "weights_sha256": hashlib.sha256(other).hexdigest()}
    with pytest.raises(WeightsError, match="shapes"):
        load_gate(other, json.dumps(card).encode())


def test_features_are_finite_for_an_even_picture() -> None:
    row = features(np.zeros((64, 64), np.float32))
    assert row.shape == (NUM_FEATURES,) and np.isfinite(row).all()


def test_a_call_takes_milliseconds() -> None:
    film = np.kron(_phantom(0), np.ones((4, 4)))
    times = []
    for _ in range(5):
        start = time.process_time()
        assess(film)
        times.append(time.process_time() - start)
    assert min(times) < 0.1  # 0.02 s of CPU seen for 512 pixels on a busy machine


def test_torch_is_not_needed() -> None:
    code = "import sys, kdistill.studies.quality.assess as a; a._gate(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _written(film: np.ndarray, *lines: str, height_px: int = 14) -> np.ndarray:
    picture = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(height_px / 0.72)
    for number, line in enumerate(lines):
        draw.text((8, 8 + number * 2 * height_px), line, font=font, fill=255)
    return np.asarray(picture, dtype=np.float32) / 255


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ((), False),
        (("R",), False),
        (("PORT",), False),
        (("R", "AP SUPINE"), False),
        (("MUSTERFRAU, ANNA", "14.03.1951"), True),
        (("St Elsewhere General Hospital", "DOE JOHN 1962-07-30"), True),
    ],
)
def test_lettering_is_warned_of_and_markers_are_not(lines: tuple[str, ...], warned: bool) -> None:
    film = _phantom(3, 512)
    quality = assess(_written(film, *lines))
    assert ("burned_in_text" in kinds(quality)) == warned
    assert quality.is_usable


def test_the_phantoms_own_tag_is_no_lettering() -> None:
    assert [count_letters(_phantom(seed, 512, portable=True)) for seed in range(2)] == [0, 0]


def test_most_real_films_pass_and_turned_ones_do_not(shared_data: Path) -> None:
    paths = sorted((shared_data / "nih_cxr14_subset" / "images").glob("*.jpg"))[::25]
    films = [read_grey(path) for path in paths]
    assert sum(assess(film).is_usable for film in films) >= 0.93 * len(films)
    for turns in (1, 2, 3):
        assert sum(assess(np.rot90(film, turns)).is_usable for film in films[::2]) <= 1


def test_a_data_sets_checks_are_gathered_with_their_films(phantoms: list[np.ndarray]) -> None:
    films = [*phantoms, np.rot90(phantoms[0], 2), np.rot90(phantoms[1]), np.rot90(phantoms[1], 2)]
    found = raised_checks((f"film {number}", assess(film)) for number, film in enumerate(films))
    first, turned = len(phantoms), len(phantoms) + 1
    assert found == [
        Raised("upside_down", "The film looks upside down.", (f"film {first}", f"film {first + 2}")),
        Raised("turned_left", "The film looks turned by 90 degrees to the left (anticlockwise).", (f"film {turned}",)),
    ]
    assert raised_checks([]) == []
