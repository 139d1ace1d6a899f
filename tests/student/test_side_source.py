"""Sides that are read from where the evidence map lies as well (`student.side_source: map`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kdistill.student.modeling import load_student
from kdistill.student.queries import MIN_SHARE, half_shares

from .small import pixels, small_student


def log_map(rows: list[list[float]]) -> torch.Tensor:
    values = torch.tensor(rows).flatten()
    return (values / values.sum()).log()[None, None]


@pytest.mark.parametrize(
    ("rows", "left", "right"),
    [
        ([[0.0, 1.0], [0.0, 1.0]], 1.0, MIN_SHARE),  # the film's right is the patient's left
        ([[3.0, 1.0], [0.0, 0.0]], 0.25, 0.75),
        ([[0.0, 1.0, 0.0]] * 3, 0.5, 0.5),  # a middle column belongs to both
    ],
)
def test_shares_of_the_patients_halves(rows: list[list[float]], left: float, right: float) -> None:
    expected = torch.tensor([[[math.log(left), math.log(right)]]])
    torch.testing.assert_close(half_shares(log_map(rows)), expected)


def test_an_empty_half_has_a_finite_gradient() -> None:
    scores = torch.tensor([[[200.0, -200.0, 200.0, -200.0]]], requires_grad=True)
    half_shares(torch.log_softmax(scores, -1)).sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_it_begins_as_the_student_without_it() -> None:
    plain, told = small_student(), small_student(side_source="map")
    assert torch.equal(plain(pixels()).side_logits, told(pixels()).side_logits)
    assert torch.equal(plain(pixels()).logits, told(pixels()).logits)


def test_a_map_on_the_films_right_speaks_for_the_left_side() -> None:
    """V learned by hand: left follows the left half's share, right the right half's."""
    model = small_student(side_source="map")
    with torch.no_grad():
        model.queries.side.weight.zero_()
        model.queries.side.bias.zero_()
        model.queries.side_of_map.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    film = pixels(4)
    sides, shares = model(film).side_logits, half_shares(model(film).log_attention)
    torch.testing.assert_close(sides[..., :2], shares)


def test_the_side_loss_trains_the_map() -> None:
    model = small_student(side_source="map")
    with torch.no_grad():
        model.queries.side.weight.zero_()
        model.queries.side_of_map.fill_(1.0)
    model(pixels()).side_logits[..., 0].sum().backward()
    assert model.queries.evidence.grad is not None and model.queries.evidence.grad.abs().sum() > 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = small_student(side_source="map")
    with torch.no_grad():
        model.queries.side_of_map.normal_()
    model.save_pretrained(tmp_path)
    loaded = load_student(tmp_path)
    assert torch.equal(loaded(pixels()).side_logits, model(pixels()).side_logits)
