"""Planted maps, closed forms of the saliency methods, and the chance levels that they are set beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdistill.audit.localisation import (
    mask_mass,
    mass_chance,
    pointing_chance,
    pointing_hits,
    rank_correlation,
    regions,
    size_terciles,
    summed,
)
from kdistill.audit.maps import MapCases
from kdistill.audit.pointing import Method, pointing_rows
from kdistill.audit.resampling import PatientBootstrap
from kdistill.audit.rows import AuditRow
from kdistill.audit.saliency import (
    centre_gaussian,
    grad_cam,
    hires_cam,
    integrated_gradients,
    normalise,
    random_maps,
    to_grid,
)

NUM, SIZE, GRID = 240, 64, 16


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Squares of 12 px anywhere but in the middle, aligned to nothing."""
    random = np.random.default_rng(0)
    found = np.zeros((NUM, SIZE, SIZE), dtype=np.uint8)
    for mask in found:
        top, left = random.integers(0, 20, 2) + random.integers(0, 2, 2) * 32
        mask[top : top + 12, left : left + 12] = 1
    return found


def planted_maps(masks: np.ndarray) -> np.ndarray:
    """All mass on the fully covered patches."""
    return normalise(regions(masks, GRID).covered == 1.0)


def cases_of(masks: np.ndarray) -> MapCases:
    number = np.arange(len(masks))
    images = np.zeros((len(masks), 8, 8), np.uint8)
    return MapCases(images, number, np.full(len(masks), 3), masks, tuple(f"p{n // 2}" for n in number))


def test_planted_maps_score_one(masks: np.ndarray) -> None:
    region = regions(masks, GRID)
    assert pointing_hits(planted_maps(masks), region).mean() == 1.0
    assert mask_mass(planted_maps(masks), region) == pytest.approx(np.ones(NUM))


def test_random_maps_score_chance(masks: np.ndarray) -> None:
    region = regions(masks, GRID)
    chance = pointing_chance(region).mean()
    repeated = [pointing_hits(random_maps(NUM, GRID, seed), region).mean() for seed in range(20)]
    # Standard error of 4800 draws at p = 0.06 is 0.0034; measured 0.002 off.
    assert np.mean(repeated) == pytest.approx(chance, abs=0.011)
    even = np.full((NUM, GRID, GRID), GRID**-2.0)
    assert pointing_hits(even, region) == pytest.approx(pointing_chance(region))
    assert mask_mass(even, region) == pytest.approx(mass_chance(region))
    assert mass_chance(region) == pytest.approx(np.full(NUM, 144 / SIZE**2))


def test_a_map_on_the_wrong_side_misses(masks: np.ndarray) -> None:
    wrong = planted_maps(masks)[:, :, ::-1]
    assert pointing_hits(wrong, regions(masks, GRID)).mean() < 0.05


def test_pointing_rows_compare_on_the_same_cases(masks: np.ndarray) -> None:
    cases = cases_of(masks)
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)
    few = cases.take(40)
    others = [
        Method("random", "none", [(cases, random_maps(NUM, GRID, 0))]),
        Method("centre_gaussian", "none", [(cases, centre_gaussian(NUM, GRID))]),
        Method("integrated_gradients", "label", [(few, random_maps(len(few.image), GRID, 1))], "few studies"),
    ]
    rows = {
        (r.test, r.arm): r
        for r in pointing_rows(
            {"full": Method("attention", "full", [(cases, planted_maps(masks))])}, others, "full", boot
        )
    }
    own = rows["pointing_game", "full"]
    assert own.value == 1.0 and own.n == NUM and own.baseline == pytest.approx(0.06, abs=0.02)
    for other in ("random", "centre_gaussian", "integrated_gradients"):
        versus = rows[f"pointing_game_vs_{other}", "full"]
        assert versus.passed is True and versus.ci95 is not None and versus.ci95[0] > 0
    assert rows["pointing_game_vs_integrated_gradients", "full"].n == 40
    swapped = list(
        pointing_rows({"full": others[0]}, [Method("perfect", "x", [(cases, planted_maps(masks))])], "full", boot)
    )
    assert [r.passed for r in swapped if "_vs_" in r.test] == [False, False]
    absent = list(pointing_rows({}, others[:1], "full", boot))
    assert any((r.reason or "").startswith("not run: the recipe has no arm full") for r in absent)


