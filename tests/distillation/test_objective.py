"""The objective: every term alone, in all cuts of a batch, blind to what is masked; gradients where they belong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.collate import pad
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.objective import Objective, label_loss, side_loss, token_losses
from kdistill.student.config import StudentConfig

from .checks import CUTS, check_cut_changes_nothing, total
from .parts import Parts, make_parts
from .toy import ToyDirs

TERMS = ARMS["full"].terms
NAN = float("nan")


@pytest.fixture
def full(world: ToyDirs, tiny: StudentConfig, short: DistillationConfig) -> Parts:
    return make_parts(world, tiny, short, "full")


def alone(objective: Objective, term: str) -> Objective:
    from dataclasses import replace

    return replace(objective, weights={term: 1.0})


def test_all_terms_are_there(full: Parts) -> None:
    batch = full.batch()
    losses = full.objective.losses(full.model, batch, full.objective.counts(batch))
    assert set(losses) == set(TERMS)
    assert all(value.ndim == 0 and float(value.detach()) > 0 for value in losses.values())


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_loss_and_gradient_do_not_depend_on_the_cut(full: Parts, cuts: list[list[int]]) -> None:
    check_cut_changes_nothing(full, cuts)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_goes_down_on_an_overfit_batch(full: Parts, term: str) -> None:
    objective, batch = alone(full.objective, term), full.batch()
    counts = objective.counts(batch)
    optimiser = torch.optim.AdamW(full.model.parameters(), lr=1e-2)
    values = []
    for _ in range(15):
        loss = objective.total(objective.losses(full.model, batch, counts))
        values.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert values[-1] < 0.8 * values[0]


def test_every_trainable_parameter_moves_under_full(full: Parts, world: ToyDirs) -> None:
    teacher = Path(world.teacher / "model/model.safetensors").read_bytes()
    before = {name: p.detach().clone() for name, p in full.model.named_parameters()}
    optimiser = torch.optim.SGD(full.model.parameters(), lr=0.1)
    total(full, [list(range(8))])
    optimiser.step()
    still = [name for name, p in full.model.named_parameters() if torch.equal(before[name], p)]
    assert still == []
    assert Path(world.teacher / "model/model.safetensors").read_bytes() == teacher


def test_where_trains_no_decoder_and_report_no_label_head(full: Parts) -> None:
    batch = full.batch()
    for term, untouched in (("where", "language"), ("where", "queries.classifier"), ("report", "queries.classifier")):
        objective = alone(full.objective, term)
        full.model.zero_grad(set_to_none=True)
        objective.total(objective.losses(full.model, batch, objective.counts(batch))).backward()
        moved = {name for name, p in full.model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
        assert moved and not any(name.startswith(untouched) for name in moved)


def test_a_token_is_predicted_from_what_stands_before_it(full: Parts) -> None:
    """Fails for an off-by-one shift: changing target t must not change the logits that predict it."""
    text = pad([[3, 7, 8, 9, 2]])
    assert text["input_ids"].tolist() == [[3, 7, 8, 9]] and text["next_tokens"].tolist() == [[7, 8, 9, 2]]
    other = pad([[3, 7, 8, 11, 2]])
    values = full.batch([0])["pixel_values"]
    index = {"image_index": torch.tensor([0])}
    first, second = (full.model(values, texts=[{**t, **index}]).text_logits[0] for t in (text, other))
    torch.testing.assert_close(first[:3], second[:3])  # rows 0..2 predict tokens 1..3, and saw none of the change
    assert not torch.allclose(first[3], second[3])


def test_token_term_reads_the_teachers_row_of_the_same_token(full: Parts) -> None:
    """In the toy world the teacher's first kept token is the text's own: a shifted row would show another."""
    for text in full.batch()["rationale"]:
        targets = text["next_tokens"][text["next_tokens"] != -100]
        assert torch.equal(text["topk_ids"][:, 0], targets)
        torch.testing.assert_close(text["topk_log_probs"].exp().sum(-1), torch.ones(len(targets)), rtol=0, atol=2e-3)


def test_token_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    text = {"next_tokens": torch.tensor([[2, -100], [0, -100]]), "topk_ids": torch.tensor([[1], [2]])}
    loss, kept = token_losses(logits, text, with_teacher=True)
    logs = torch.log_softmax(logits, -1)
    torch.testing.assert_close(loss, -torch.stack([logs[0, 2], logs[1, 0]]))
    torch.testing.assert_close(kept, torch.stack([logs[0, 1:2], logs[1, 2:3]]))


def test_label_loss_by_hand_and_blind_to_the_unknown() -> None:
    logits = torch.tensor([[0.0, 2.0, NAN], [-1.0, NAN, 5.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, NAN], [0.0, NAN, NAN]])
    loss = label_loss(logits, targets)
    expected = math.log(2) + math.log1p(math.exp(2.0)) + math.log1p(math.exp(-1.0))
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert bool(logits.grad.isfinite().all()) and logits.grad[0, 2] == logits.grad[1, 2] == 0


def test_omissions_of_a_blank_by_a_float64_loop() -> None:
    """Also: no omissions is the plain loss, and masked positions stay without a say."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 14, generator=generator) * 3
    targets = torch.randint(0, 2, (5, 14), generator=generator).float()
    targets[0, :3] = NAN
    blanks = (targets != 1) & (torch.rand(5, 14, generator=generator) < 0.5)
    expected = 0.0
    for z, y, blank in zip(logits.double().flatten(), targets.flatten(), blanks.flatten(), strict=True):
        chance = 1 / (1 + math.exp(-float(z)))
        if not y.isnan():
            expected -= math.log(chance if y == 1 else 1 - (0.9 * chance if blank else chance))
    assert float(label_loss(logits, targets, blanks, 0.1)) == pytest.approx(expected, rel=1e-6)
    assert label_loss(logits, targets, blanks, 0.0) == label_loss(logits, targets)


