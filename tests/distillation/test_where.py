"""The where term's regions: fixed as written down, found on each film, mirrored for the control."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdistill.distillation.assembly import build_region_masks
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.regions import Region, RegionMasks, RegionTable
from kdistill.distillation.targets import build_targets
from kdistill.observations import INDEX
from kdistill.sites import REFERENCE, Frame, boxes, region_mask
from kdistill.student.config import StudentConfig
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.store import load_images, load_studies
from kdistill.teacher.tokenizer import load_tokenizer

from .conftest import Count
from .parts import make_parts
from .toy import SIZE, ToyDirs

FOUND = DistillationConfig(where_frame="found")
EFFUSION, HEART = INDEX["Pleural Effusion"], INDEX["Cardiomegaly"]
REGIONS = [Region(*r) for r in itertools.product(("Pneumonia", "Edema"), (None, "left"), (None, "lower"))]


@pytest.fixture(scope="module")
def chests(world: ToyDirs, tmp_path_factory: pytest.TempPathFactory) -> ToyDirs:
    """The toy world with films of one chest, three quarters of its size; every second one 6 pixels further right."""
    folder = tmp_path_factory.mktemp("chests") / "studies"
    shutil.copytree(world.studies, folder)
    chest = render_uint8(StudyPlan("s", "p", 3, "M", 60.0, "PA", ()), 128)[0]
    small = np.asarray(Image.fromarray(chest).resize((24, 24), Image.Resampling.BOX))
    images = np.zeros((len(load_images(world.studies)), SIZE, SIZE), dtype=np.uint8)
    images[::2, 4:28, :24] = small
    images[1::2, 4:28, 6:30] = small
    np.save(folder / "images.npy", images)
    return ToyDirs(folder, world.labels, world.rationales, world.teacher)


def test_fixed_is_the_default_and_draws_the_textbook_masks(world: ToyDirs, tiny: StudentConfig) -> None:
    assert DistillationConfig().where_frame == "fixed" and ARMS["full"].sites == "stated"
    parts = make_parts(world, tiny, DistillationConfig(), "full")
    batch = parts.batch()
    regions = [parts.targets.region_table.regions[row] for row in batch["region_rows"]]
    grid = int(batch["region_masks"].shape[1] ** 0.5)
    expected = [region_mask(*region, grid_size=grid).ravel() for region in regions]
    assert batch["region_masks"].numpy().tobytes() == np.stack(expected).tobytes()


def test_films_without_a_chest_keep_the_fixed_masks_and_are_counted(
    world: ToyDirs, tiny: StudentConfig, count: Count
) -> None:
    """The toy's squares are no thorax: bit for bit as before."""
    fixed, found = (
        make_parts(world, tiny, config, "full").batch(range(24)) for config in (DistillationConfig(), FOUND)
    )
    assert torch.equal(fixed["region_masks"], found["region_masks"])
    parts = make_parts(world, tiny, FOUND, "full")
    build_region_masks(ARMS["full"], FOUND, parts.targets, parts.model, load_images(world.studies), count)
    assert count == {"where_frame_found": 0, "where_frame_fell_back": 24}


def test_found_regions_move_with_the_film(chests: ToyDirs, tiny: StudentConfig, count: Count) -> None:
    parts = make_parts(chests, tiny, FOUND, "full")
    images = load_images(chests.studies)
    masks = build_region_masks(ARMS["full"], FOUND, parts.targets, parts.model, images, count)
    assert masks is not None and count == {"where_frame_found": 24, "where_frame_fell_back": 0}
    row = np.full(2, parts.targets.regions[0, EFFUSION])  # present on the left
    still, moved = _middles(masks(np.array([0, 1]), row))
    assert moved - still == pytest.approx(6 / 32, abs=0.03)
    fixed = make_parts(chests, tiny, DistillationConfig(), "full").collator.region_masks
    assert fixed is not None and torch.equal(*fixed(np.array([0, 1]), row))


def _middles(masks: torch.Tensor) -> np.ndarray:
    """Mean x of each mask, in fractions of the image."""
    grid = int(masks.shape[1] ** 0.5)
    across = masks.view(-1, grid, grid).sum(1).numpy()
    return across @ ((np.arange(grid) + 0.5) / grid) / across.sum(1)


def test_blank_images_and_arms_without_the_term_look_for_no_chest(chests: ToyDirs, tiny: StudentConfig) -> None:
    blank = make_parts(chests, tiny, FOUND, "blank_image").batch()
    fixed = make_parts(chests, tiny, DistillationConfig(), "blank_image").batch()
    assert torch.equal(blank["region_masks"], fixed["region_masks"])
    assert "region_masks" not in make_parts(chests, tiny, FOUND, "full_no_where").batch()


def test_training_reads_the_masks_of_its_own_film(chests: ToyDirs, tiny: StudentConfig) -> None:
    parts = make_parts(chests, tiny, FOUND, "full")
    batch = parts.batch()
    counts = parts.objective.counts(batch)
    loss = parts.objective.losses(parts.model, batch, counts)["where"]
    output = parts.model(batch["pixel_values"], texts=[])
    inside = [
        (output.log_attention[image, observation].exp() * mask).sum()
        for (image, observation), mask in zip(batch["region_index"].tolist(), batch["region_masks"], strict=True)
    ]
    torch.testing.assert_close(loss, -torch.stack(inside).log().mean(), rtol=0, atol=1e-5)