def test_evidence_maps_are_compared_with_those_of_other_arms(masks: np.ndarray) -> None:
    cases = cases_of(masks)
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)
    maps = {"full": planted_maps(masks), "label": planted_maps(masks)[:, :, ::-1]}
    attention = {arm: Method("attention", arm, [(cases, found)]) for arm, found in maps.items()}
    rows = {r.test: r for r in pointing_rows(attention, [], "full", boot, ("label", "absent"))}
    versus = rows["pointing_game_vs_label"]
    assert versus.passed is True and versus.value == 1.0 and versus.baseline is not None and versus.baseline < 0.05
    assert (rows["pointing_game_vs_absent"].reason or "").startswith("not run: the recipe has no arm absent")


def test_scores_are_told_apart_by_the_size_of_the_finding() -> None:
    """A map that finds large squares and misses small ones; 30 cases of each of three sizes, by hand."""
    edges = np.repeat([4, 12, 24], 30)
    masks = np.zeros((90, SIZE, SIZE), dtype=np.uint8)
    for mask, edge in zip(masks, edges, strict=True):
        mask[8 : 8 + edge, 8 : 8 + edge] = 1
    maps = planted_maps(masks)
    maps[edges == 4] = maps[edges == 4][:, ::-1, ::-1]
    cases = cases_of(masks)
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)
    attention = {"full": Method("attention", "full", [(cases, maps), (cases, maps)])}
    rows = {row.test: row for row in pointing_rows(attention, [], "full", boot)}
    for measure in ("pointing_game", "mask_mass"):
        assert [rows[f"{measure}_{size}"].value for size in ("small", "medium", "large")] == pytest.approx([0, 1, 1])
        assert [rows[f"{measure}_{size}"].n for size in ("small", "medium", "large")] == [30, 30, 30]
        assert rows[measure].value == pytest.approx(2 / 3) and rows[measure].n == 90
    assert rows["mask_mass_small"].baseline == pytest.approx(16 / SIZE**2, abs=1e-6)
    assert rows["pointing_game_large"].baseline == pytest.approx(36 / GRID**2, abs=1e-6)
    assert "at most 0.39% of the image" in (rows["pointing_game_small"].reason or "")


def test_terciles_keep_equal_areas_together() -> None:
    masks = np.zeros((7, 4, 4), dtype=np.uint8)
    for mask, area in zip(masks, (1, 1, 1, 2, 5, 9, 9), strict=True):
        mask.ravel()[:area] = 1
    third, bounds = size_terciles(masks)
    assert third.tolist() == [0, 0, 0, 1, 1, 2, 2] and bounds == (1 / 16, 5 / 16)
    same = np.ones((4, 4, 4), dtype=np.uint8)
    assert size_terciles(same)[0].tolist() == [0, 0, 0, 0]
    cases = cases_of(np.ones((4, SIZE, SIZE), dtype=np.uint8))
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)
    method = Method("attention", "full", [(cases, random_maps(4, GRID, 0))])
    rows = {row.test: row for row in pointing_rows({"full": method}, [], "full", boot)}
    assert rows["pointing_game_small"].n == 4 and rows["pointing_game_large"].value is None
    assert (rows["pointing_game_large"].reason or "").startswith("not run: no mask is of this size")


def test_students_of_different_grids_play_on_a_common_one(masks: np.ndarray) -> None:
    """A fine map and the same mass on the coarse grid score alike; the mass inside a mask stays the fine one's."""
    fine = random_maps(NUM, 2 * GRID, 3)
    coarse = summed(fine, GRID)
    assert coarse.sum((1, 2)) == pytest.approx(np.ones(NUM))
    assert coarse[0, 0, 1] == pytest.approx(fine[0, :2, 2:4].sum())
    cases = cases_of(masks)
    boot = PatientBootstrap(cases.patient_ids, 200, seed=0)

    def score(maps: np.ndarray, grid: int | None) -> dict[str, AuditRow]:
        attention = {"full": Method("attention", "full", [(cases, maps)])}
        return {row.test: row for row in pointing_rows(attention, [], "full", boot, (), grid)}

    common, alone, own = score(fine, GRID), score(coarse, None), score(fine, None)
    assert common["pointing_game"] == alone["pointing_game"] != own["pointing_game"]
    assert common["mask_mass"] == own["mask_mass"]
    with pytest.raises(ValueError, match="does not divide"):
        summed(fine, 5)


