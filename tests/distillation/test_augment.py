"""Augmentation: what a visit draws, images that stay films, regions that move along, nothing of it in prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kdistill.distillation import augment, regions
from kdistill.distillation.augment import Augmenter
from kdistill.distillation.collate import Visit
from kdistill.distillation.config import ARMS, DistillationConfig, GeometricPhotometric, NoAugmentation
from kdistill.distillation.regions import Region, RegionMasks, RegionTable
from kdistill.distillation.validation import Validation
from kdistill.observations import INDEX
from kdistill.sites import SITES, rasterise
from kdistill.student.config import StudentConfig
from kdistill.student.images import pixel_values
from kdistill.studies.store import load_images
from kdistill.teacher.tokenizer import load_tokenizer

from .parts import make_parts
from .toy import ToyDirs

STRONG = GeometricPhotometric(
    kind="geometric_photometric", max_rotation_degrees=20, max_shift=0.1, max_scale=0.2, max_noise=0.05
)
NOTHING = GeometricPhotometric.model_validate(
    {"kind": "geometric_photometric"} | {name: 0 for name in GeometricPhotometric.model_fields if name != "kind"}
)
GEOMETRY = NOTHING.model_copy(update=STRONG.model_dump(include={"max_rotation_degrees", "max_shift", "max_scale"}))
AUGMENTED = DistillationConfig(augmentation=STRONG)
FILMS = np.random.default_rng(5).integers(0, 256, (8, 24, 24), dtype=np.uint8)


def same(one: Any, two: Any) -> bool:
    """Whether two nested batches hold the same bytes."""
    match one:
        case torch.Tensor():
            return one.dtype == two.dtype and one.shape == two.shape and one.numpy().tobytes() == two.numpy().tobytes()
        case dict():
            return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
        case list():
            return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def test_none_is_the_default_and_the_batch_holds_the_images_as_they_are(world: ToyDirs, tiny: StudentConfig) -> None:
    assert DistillationConfig().augmentation == NoAugmentation()
    parts = make_parts(world, tiny, DistillationConfig(), "full")
    assert parts.collator.augment is None and parts.collator.views is None
    batch = parts.collator([Visit(n, number=40 + n) for n in range(8)])
    films = pixel_values(load_images(world.studies)[:8], parts.model.config)
    assert same(batch["pixel_values"], films)
    assert same(batch, parts.batch(range(8))), "without augmentation the visit's number changes nothing"
    table = parts.targets.region_table.masks(batch["region_masks"].shape[1])
    assert same(batch["region_masks"], table[batch["region_rows"]])


def test_augmented_batches_differ_in_pixels_and_regions_alone(world: ToyDirs, tiny: StudentConfig) -> None:
    plain, moved = (make_parts(world, tiny, config, "full").batch() for config in (DistillationConfig(), AUGMENTED))
    different = {name for name in plain if not same(plain[name], moved[name])}
    assert different == {"pixel_values", "region_masks"}
    assert moved["pixel_values"].shape == plain["pixel_values"].shape
    assert moved["pixel_values"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_drawn_belongs_to_seed_visit_and_study() -> None:
    film, change = FILMS[:1], Augmenter(STRONG, 3)
    image, forward = change(film, [7], [11])
    for other, studies, visits in ((change, [7], [11]), (Augmenter(STRONG, 3), [7], [11])):
        again = other(film, studies, visits)
        assert np.array_equal(image, again[0]) and np.array_equal(forward, again[1])
    for other, studies, visits in ((change, [8], [11]), (change, [7], [12]), (Augmenter(STRONG, 4), [7], [11])):
        found = other(film, studies, visits)
        assert not np.array_equal(image, found[0]) and not np.array_equal(forward, found[1])


def test_a_part_that_is_switched_off_leaves_the_others_as_they_are() -> None:
    _, all_parts = Augmenter(STRONG, 0)(FILMS, range(8), range(8))
    _, geometry = Augmenter(GEOMETRY, 0)(FILMS, range(8), range(8))
    assert np.array_equal(all_parts, geometry)
    shift = GEOMETRY.model_copy(update={"max_rotation_degrees": 0.0, "max_scale": 0.0})
    _, shifted = Augmenter(shift, 0)(FILMS, range(8), range(8))
    middle = np.array([0.5, 0.5, 1])
    np.testing.assert_allclose(shifted @ middle, geometry @ middle, atol=1e-12)  # the middle is shifted alone


@pytest.mark.parametrize("cuts", [[[n] for n in range(8)], [[3, 1], [0, 2, 4, 5, 6, 7]]])
def test_the_cut_of_a_batch_changes_no_image_and_no_region(
    world: ToyDirs, tiny: StudentConfig, cuts: list[list[int]]
) -> None:
    collator = make_parts(world, tiny, AUGMENTED, "full").collator
    visits = [Visit(n, number=20 + n) for n in range(8)]
    whole = collator(visits)
    for cut in cuts:
        part = collator([visits[n] for n in cut])
        assert same(part["pixel_values"], whole["pixel_values"][cut])
        for row, n in enumerate(cut):
            own, all_own = (b["region_index"][:, 0] == i for b, i in ((part, row), (whole, n)))
            assert same(part["region_masks"][own], whole["region_masks"][all_own]) and own.any()


def test_bounds_of_zero_change_nothing() -> None:
    images, forward = Augmenter(NOTHING, 0)(FILMS, range(8), range(8))
    assert np.array_equal(images, FILMS) and np.array_equal(forward, np.tile(np.eye(2, 3), (8, 1, 1)))
    table = RegionTable(Region(name, None, None) for name in SITES)
    boxes = table.boxes[np.arange(8)]
    np.testing.assert_allclose(augment.moved_masks(boxes, forward, 16), rasterise(boxes, 16), atol=1e-6)


bounds = st.builds(
    GeometricPhotometric,
    kind=st.just("geometric_photometric"),
    max_rotation_degrees=st.floats(0, 30),
    max_shift=st.floats(0, 0.25),
    max_scale=st.floats(0, 0.5),
    max_brightness=st.floats(0, 0.5),
    max_contrast=st.floats(0, 1),
    max_gamma=st.floats(0, 1),
    max_noise=st.floats(0, 0.2),
)


@given(bounds, st.integers(0, 10**6), st.integers(8, 40))
@settings(max_examples=60, deadline=None)
def test_films_stay_films_within_every_bound(limits: GeometricPhotometric, visit: int, size: int) -> None:
    films = np.random.default_rng(0).integers(0, 256, (2, size, size), dtype=np.uint8)
    before = films.copy()
    images, forward = Augmenter(limits, 0)(films, [0, 1], [visit, visit])
    assert images.dtype == np.uint8 and images.shape == films.shape and np.array_equal(films, before)
    turned = forward[:, :, :2]
    zoom = np.sqrt(np.linalg.det(turned))
    assert (abs(np.log(zoom)) <= np.log1p(limits.max_scale) + 1e-9).all()
    assert (turned[:, 0, 0] / zoom >= np.cos(np.radians(limits.max_rotation_degrees)) - 1e-9).all(), "never mirrored"
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), zoom[:, None, None] ** 2 * np.eye(2), atol=1e-9)
    middle = forward @ np.array([0.5, 0.5, 1])
    assert (abs(middle - 0.5) <= limits.max_shift + 1e-9).all()


@given(bounds, st.lists(st.floats(-1, 1), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_tone_curves_never_turn_dark_into_bright(limits: GeometricPhotometric, drawn: list[float]) -> None:
    curve = augment.tone_curve(limits, np.array(drawn)).astype(int)
    assert curve.shape == (256,) and (np.diff(curve) >= 0).all()


def check_tones() -> None:
    """By hand: contrast about middle grey, brightness added after it, gamma as the exponent of both."""
    limits = NOTHING.model_copy(update={"max_brightness": 0.1, "max_contrast": 0.5, "max_gamma": 1.0})
    curve = augment.tone_curve(limits, np.array([1.0, 1.0, 1.0]))
    for grey in (0, 60, 128, 200, 255):
        value = min(max((grey / 255 - 0.5) * 1.5 + 0.5 + 0.1, 0), 1) ** 2
        assert abs(int(curve[grey]) - 255 * value) <= 0.5 + 1e-9
    darker = augment.tone_curve(limits, np.array([-1.0, -1.0, -1.0]))
    assert darker[128] == round(255 * (0.4 + 0.5 / 255 / 1.5) ** 0.5)


def check_noise() -> None:
    """Mean zero, the asked deviation, every pixel its own; cut at black and white."""
    grey = np.full((256, 256), 128, dtype=np.uint8)
    found = augment.add_noise(grey, 0.04, np.random.default_rng(0)).astype(float) - 128
    assert abs(found.mean()) < 0.2 and found.std() == pytest.approx(0.04 * 255, rel=0.03)  # 0.99 of it expected
    assert abs(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]) < 0.02
    for value, end in ((0, 0), (255, 255)):
        film = augment.add_noise(np.full((64, 64), value, dtype=np.uint8), 0.2, np.random.default_rng(0))
        assert 0.4 < (film == end).mean() < 0.6, "about half of the noise is cut off, none wraps around"


def _pooled(images: np.ndarray, grid: int) -> np.ndarray:
    size = images.shape[-1] // grid
    return images.reshape(len(images), grid, size, grid, size).mean((2, 4)) / 255


def check_regions_move_with_their_image() -> None:
    """Each region painted white into its own film: after the change the mask is where the white is, and how much."""
    found = [Region(name, None, None) for name in ("Cardiomegaly", "Enlarged Cardiomediastinum")]
    found += [Region("Pneumonia", side, zone) for side in ("left", "right") for zone in ("upper", "lower")]
    table = RegionTable(found)
    films = np.rint(255 * rasterise(table.boxes, 160)).astype(np.uint8)
    numbers = np.arange(len(films))
    for visit in range(12):
        moved, forward = Augmenter(GEOMETRY, 1)(films, numbers, [visit] * len(films))
        masks, visible = RegionMasks(table, 256).moved(numbers, numbers, forward)
        painted = _pooled(moved, 16)
        found_masks = masks.view(-1, 16, 16).numpy()
        assert bool(visible.all())
        assert abs(found_masks - painted).max() < 0.1  # 0.06 seen
        assert abs(found_masks.sum((1, 2)) / painted.sum((1, 2)) - 1).max() < 0.02  # 0.008 seen


def check_a_planted_square_stays_inside_its_region() -> None:
    """A right basal square, and its region on the grid: at every visit the square lies inside."""
    film = np.zeros((1, 128, 128), dtype=np.uint8)
    film[0, 76:104, 20:52] = 255  # the lower zone on the patient's right: rows .50 to .86, columns .06 to .50
    table = RegionTable([Region("Pneumonia", "right", "lower")])
    for visit in range(30):
        moved, forward = Augmenter(GEOMETRY, 2)(film, [0], [visit])
        masks, _ = RegionMasks(table, 256).moved(np.array([0]), np.array([0]), forward)
        square = _pooled(moved, 16)[0].ravel()
        inside = float((square * masks[0].numpy()).sum() / square.sum())
        assert inside > 0.99, (visit, inside)  # 0.999 seen


def check_motion_of_a_point() -> None:
    """A bright dot goes where the affine map says, clockwise for a positive angle."""
    film = np.zeros((101, 101), dtype=np.uint8)
    film[49:52, 69:72] = 255  # right of the middle
    forward = augment.affine(STRONG, np.array([1.0, 1.0, 0.5, -0.5]))
    angle = np.radians(20)
    expected = 0.5 + 1.2 * 20 / 101 * np.array([np.cos(angle), np.sin(angle)]) + [0.05, -0.05]  # y points down
    rows, columns = np.nonzero(augment.move(film, forward) > 127)
    centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / 101
    np.testing.assert_allclose(centre, expected, atol=0.005)
    np.testing.assert_allclose(forward @ [70.5 / 101, 50.5 / 101, 1], expected, atol=1e-12)


CHECKS = [
    check_tones,
    check_noise,
    check_regions_move_with_their_image,
    check_a_planted_square_stays_inside_its_region,
    check_motion_of_a_point,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_of_one_fact(check: Callable[[], None]) -> None:
    check()


def _mirrored(move: Any) -> Any:
    return lambda image, forward: move(image, forward)[:, ::-1]


def _turned_back(f: Any) -> Any:
    return lambda limits, drawn: f(limits, drawn * np.array([-1, 1, 1, 1]))


SLIPS = [
    ("regions stay", regions, "moved_masks", lambda f: lambda b, m, g: rasterise(b, g), CHECKS[2]),
    ("regions stay", regions, "moved_masks", lambda f: lambda b, m, g: rasterise(b, g), CHECKS[3]),
    ("regions move the other way", regions, "moved_masks", lambda f: lambda b, m, g: f(b, _back(m), g), CHECKS[3]),
    ("image mirrored", augment, "move", _mirrored, CHECKS[2]),
    ("image mirrored", augment, "move", _mirrored, CHECKS[4]),
    ("turned the other way", augment, "affine", _turned_back, CHECKS[4]),
    ("contrast about black", augment, "tone_curve", lambda f: _about_black, CHECKS[0]),
    ("noise wraps around", np, "clip", lambda f: lambda a, low, high, out=None: a, CHECKS[1]),
    ("noise left out", augment, "add_noise", lambda f: lambda image, sd, random: image, CHECKS[1]),
]


def _back(forward: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(forward[:, :, :2])
    return np.concatenate([inverse, -inverse @ forward[:, :, 2:]], axis=2)


def _about_black(limits: GeometricPhotometric, drawn: np.ndarray) -> np.ndarray:
    grey = np.arange(256) / 255 * (1 + limits.max_contrast) ** drawn[1] + limits.max_brightness * drawn[0]
    return np.rint(255 * np.clip(grey, 0, 1) ** ((1 + limits.max_gamma) ** drawn[2])).astype(np.uint8)


@pytest.mark.parametrize(("slip", "owner", "name", "mutate", "check"), SLIPS)
def test_a_slip_is_caught(
    slip: str, owner: Any, name: str, mutate: Any, check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, mutate(getattr(owner, name)))
        with pytest.raises(AssertionError):
            check()


def test_sides_are_kept_and_stay_where_they_were(world: ToyDirs, tiny: StudentConfig) -> None:
    """Side targets do not change, and what lay on the image's left of something still does."""
    config = DistillationConfig(augmentation=GEOMETRY)
    plain, moved = (make_parts(world, tiny, c, "full").batch(range(24)) for c in (DistillationConfig(), config))
    assert same(plain["side_targets"], moved["side_targets"])
    film = np.zeros((1, 64, 64), dtype=np.uint8)
    film[0, 36:44, 16:24], film[0, 36:44, 40:48] = 255, 120  # the patient's right is the bright one
    for visit in range(20):
        changed = Augmenter(GEOMETRY, 0)(film, [0], [visit])[0][0]
        bright, dim = (np.nonzero(part)[1].mean() for part in (changed > 200, (changed > 100) & (changed < 130)))
        assert bright < dim