def test_masks_of_films_are_those_of_their_frames() -> None:
    frames = np.array([REFERENCE, Frame(0.2, 0.1, 0.8, 0.6, 0.45), Frame(-0.05, 0.2, 0.7, 1.1, 0.3)])
    table = RegionTable(REGIONS)
    masks = RegionMasks(table, 64, frames)
    studies, regions = (a.ravel() for a in np.meshgrid(np.arange(3), np.arange(len(table.regions))))
    expected = [
        region_mask(*table.regions[r], grid_size=8, frame=Frame(*frames[s])).ravel()
        for s, r in zip(studies, regions, strict=True)
    ]
    np.testing.assert_array_equal(masks(studies, regions).numpy(), np.stack(expected))
    assert masks(studies[:0], regions[:0]).shape == (0, 64)


def test_mirrored_control_differs_in_the_wrong_places_alone(world: ToyDirs, tiny: StudentConfig) -> None:
    right, wrong = (make_parts(world, tiny, DistillationConfig(), arm) for arm in ("full", "full_mirrored_where"))
    batch, control = right.batch(range(24)), wrong.batch(range(24))
    for name in ("pixel_values", "label_targets", "side_targets", "statement_rows", "region_index", "region_rows"):
        torch.testing.assert_close(batch[name], control[name], rtol=0, atol=0, equal_nan=True)
    assert ARMS["full_mirrored_where"] == ARMS["full"].model_copy(update={"sites": "mirrored"})
    table, grid = right.targets.region_table, int(batch["region_masks"].shape[1] ** 0.5)
    for row, mask, other in zip(batch["region_rows"], batch["region_masks"], control["region_masks"], strict=True):
        region, mask, other = table.regions[row], mask.view(grid, grid), other.view(grid, grid)
        torch.testing.assert_close(other, mask.flip(-1), rtol=0, atol=1e-6)
        if region.side == "left":
            assert mask[:, : grid // 2].sum() == 0 and other[:, grid // 2 :].sum() == 0 and other.sum() > 0


def test_what_the_control_moves_is_counted(world: ToyDirs, count: Count) -> None:
    """In the toy world 16 of 24 studies state a side; every study states the heart; 8 deny an effusion."""
    build_targets(
        load_studies(world.studies, "train"),
        ARMS["full_mirrored_where"],
        DistillationConfig(),
        load_tokenizer(str(world.teacher / "model")),
        labels_dir=world.labels,
        rationales_dir=world.rationales,
        seed=0,
        count=count,
    )
    assert count["where_region_mirrored"] == 16 + 24 and count["where_region_alike_on_both_sides"] == 8


def test_displaced_control_differs_in_the_wrong_places_alone(world: ToyDirs, tiny: StudentConfig) -> None:
    right, wrong = (make_parts(world, tiny, DistillationConfig(), arm) for arm in ("full", "full_displaced_where"))
    batch, control = right.batch(range(24)), wrong.batch(range(24))
    for name in ("pixel_values", "label_targets", "side_targets", "statement_rows"):
        torch.testing.assert_close(batch[name], control[name], rtol=0, atol=0, equal_nan=True)
    assert ARMS["full_displaced_where"] == ARMS["full"].model_copy(update={"sites": "displaced"})
    table, moved = right.targets.region_table, wrong.targets.region_table
    left_out = set(table.regions) - set(moved.regions)
    assert all(boxes(*region, place="displaced") == () for region in left_out) and moved.regions
    stated = {tuple(at.tolist()): mask for at, mask in zip(batch["region_index"], batch["region_masks"], strict=True)}
    for at, mask in zip(control["region_index"].tolist(), control["region_masks"], strict=True):
        shared = (stated[tuple(at)] * mask).sum()
        assert mask.sum() > 0 and shared < 0.35 * mask.sum(), "a coarse patch lies in both where their edges meet"
    counts = wrong.objective.counts(control)
    assert torch.isfinite(wrong.objective.losses(wrong.model, control, counts)["where"])


def test_what_is_displaced_and_what_has_no_other_place_is_counted(world: ToyDirs, count: Count) -> None:
    targets = build_targets(
        load_studies(world.studies, "train"),
        ARMS["full_displaced_where"],
        DistillationConfig(),
        load_tokenizer(str(world.teacher / "model")),
        labels_dir=world.labels,
        rationales_dir=world.rationales,
        seed=0,
        count=count,
    )
    displaced, left_out = (count[f"where_region_{name}"] for name in ("displaced", "without_another_place"))
    assert displaced == int((targets.regions >= 0).sum()) > 0
    assert displaced + left_out == 16 + 24 + 8, "as many statements as the mirrored control counts"


def test_a_region_that_fills_the_film_is_left_out_of_a_displaced_table() -> None:
    whole, lungs = Region("Lung Opacity", None, None), Region("Edema", None, None)
    table = RegionTable([whole, lungs, whole], place="displaced")
    assert table.regions == (lungs,) and table.row(whole) == -1 and table.row(lungs) == 0
    assert RegionTable([whole, lungs]).row(whole) >= 0


def test_regions_are_displaced_on_the_standard_film_alone() -> None:
    with pytest.raises(ValueError, match="where_frame: fixed"):
        DistillationConfig(arms=("full_displaced_where",), where_frame="found")


def test_unknown_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="where_frame"):
        DistillationConfig.model_validate({"where_frame": "guessed"})
