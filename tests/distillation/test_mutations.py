"""Each known slip is put into the code, and the check that is named for it must fail: a blind check fails the suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdistill.distillation import (
    alignment,
    collate,
    consistency,
    counterfactual,
    divergences,
    draws,
    inpainting,
    labels,
    objective,
    on_policy,
    regions,
)
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.objective import Objective
from kdistill.student.config import StudentConfig
from kdistill.teacher import targets as teacher_targets

from . import checks
from .parts import EVERYTHING, make_parts
from .toy import ToyDirs


class Mutation(NamedTuple):
    """A slip: what replaces an attribute of a module (made from the original), and the check that must see it."""

    slip: str
    owner: Any
    attribute: str
    mutate: Callable[[Any], Any]
    check: Callable[..., None]


def _next_but_one(pad: Any) -> Any:
    def shifted(sequences: list[list[int]]) -> dict[str, Tensor]:
        text = pad(sequences)
        return {**text, "next_tokens": functional.pad(text["next_tokens"][:, 1:], (0, 1), value=-100)}

    return shifted


def _unknown_is_negative(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits.nan_to_num(), targets.nan_to_num(), reduction="sum")


def _unstated_is_left(side_logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(side_logits.flatten(0, 1), targets.clamp_min(0).flatten(), reduction="sum")


def _trained_head(head: Tensor, text: Tensor) -> Tensor:
    p = torch.sigmoid(head)
    first = p * (functional.logsigmoid(head) - functional.logsigmoid(text))
    return first + (1 - p) * (functional.logsigmoid(-head) - functional.logsigmoid(-text))


def _without_flips_of(attribute: str) -> Callable[[Any], Any]:
    """Leaves out the hard negatives in which this attribute is changed; those of another observation stay otherwise."""

    def kept(fact: Any, other: Any) -> bool:
        if attribute == "observation" or other.observation == fact.observation:
            return bool(getattr(other, attribute) == getattr(fact, attribute) or other.state != fact.state)
        return True

    return lambda flips: lambda fact: [other for other in flips(fact) if kept(fact, other)]


def _bank_without(attribute: str, value: str) -> Callable[[Any], Any]:
    return lambda facts: lambda: [fact for fact in facts() if getattr(fact, attribute) != value]


def _one_stream(_: Any) -> Any:
    shared = np.random.default_rng(0)
    return lambda what, seed, step, study=0: shared


FLIPPED = {"positive": "negative", "negative": "positive", "masked": "masked"}
MUTATIONS = [
    Mutation("KL(q, p) for KL(p, q)", divergences, "kl", lambda kl: lambda p, q: kl(q, p), checks.check_order_of_kl),
    Mutation(
        "beta given to the student",
        divergences,
        "generalized_jsd",
        lambda jsd: lambda p, q, beta: jsd(p, q, 1 - beta),
        checks.check_share_of_jsd,
    ),
    Mutation(
        "tau squared dropped",
        divergences,
        "divergence",
        lambda d: lambda *args, temperature, **rest: d(*args, temperature=temperature, **rest) / temperature**2,
        checks.check_square_of_temperature,
    ),
    Mutation("temper left out", divergences, "temper", lambda _: lambda p, tau: p, checks.check_square_of_temperature),
    Mutation(
        "teacher and student swapped on the student's texts",
        on_policy,
        "divergence",
        lambda d: lambda p, q, **rest: d(q, p, **rest),
        checks.check_on_policy_loss,
    ),
    Mutation("targets shifted by one", collate, "pad", _next_but_one, checks.check_targets_follow_their_inputs),
    Mutation(
        "uncertain policy flipped",
        labels,
        "as_binary",
        lambda f: lambda state, policy: f(state, FLIPPED[policy]),
        checks.check_uncertain_policy,
    ),
    Mutation(
        "denials left out of the bank",
        teacher_targets,
        "all_facts",
        lambda f: lambda: [fact for fact in f() if fact.state != "absent"],
        checks.check_bank_holds_the_opposite,
    ),
    Mutation(
        "polarity flips left out of the hard negatives",
        teacher_targets,
        "flips",
        lambda f: lambda fact: [other for other in f(fact) if other.state == fact.state],
        checks.check_bank_holds_the_opposite,
    ),
    *(
        Mutation(
            f"{attribute} flips left out of the hard negatives",
            teacher_targets,
            "flips",
            _without_flips_of(attribute),
            checks.check_bank_holds_the_opposite,
        )
        for attribute in ("side", "zone", "severity", "observation")
    ),
    *(
        Mutation(
            f"{value} left out of the bank",
            teacher_targets,
            "all_facts",
            _bank_without(attribute, value),
            checks.check_bank_holds_the_opposite,
        )
        for attribute, value in (("side", "bilateral"), ("observation", "Edema"))
    ),
    Mutation(
        "positive statement off by one",
        alignment,
        "info_nce",
        lambda f: lambda q, bank, row, t: f(q, bank, (row + 1) % len(bank), t),
        checks.check_semantic_pulls_to_its_own_statement,
    ),
    Mutation(
        "region mask transposed",
        regions,
        "rasterise",
        lambda f: lambda *args, **rest: f(*args, **rest).T,
        checks.check_region_lies_where_the_side_is,
    ),
    Mutation(
        "attention outside counted as inside",
        regions,
        "outside_loss",
        lambda f: lambda attention, masks: f(attention, 1 - masks),
        checks.check_attention_inside_the_region,
    ),
    Mutation(
        "label mask dropped",
        objective,
        "label_loss",
        lambda _: _unknown_is_negative,
        checks.check_unknown_labels_are_masked,
    ),
    Mutation(
        "side mask dropped", objective, "side_loss", lambda _: _unstated_is_left, checks.check_unstated_sides_are_masked
    ),
    Mutation(
        "gradient to the head",
        consistency,
        "consistency_loss",
        lambda _: _trained_head,
        checks.check_consistency_by_hand,
    ),
    Mutation(
        "KL(text, head)",
        consistency,
        "consistency_loss",
        lambda f: lambda head, text: f(text, head),
        checks.check_consistency_by_hand,
    ),
    Mutation("nothing removed", inpainting, "inpaint", lambda _: lambda x, m: x, checks.check_removed_pixels_are_gone),
    Mutation(
        "the removed pixels colour their own fill",
        inpainting,
        "_fill",
        lambda f: lambda images, certainty: f(images, torch.ones_like(certainty)),
        checks.check_removed_pixels_are_gone,
    ),
    Mutation(
        "the least attended patches removed",
        counterfactual,
        "top_mass",
        lambda f: lambda attention, mass, area: f(1 - attention, mass, area),
        checks.check_evidence_is_the_top_mass,
    ),
    Mutation(
        "every observation has to stay",
        counterfactual,
        "evidence",
        lambda f: lambda *args: torch.zeros_like(f(*args)),
        checks.check_counterfactual_by_hand,
    ),
    Mutation("draws from one stream", draws, "generator", _one_stream, checks.check_draws_are_the_studys_own),
]
WITH_A_MODEL = [
    Mutation(
        "each micro-batch divided by its own counts",
        Objective,
        "losses",
        lambda f: lambda self, model, batch, counts: f(self, model, batch, self.counts(batch)),
        lambda parts: checks.check_cut_changes_nothing(parts, checks.CUTS["1+7"]),
    ),
    Mutation(
        "the teacher does not read the report",
        on_policy.PrivilegedTeacher,
        "logits",
        lambda f: lambda self, studies, tokens: f(self, [(s + 1) % len(self.reports) for s in studies], tokens),
        checks.check_own_text_reads_the_report,
    ),
    Mutation(
        "only the first side of an affirmation counts",
        torch.Tensor,
        "logsumexp",
        lambda f: lambda self, dim: self.select(dim, 0),
        checks.check_likelihood_of_statements,
    ),
]


def caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    mutation.check(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(mutation.owner, mutation.attribute, mutation.mutate(getattr(mutation.owner, mutation.attribute)))
        with pytest.raises(AssertionError):
            mutation.check(*arguments)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.slip)
def test_a_slip_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    caught(mutation, monkeypatch)


@pytest.mark.parametrize("mutation", WITH_A_MODEL, ids=lambda mutation: mutation.slip)
def test_a_slip_in_the_whole_is_caught(
    world: ToyDirs,
    tiny: StudentConfig,
    dense: DistillationConfig,
    mutation: Mutation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caught(mutation, monkeypatch, make_parts(world, tiny, dense, EVERYTHING))


def test_every_check_has_a_mutation() -> None:
    used = {m.check for m in [*MUTATIONS, *WITH_A_MODEL]} | {checks.check_cut_changes_nothing}
    assert used >= {value for name, value in vars(checks).items() if name.startswith("check_")}