def test_a_common_grid_that_does_not_fit_is_said_not_raised(masks: np.ndarray) -> None:
    cases, maps = cases_of(masks), planted_maps(masks)
    boot = PatientBootstrap(cases.patient_ids, 100, seed=0)
    rows = list(pointing_rows({"full": Method("attention", "full", [(cases, maps)])}, [], "full", boot, (), 32))
    assert [(r.value, r.reason) for r in rows if r.test.startswith("pointing_game")] == [
        (None, "not run: audit.pointing_grid 32 does not divide a grid of 16 patches a side")
    ]
    assert {r.test: r.value for r in rows}["mask_mass"] == 1.0


def test_integrated_gradients_of_a_linear_model() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = (torch.randn(shape, generator=generator) for shape in ((3, 1, 8, 8), (1, 8, 8)))
    baseline = torch.full_like(images, 0.25)
    found = integrated_gradients(images, baseline, lambda x: (x * weights).sum(dim=(1, 2, 3)), steps=2)
    # float32: measured worst case 2.4e-7.
    assert torch.allclose(found, (images - baseline) * weights, atol=1e-6)


def test_integrated_gradients_are_complete_for_a_quadratic() -> None:
    """The midpoint rule is exact for a gradient that is linear along the path."""
    images, baseline = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    found = integrated_gradients(images, baseline, lambda x: (x**2).sum(dim=(1, 2, 3)), steps=4)
    assert found.sum().item() == pytest.approx(4 * (9 - 1))


def test_grad_cam_of_a_linear_head_is_the_class_activation_map() -> None:
    """For pooled features and a linear head, alpha_c = w_c / (G * G): the map of Zhou et al. 2016 up to scale."""
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.randn((2, 5, 4, 4), generator=generator), torch.randn(5, generator=generator)
    found = grad_cam(features, lambda a: (a.mean(dim=(2, 3)) * weights).sum(dim=1))
    expected = torch.relu((features * weights[:, None, None]).sum(dim=1) / 16)
    assert torch.allclose(found, expected, atol=1e-6)


def test_hires_cam_is_exact_where_a_head_weighs_places_and_grad_cam_is_not() -> None:
    """For score = sum_cij w_cij A_cij the contribution of a place is sum_c w_cij A_cij (Draelos and Carin 2020)."""
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.rand((2, 5, 4, 4), generator=generator), torch.randn((5, 4, 4), generator=generator)
    expected = torch.relu((features * weights).sum(dim=1))
    assert torch.allclose(hires_cam(features, lambda a: (a * weights).sum(dim=(1, 2, 3))), expected, atol=1e-6)
    assert not torch.allclose(grad_cam(features, lambda a: (a * weights).sum(dim=(1, 2, 3))), expected, atol=1e-1)


def test_grids_and_normalisation() -> None:
    attribution = torch.zeros((1, 1, 8, 8))
    attribution[0, 0, 0, 7] = -2.0
    assert to_grid(attribution, 4)[0, 0, 3] == 1.0
    assert normalise(np.zeros((1, 4, 4))) == pytest.approx(np.full((1, 4, 4), 1 / 16))
    gaussian = centre_gaussian(1, 4)[0]
    assert gaussian == pytest.approx(gaussian[::-1, ::-1]) and gaussian[1, 1] == gaussian.max()


def test_rank_correlation_equals_scipy() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    first, second = random.integers(0, 9, (2, 5, 4, 4)).astype(float)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    # float64: measured worst case 1e-16.
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(np.ones((1, 2, 2)), first[:1, :2, :2])[0] == 0.0


def test_mask_grid_must_divide() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        regions(np.zeros((1, 10, 10), np.uint8), 3)
