"""Divergences against loops in float64, and the properties that make them divergences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.divergences import (
    divergence,
    forward_kl,
    generalized_jsd,
    kl,
    reverse_kl,
    temper,
    with_residual,
)

KINDS = ("forward_kl", "reverse_kl", "generalized_jsd")
weights = st.lists(st.floats(0.001, 1000), min_size=2, max_size=6)
pairs = st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(st.floats(0.001, 1000), min_size=n, max_size=n)] * 2))


def logs(values: list[float]) -> torch.Tensor:
    array = torch.tensor([values], dtype=torch.float64)
    return (array / array.sum()).log()


def loop_kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def normalised(values: list[float]) -> list[float]:
    return [v / math.fsum(values) for v in values]


@given(pairs, st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_all_three_equal_a_float64_loop(pair: tuple[list[float], list[float]], beta: float) -> None:
    p, q = map(normalised, pair)
    mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    jsd = beta * loop_kl(p, mixture) + (1 - beta) * loop_kl(q, mixture)
    teacher, student = logs(p), logs(q)
    assert float(forward_kl(teacher, student)) == pytest.approx(loop_kl(p, q), abs=1e-12)
    assert float(reverse_kl(teacher, student)) == pytest.approx(loop_kl(q, p), abs=1e-12)
    assert float(generalized_jsd(teacher, student, beta)) == pytest.approx(jsd, abs=1e-12)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_never_negative_and_jsd_at_most_ln_2(pair: tuple[list[float], list[float]]) -> None:
    teacher, student = map(logs, pair)
    assert float(forward_kl(teacher, student)) >= -1e-12 and float(reverse_kl(teacher, student)) >= -1e-12
    swapped = float(generalized_jsd(student, teacher, 0.5))
    assert float(generalized_jsd(teacher, student, 0.5)) == pytest.approx(swapped, abs=1e-12)
    assert -1e-12 <= float(generalized_jsd(teacher, student, 0.5)) <= math.log(2) + 1e-12


@pytest.mark.parametrize("kind", KINDS)
@given(weights, st.floats(0.5, 4))
@settings(max_examples=25, deadline=None)
def test_zero_for_equal_distributions_at_any_temperature(kind: str, values: list[float], temperature: float) -> None:
    p = logs(values)
    assert abs(float(divergence(p, p, kind=kind, beta=0.3, temperature=temperature))) < 1e-12


def test_jsd_reaches_ln_2_where_nothing_is_shared() -> None:
    none = float("-inf")
    p, q = torch.tensor([[0.0, none]], dtype=torch.float64), torch.tensor([[none, 0.0]], dtype=torch.float64)
    assert float(generalized_jsd(p, q, 0.5)) == pytest.approx(math.log(2), abs=1e-12)


def test_order_of_the_arguments() -> None:
    """Fails if teacher and student are swapped: KL is not symmetric."""
    teacher, student = logs([0.9, 0.1]), logs([0.5, 0.5])
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    value = divergence(teacher, student, kind="forward_kl", beta=0.5, temperature=1.0)
    assert float(value) == pytest.approx(by_hand)
    assert float(divergence(teacher, student, kind="reverse_kl", beta=0.5, temperature=1.0)) != pytest.approx(by_hand)


def test_beta_is_the_teachers_share() -> None:
    """Fails if beta is given to the student: JSD / beta tends to KL(teacher, student) as beta tends to 0."""
    teacher, student = logs([0.9, 0.1]), logs([0.4, 0.6])
    small = float(generalized_jsd(teacher, student, 1e-6)) / 1e-6
    assert small == pytest.approx(float(forward_kl(teacher, student)), rel=1e-4)


def test_temperature_scales_by_its_square() -> None:
    """Fails if tau^2 is dropped: at a high temperature the value tends to a constant, not to zero."""
    teacher, student = logs([0.9, 0.1]), logs([0.4, 0.6])
    high, higher = (
        float(divergence(teacher, student, kind="forward_kl", beta=0.5, temperature=t)) for t in (50.0, 100.0)
    )
    assert high == pytest.approx(higher, rel=0.02) and high > 0.1


def test_temperature_by_hand() -> None:
    assert temper(logs([0.81, 0.16, 0.03]), 2.0).exp()[0, 0] == pytest.approx(0.9 / (0.9 + 0.4 + math.sqrt(0.03)))


def test_impossible_events_are_no_nan() -> None:
    none = float("-inf")
    p, q = torch.tensor([[0.0, none]]), torch.tensor([[math.log(0.5)] * 2])
    assert float(kl(p, q)) == pytest.approx(math.log(2))
    assert float(generalized_jsd(p, p, 0.5)) == 0.0
    for kind in KINDS:
        student = q.clone().requires_grad_()
        divergence(p, student, kind=kind, beta=0.5, temperature=1.5).sum().backward()
        assert kind == "reverse_kl" or bool(student.grad.isfinite().all())


def test_residual_completes_the_distribution() -> None:
    full = torch.log_softmax(torch.randn(5, 50, generator=torch.Generator().manual_seed(0)), -1)
    kept = with_residual(full[:, :8])
    np.testing.assert_allclose(kept.exp().sum(-1).numpy(), 1.0, atol=1e-6)
    assert float(with_residual(torch.tensor([[0.0]]))[0, 1]) == pytest.approx(math.log(1e-6)), "no mass left: finite"


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = logs([0.9, 0.1]).requires_grad_(), logs([0.4, 0.6]).requires_grad_()
    divergence(teacher, student, kind="generalized_jsd", beta=0.5, temperature=1.5).sum().backward()
    assert teacher.grad is None and bool((student.grad != 0).any())
