"""Queries that begin at a text's embedding: where they stand, what they keep, what else changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdistill.student.queries import project

from .small import small_student


def embeddings(width: int) -> torch.Tensor:
    """Fourteen texts, of no particular length."""
    return 3 * torch.randn(14, width, generator=torch.Generator().manual_seed(4))


def cosines(rows: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(rows, dim=-1)
    return unit @ unit.T


def test_angles_survive_a_wider_projection_exactly_and_a_narrower_one_nearly() -> None:
    text = embeddings(12)
    torch.testing.assert_close(cosines(project(text, 16)), cosines(text), rtol=0, atol=1e-5)  # 3e-7 seen
    wide = embeddings(256)
    off = ~torch.eye(14, dtype=torch.bool)
    error = (cosines(project(wide, 128)) - cosines(wide))[off].abs()
    assert error.max() < 0.35 and error.mean() < 0.1  # 1/sqrt(128) = 0.09 expected; another text misses by 0.3


def test_the_projection_is_fixed() -> None:
    torch.manual_seed(1)
    first = project(embeddings(12), 16)
    torch.manual_seed(2)
    assert torch.equal(project(embeddings(12), 16), first)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(14))


@pytest.mark.parametrize("width", [12, 40])
def test_only_the_queries_begin_elsewhere_and_at_the_length_of_random_ones(width: int) -> None:
    random, begun = small_student(), small_student()
    begun.queries.start_from(embeddings(width))
    own = dict(begun.named_parameters())
    changed = {name for name, value in random.named_parameters() if not torch.equal(value, own[name])}
    assert changed == {"queries.queries", "queries.evidence"}
    torch.testing.assert_close(begun.queries.queries.norm(dim=-1), torch.full((14,), 4.0))  # sqrt(16)
    torch.testing.assert_close(begun.queries.evidence.norm(dim=-1), torch.ones(14))
    many = torch.cat([small_student(seed).queries.queries.detach() for seed in range(20)])
    assert float(many.norm(dim=-1).mean()) == pytest.approx(4.0, rel=0.05)  # 3.95 expected of 16 normal numbers