def test_a_region_that_left_the_image_is_asked_of_nobody(world: ToyDirs, tiny: StudentConfig) -> None:
    """A film pushed up until heart and bases are all but gone: regions, their index and the term's count follow."""
    parts = make_parts(world, tiny, AUGMENTED, "full")
    masks = parts.collator.region_masks
    assert masks is not None
    up = np.array([[[1.0, 0, 0], [0, 1.0, -0.8]]])
    rows = parts.targets.regions[0, [INDEX["Pleural Effusion"]]]
    found, visible = masks.moved(np.array([0]), rows, up)
    assert found.sum() > 0 and not visible.any()

    class Pushed(Augmenter):
        def __call__(self, images: Any, studies: Any, visits: Any) -> Any:
            forward = np.tile(up, (len(images), 1, 1))
            forward[1:] = np.eye(2, 3)
            return images, forward

    pushed = type(parts.collator)(
        **{**vars(parts.collator), "augment": Pushed(STRONG, 0)}  # a frozen dataclass: its fields are its vars
    )
    whole, cut = make_parts(world, tiny, DistillationConfig(), "full").batch(range(2)), pushed([Visit(0), Visit(1)])
    kept = whole["region_index"][:, 0] == 1
    for name in ("region_index", "region_rows"):
        assert same(cut[name], whole[name][kept]) and not bool(kept.all())
    torch.testing.assert_close(cut["region_masks"], whole["region_masks"][kept], rtol=0, atol=1e-6)
    assert parts.objective.counts(cut)["where"] == int(kept.sum())
    losses = parts.objective.losses(parts.model, pushed([Visit(0)]), parts.objective.counts(cut))
    assert all(bool(value.isfinite()) for value in losses.values())


