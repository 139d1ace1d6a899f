"""Training with two grids of patches: regions, terms, resume, and the audit's maps follow the fine grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdistill.audit.maps import MapCases, activation_maps, attention_maps
from kdistill.audit.saliency import hires_cam
from kdistill.checkpoints import newest_verified
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.counterfactual import without
from kdistill.distillation.trainer import Plan, train
from kdistill.explain.regions import evidence_box
from kdistill.sites import region_mask
from kdistill.student.config import CoarseAndFinePatches, StudentConfig
from kdistill.studies.store import load_images

from .parts import EVERYTHING, Parts, make_parts
from .toy import SIZE, ToyDirs

GRID = SIZE // 4


@pytest.fixture(scope="module")
def fine(tiny: StudentConfig) -> StudentConfig:
    """The tiny student with two grids."""
    patches = CoarseAndFinePatches(kind="coarse_and_fine", fine_channels=8, fine_blocks=1)
    return tiny.model_copy(update={"patches": patches})


def run(parts: Parts, config: DistillationConfig, folder: Path, **options: object) -> list[dict]:
    plan = Plan(num_steps=5, seed=0, checkpoints_dir=folder, draw=parts.draw, **options)
    return train(parts.model, parts.objective, parts.collator, config, plan)


def test_regions_are_cut_on_the_fine_grid(world: ToyDirs, fine: StudentConfig) -> None:
    parts = make_parts(world, fine, DistillationConfig(), "full")
    batch = parts.batch()
    assert batch["region_masks"].shape[1] == GRID**2
    table = parts.targets.region_table
    for row, mask in zip(batch["region_rows"], batch["region_masks"], strict=True):
        expected = region_mask(*table.regions[row], grid_size=GRID)
        np.testing.assert_array_equal(mask.view(GRID, GRID).numpy(), expected)


def test_all_terms_train_both_grids_and_a_killed_run_goes_on(
    world: ToyDirs, fine: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """Resumed at step 3 of 5 = uninterrupted, bit for bit; every term has a finite loss, every new weight has moved."""
    whole = make_parts(world, fine, short, EVERYTHING)
    before = {name: value.clone() for name, value in whole.model.named_parameters()}
    expected = run(whole, short, tmp_path / "whole")
    new = [n for n, _ in whole.model.named_parameters() if n.startswith(("vision.fine.", "queries.gate."))]
    assert len(new) > 4 and all(not torch.equal(before[n], whole.model.get_parameter(n)) for n in new)
    assert {f"{term}_loss" for term in EVERYTHING.terms} <= {key for line in expected for key in line}
    assert all(np.isfinite(value) for line in expected for key, value in line.items() if key.endswith("_loss"))

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_parts(world, fine, short, EVERYTHING), short, tmp_path / "cut", on_progress=kill)
    assert newest_verified(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-3"
    again = make_parts(world, fine, short, EVERYTHING)
    assert run(again, short, tmp_path / "cut") == expected
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())


def test_maps_boxes_and_removed_patches_follow_the_fine_grid(world: ToyDirs, fine: StudentConfig) -> None:
    model = make_parts(world, fine, DistillationConfig(), "full").model.eval()
    images = np.asarray(load_images(world.studies)[:3])
    maps = attention_maps(model, images)
    assert maps.shape == (3, 14, GRID, GRID) and maps.sum((2, 3)) == pytest.approx(np.ones((3, 14)))
    number = np.arange(3)
    cases = MapCases(images, number, np.full(3, 10), np.zeros_like(images), ("a", "b", "c"))
    assert activation_maps(model, cases, hires_cam).shape == (3, GRID, GRID)
    peak = np.zeros((GRID, GRID))
    peak[3, 5] = 1.0
    assert evidence_box(peak, SIZE, SIZE) == (20.0, 12.0, 24.0, 16.0), "4 px a patch"
    removed = torch.zeros(1, GRID**2, dtype=torch.bool)
    removed[0, 3 * GRID + 5] = True
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    changed = (without(image, removed) != image)[0, 0]
    assert changed[12:16, 20:24].any() and not changed[:8].any() and not changed[20:].any()
