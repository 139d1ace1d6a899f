"""What a term does not read may hold NaN: neither its value nor a gradient changes, for every term."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdistill.distillation.config import DistillationConfig
from kdistill.student.conclusions import Conclusions
from kdistill.student.config import StudentConfig
from kdistill.student.outputs import KDistillOutput

from .checks import alone
from .parts import EVERYTHING, Parts, make_parts
from .toy import ToyDirs

NAN = float("nan")
TEXTS = ("report", "rationale", "token", "consistency", "on_policy")
FIELDS = ("logits", "side_logits", "log_attention", "semantic_embeddings")


@pytest.fixture
def parts(world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig) -> Parts:
    return make_parts(world, tiny, dense, EVERYTHING)


def unread(term: str, batch: dict[str, Any], output: KDistillOutput) -> dict[str, Tensor]:
    """Field of the output -> bool mask of what the term must not read."""
    pairs = torch.ones(output.logits.shape, dtype=torch.bool)
    match term:
        case "label":
            return {"logits": batch["label_targets"].isnan()}
        case "side":
            return {"side_logits": batch["side_targets"] < 0}
        case "semantic":
            pairs[batch["statement_index"].unbind(1)] = False
            return {"semantic_embeddings": pairs}
        case "where":
            pairs[batch["region_index"].unbind(1)] = False
            return {"log_attention": pairs}
        case "consistency":
            pairs[batch["consistency"]["index"].unbind(1)] = False
            return {"logits": pairs}
    raise ValueError(term)


def decoded(parts: Parts, batch: dict[str, Any], term: str) -> list[Any]:
    """The texts that a term alone makes the model decode, in the objective's order."""
    texts = [text for slot in parts.objective._slots() for text in batch[slot]]
    return [*texts, batch["consistency"]["text"]] if term == "consistency" else texts


def leaves(output: KDistillOutput, poison: dict[str, Tensor]) -> KDistillOutput:
    """The output cut from its graph, each field a leaf, NaN where `poison` says."""
    values = {name: getattr(output, name).detach().clone() for name in FIELDS}
    for name, mask in poison.items():
        assert bool(mask.any()), "nothing to poison: the test would be empty"
        values[name][mask] = NAN
    cut = KDistillOutput(**{name: value.requires_grad_() for name, value in values.items()})
    cut.text_logits = tuple(logits.detach() for logits in output.text_logits)
    return cut


@pytest.mark.parametrize("term", ["label", "side", "semantic", "where", "consistency"])
def test_observations_that_are_not_stated_may_be_nan(parts: Parts, term: str) -> None:
    one, batch = alone(parts, term), parts.batch()
    batch["label_targets"][0, 3:6] = NAN
    texts = decoded(one, batch, term)
    output = parts.model(batch["pixel_values"], texts=texts)
    poison = unread(term, batch, output)
    clean = one.objective.sums(leaves(output, {}), batch)[term]
    poisoned = leaves(output, poison)
    value = one.objective.sums(poisoned, batch)[term]
    assert torch.equal(value.detach(), clean.detach())
    if term == "consistency":  # its gradient goes to the text alone
        assert not value.requires_grad
        return
    value.backward()
    for name, mask in poison.items():
        gradient = getattr(poisoned, name).grad
        assert bool(gradient.isfinite().all()) and bool((gradient[mask] == 0).all()) and bool((gradient != 0).any())


def test_observations_that_may_change_may_be_nan(parts: Parts) -> None:
    """Counterfactual: what looks into the removed evidence is not read, after or (but for its map) before."""
    one, batch = alone(parts, "counterfactual"), parts.batch()
    image, observation = batch["counterfactual"].unbind(1)
    output = parts.model(batch["pixel_values"], second_look=one.objective._second_look(batch))
    rows = torch.arange(len(image))
    maps = torch.full_like(output.before.log_attention, -30.0)
    maps[:, :, 0] = 0.0  # all of them look at patch 0, which goes,
    maps[:, 5], maps[rows, observation] = maps[:, 5].flip(-1), maps[:, 1]  # but for number 5
    read = torch.zeros(output.after.logits.shape, dtype=torch.bool)
    read[rows, observation] = read[:, 5] = True

    def value(poisoned: bool) -> tuple[Tensor, Tensor]:
        logits = [look.logits.detach().masked_fill(~read & poisoned, NAN) for look in (output.before, output.after)]
        logits[1].requires_grad_()
        before = replace(output.before, logits=logits[0], log_attention=maps)
        after = replace(output.after, logits=logits[1])
        loss = one.objective.sums(KDistillOutput(text_logits=(), before=before, after=after), _textless(batch))
        loss["counterfactual"].backward()
        return loss["counterfactual"].detach(), logits[1].grad

    clean, gradient = value(False)
    found, poisoned_gradient = value(True)
    assert torch.equal(found, clean) and torch.equal(gradient, poisoned_gradient)
    assert bool((gradient[~read] == 0).all()) and bool((gradient[read] != 0).any())


def _textless(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "report": [], "rationale": []}


class NanInPadding:
    """Forward hook of the decoder: hidden states at positions that predict nothing become NaN, call by call."""

    def __init__(self, keeps: Iterator[Tensor]) -> None:
        self.keeps = keeps
        self.num_poisoned = 0

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():  # sampling
            return output
        keep = next(self.keeps)
        hidden = output.last_hidden_state
        mask = torch.cat([torch.zeros(len(keep), hidden.shape[1] - keep.shape[1], dtype=torch.bool), keep], dim=1)
        self.num_poisoned += int((~mask).sum())
        output.last_hidden_state = torch.where(mask.unsqueeze(-1), hidden, NAN)
        return output


@pytest.mark.parametrize("term", TEXTS)
def test_padding_of_texts_may_be_nan(parts: Parts, term: str) -> None:
    """NaN in every hidden state of prefix and padding: values and all gradients are as without."""
    one, batch = alone(parts, "token" if term == "on_policy" else term), parts.batch()
    if term == "token":
        del batch["on_policy"]
    counts = one.objective.counts(batch)
    texts = decoded(one, batch, term)
    if term == "on_policy":
        stated = Conclusions.stated(batch["label_targets"], batch["side_targets"])
        looked = parts.model(batch["pixel_values"], sampling=one.objective._sampling(batch), stated=stated)
        sampled = looked.written
        texts.append(sampled)

    def run() -> tuple[Tensor, list[Tensor | None]]:
        parts.model.zero_grad(set_to_none=True)
        loss = one.objective.total(one.objective.losses(parts.model, batch, counts))
        loss.backward()
        return loss.detach(), [None if p.grad is None else p.grad.clone() for p in parts.model.parameters()]

    clean, expected = run()
    hook = NanInPadding(iter([text["next_tokens"] != -100 for text in texts]))
    handle = parts.model.language.base_model.register_forward_hook(hook)
    found, gradients = run()
    handle.remove()
    assert hook.num_poisoned > 0 and torch.equal(found, clean)
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient is None) == (other is None)
        assert gradient is None or torch.equal(gradient, other)