def test_within_the_default_bounds_no_region_is_lost() -> None:
    sides, zones = (None, "left", "right"), (None, "upper", "middle", "lower")
    table = RegionTable(Region(name, side, zone) for name in SITES for side in sides for zone in zones)
    limits = GeometricPhotometric(kind="geometric_photometric")
    every = np.arange(len(table.regions))
    for corner in np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T:
        forward = np.tile(augment.affine(limits, corner), (len(every), 1, 1))
        assert bool(RegionMasks(table, 256).moved(every, every, forward)[1].all()), corner


def test_neither_validation_nor_a_blank_image_is_augmented(world: ToyDirs, tiny: StudentConfig) -> None:
    parts = make_parts(world, tiny, AUGMENTED, "full")
    assert parts.collator.augment == Augmenter(STRONG, 0)
    assert make_parts(world, tiny, AUGMENTED, "full", seed=3).collator.augment == Augmenter(STRONG, 3)
    assert make_parts(world, tiny, AUGMENTED, "blank_image").collator.augment is None
    tokenizer = load_tokenizer(str(world.teacher / "model"))
    folders = (world.studies, world.labels, world.rationales)
    for config in (AUGMENTED, AUGMENTED.model_copy(update={"training_view": "any_frontal"})):
        seen = Validation.load(*folders, ARMS["full"], config, tokenizer, parts.model).collator
        assert seen.augment is None and seen.views is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "geometric_photometric", "horizontal_flip": True},
        {"kind": "geometric_photometric", "max_rotation_degrees": 90},
        {"kind": "geometric_photometric", "max_shift": -0.1},
        {"kind": "mixup"},
        {"kind": "none", "max_shift": 0.1},
    ],
)
def test_flips_and_bounds_that_turn_a_film_over_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        DistillationConfig.model_validate({"augmentation": wrong})


def test_the_table_in_the_docs_is_the_configuration() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    for name, field in GeometricPhotometric.model_fields.items():
        if name != "kind":
            assert sum(line.startswith(f"| `{name}` | {field.default:g} | ") for line in lines) == 1, name


def test_moving_agrees_with_another_interpolator() -> None:
    """Against torch's grid_sample, away from the border, where the two fill differently."""
    small = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    film = np.asarray(Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC))
    forward = augment.affine(STRONG, np.array([0.7, 0.4, 0.3, -0.6]))
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))[:2]
    theta = np.column_stack([back[:, :2], 2 * back @ [0.5, 0.5, 1] - 1])[None]
    grid = torch.nn.functional.affine_grid(torch.from_numpy(theta), [1, 1, 96, 96], align_corners=False)
    image = torch.from_numpy(film.copy())[None, None].double()
    expected = torch.nn.functional.grid_sample(image, grid, align_corners=False)[0, 0].round().numpy()
    inner = slice(30, 66)
    difference = abs(augment.move(film, forward)[inner, inner] - expected[inner, inner])
    assert difference.max() <= 1 and difference.mean() < 0.02  # roundings at one half