def test_the_loss_of_omissions_is_least_at_the_true_probability() -> None:
    """Of 100 studies 40 have the finding, and a quarter of those leave it out: plain loss learns .3, this one .4."""
    targets = torch.tensor([1.0] * 30 + [0.0] * 70)[:, None].repeat(1, 14)
    grid = torch.linspace(0.01, 0.99, 99)
    for rate, best in ((0.0, 0.3), (0.25, 0.4)):
        losses = [float(label_loss(torch.full((100, 14), float(p.logit())), targets, targets == 0, rate)) for p in grid]
        assert float(grid[int(np.argmin(losses))]) == pytest.approx(best, abs=1e-6)


def test_side_loss_is_blind_to_the_unstated() -> None:
    logits = torch.full((1, 2, 3), NAN)
    logits[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    loss = side_loss(logits, torch.tensor([[0, -1]]))
    assert float(loss) == pytest.approx(math.log(math.e + 2) - 1)


@given(st.permutations(range(14)))
@settings(max_examples=10, deadline=None)
def test_label_loss_is_blind_to_the_order_of_observations(order: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 14, generator=generator), torch.randint(0, 2, (4, 14), generator=generator).float()
    torch.testing.assert_close(label_loss(logits, targets), label_loss(logits[:, order], targets[:, order]))


def test_a_zero_weight_costs_nothing(world: ToyDirs, tiny: StudentConfig, short: DistillationConfig) -> None:
    parts = make_parts(world, tiny, short, "label")
    batch = parts.batch()
    assert set(parts.objective.weights) == {"report", "label", "side"}
    assert batch["rationale"] == [] and len(batch["statement_rows"]) == len(batch["region_rows"]) == 0
    assert parts.model.semantic is None


def test_nothing_to_learn_is_said(full: Parts) -> None:
    with pytest.raises(ValueError, match="nothing|anything"):
        full.objective.total({})
