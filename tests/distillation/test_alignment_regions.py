"""The semantic and where terms by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdistill.distillation.alignment import info_nce
from kdistill.distillation.regions import Region, RegionTable, outside_loss, region_of
from kdistill.records import RationaleEntry
from kdistill.sites import region_mask


def unit(rows: list[list[float]]) -> torch.Tensor:
    return functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def test_info_nce_equals_a_loop() -> None:
    queries, bank = unit([[1, 2, 0], [0, 1, -1]]), unit([[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, -1]])
    expected = []
    for query, row in zip(queries.tolist(), (2, 3), strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) / 0.1 for item in bank.tolist()]
        expected.append(math.log(math.fsum(map(math.exp, scores))) - scores[row])
    np.testing.assert_allclose(info_nce(queries, bank, torch.tensor([2, 3]), 0.1).numpy(), expected, atol=1e-12)


def test_a_near_negative_costs_more_than_a_far_one() -> None:
    """Polarity flipped, the embedding is nearly the same: only a bank that holds it teaches the difference."""
    query, positive = unit([[1.0, 0.1, 0.0]]), [1.0, 0.0, 0.0]
    near, far = unit([positive, [0.95, 0.3, 0.0]]), unit([positive, [-1.0, 0.0, 0.0]])
    values = [float(info_nce(query, bank, torch.tensor([0]), 0.07)) for bank in (near, far)]
    assert values[0] > 0.3 and values[1] < 1e-6


def test_no_gradient_reaches_the_bank() -> None:
    bank, query = unit([[1, 0], [0, 1]]).requires_grad_(), unit([[1, 1]]).requires_grad_()
    info_nce(query, bank, torch.tensor([0]), 0.1).sum().backward()
    assert bank.grad is None and bool((query.grad != 0).any())


def entry(state: str, side: str | None = None, zone: str | None = None) -> RationaleEntry:
    return RationaleEntry(observation="Pleural Effusion", state=state, side=side, zone=zone, text="x")


def test_present_is_cut_by_its_side_and_absent_is_the_whole_site() -> None:
    assert region_of(entry("present", "left", "lower")) == Region("Pleural Effusion", "left", "lower")
    assert region_of(entry("uncertain", "right")) == Region("Pleural Effusion", "right", None)
    assert region_of(entry("absent", "left")) == Region("Pleural Effusion", None, None)


def test_left_is_the_images_right() -> None:
    """Fails if sides are mirrored: the patient's left lies on the right of the image."""
    table = RegionTable([region_of(entry("present", "left"))])
    mask = table.masks(64).view(8, 8)
    assert mask[:, :4].sum() == 0 and mask[:, 4:].sum() > 0
    np.testing.assert_array_equal(mask.numpy(), region_mask("Pleural Effusion", "left", grid_size=8))


def test_rows_of_the_table_are_stable_and_distinct() -> None:
    regions = [region_of(entry("present", side)) for side in ("right", "left", "right")]
    table, again = RegionTable(regions), RegionTable(reversed(regions))
    assert table.regions == again.regions and len(table.regions) == 2
    assert table.row(regions[0]) != table.row(regions[1])
    assert RegionTable([]).masks(16).shape == (0, 16)


def test_outside_loss_by_hand() -> None:
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    masks = torch.tensor([[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]])
    loss = outside_loss(attention.log(), masks)
    assert loss.tolist() == pytest.approx([-math.log(0.25), 0.0], abs=1e-6)


def test_gradient_moves_attention_inwards() -> None:
    scores = torch.zeros(1, 4, requires_grad=True)
    outside_loss(torch.log_softmax(scores, -1), torch.tensor([[0.0, 1.0, 0.0, 0.0]])).sum().backward()
    assert bool(scores.grad.isfinite().all()), "log 0 outside the region must not make a NaN"
    assert scores.grad[0, 1] < 0 and bool((scores.grad[0, [0, 2, 3]] > 0).all())
