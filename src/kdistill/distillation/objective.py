"""The objective: batch -> named losses. Pure; knows the model's output, no trainer and no file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdistill.distillation.alignment import info_nce
from kdistill.distillation.config import CounterfactualConfig, DivergenceConfig, Term
from kdistill.distillation.consistency import consistency_loss, implied_logits
from kdistill.distillation.counterfactual import counterfactual_loss, evidence, without
from kdistill.distillation.divergences import divergence, with_residual
from kdistill.distillation.on_policy import PrivilegedTeacher, on_policy_loss
from kdistill.distillation.regions import outside_loss
from kdistill.student.conclusions import Conclusions
from kdistill.student.language import IGNORE_INDEX
from kdistill.student.outputs import KDistillOutput, SecondLook
from kdistill.student.queries import ObservationOutput
from kdistill.student.sampling import Sampling

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Objective:
    """Which terms are on, with what weight, and the fixed tables they read.

    Attributes:
        weights: Term -> weight; only active terms.
        divergence: Settings of the token term.
        semantic_temperature: Temperature of the semantic term.
        bank: Statement embeddings [M, D] for the semantic term.
        omission_rate: Share of present findings that reports do not mention, for the label term.
        counterfactual: Settings of the counterfactual term.
        teacher: Scores the student's own texts in steps that draw them.
        sampling_temperature: Temperature at which the student writes those.
    """

    weights: Mapping[Term, float]
    divergence: DivergenceConfig
    semantic_temperature: float
    bank: Tensor | None
    omission_rate: float = 0.0
    counterfactual: CounterfactualConfig | None = None
    teacher: PrivilegedTeacher | None = None
    sampling_temperature: float = 1.0

    @property
    def observes(self) -> bool:
        """Whether a term reads the observation queries."""
        return bool({"label", "side", "semantic", "where", "consistency"} & set(self.weights))

    def counts(self, batch: Batch) -> dict[Term, int]:
        """What each active term is averaged over, in this batch: tokens, labels or stated observations."""
        return {term: _count(term, batch) for term in self.weights}

    def losses(self, model: nn.Module, batch: Batch, counts: Mapping[Term, int]) -> dict[Term, Tensor]:
        """Each active term, unweighted.

        Args:
            model: KDistillStudent, or a wrapper that forwards to it.
            batch: See `collate.Collator`, with what `draws.StepDraws` adds.
            counts: Sums of `counts` over the whole accumulated batch: each term is a sum over this micro-batch divided
                by the count of all, so the cut of a batch changes nothing.

        Returns:
            Term -> scalar; a term that nothing in the accumulated batch feeds is left out.
        """
        texts = [text for slot in self._slots() for text in batch[slot]]
        if "consistency" in self.weights and "consistency" in batch:
            texts.append(batch["consistency"]["text"])
        output: KDistillOutput = model(
            batch["pixel_values"],
            texts=texts,
            observe=self.observes,
            stated=Conclusions.stated(batch["label_targets"], batch["side_targets"]),
            sampling=self._sampling(batch),
            second_look=self._second_look(batch),
        )
        losses = self.sums(output, batch)
        return {term: value / counts[term] for term, value in losses.items() if counts[term]}

    def sums(self, output: KDistillOutput, batch: Batch) -> dict[Term, Tensor]:
        """Each active term of one micro-batch, summed over what it is averaged over, from the model's output."""
        losses = self._text_losses(output, batch)
        for term in ("label", "side", "semantic", "where", "counterfactual"):
            if term in self.weights and _count(term, batch):
                losses[term] = self._observation_loss(term, output, batch)
        return losses

    def _sampling(self, batch: Batch) -> Sampling | None:
        if "token" not in self.weights or "on_policy" not in batch:
            return None
        drawn = batch["on_policy"]
        return Sampling(drawn["image_index"], drawn["uniforms"], self.sampling_temperature)

    def _second_look(self, batch: Batch) -> SecondLook | None:
        if "counterfactual" not in self.weights or "counterfactual" not in batch:
            return None
        settings = self.counterfactual
        assert settings is not None
        image, observation = batch["counterfactual"].unbind(1)

        def change(pixel_values: Tensor, before: ObservationOutput) -> Tensor:
            return without(pixel_values, evidence(before, observation, settings))

        return SecondLook(image, change)

    def total(self, losses: Mapping[Term, Tensor]) -> Tensor:
        """Weighted sum.

        Raises:
            ValueError: There is no term at all: nothing in the batch can be learned from.
        """
        if not losses:
            raise ValueError("no active term has anything to learn from in this batch")
        return torch.stack([self.weights[term] * value for term, value in losses.items()]).sum()

    def _slots(self) -> list[str]:
        """The texts that an active term reads; others are not even decoded."""
        report, rationale = "report" in self.weights, bool({"rationale", "token"} & set(self.weights))
        active = {"report": report, "rationale": rationale, "joined": report or rationale}
        return [slot for slot, read in active.items() if read]

    def _text_losses(self, output: KDistillOutput, batch: Batch) -> dict[Term, Tensor]:
        assert output.text_logits is not None
        logits = iter(output.text_logits)
        losses: dict[Term, list[Tensor]] = {"report": [], "rationale": [], "token": []}
        for kind in self._slots():
            for text in batch[kind]:
                with_teacher = "token" in self.weights and "topk_ids" in text and "on_policy" not in batch
                cross_entropy, kept = token_losses(next(logits), text, with_teacher=with_teacher)
                if kind != "rationale":
                    losses["report"].append(cross_entropy[~text["is_rationale"]] if kind == "joined" else cross_entropy)
                if kind != "report":
                    losses["rationale"].append(
                        cross_entropy[text["is_rationale"]] if kind == "joined" else cross_entropy
                    )
                if kept is not None:
                    losses["token"].append(self._token_loss(kept, text))
        if "consistency" in self.weights and "consistency" in batch:
            losses["consistency"] = [self._consistency_loss(next(logits), output, batch["consistency"])]
        if output.written is not None:
            losses["token"] = [self._on_policy_loss(next(logits), output.written["next_tokens"], batch["on_policy"])]
        sums = {term: [part.sum() for part in parts] for term, parts in losses.items() if term in self.weights}
        return {term: torch.stack(parts).sum() for term, parts in sums.items() if parts}

    def _consistency_loss(self, logits: Tensor, output: KDistillOutput, drawn: Batch) -> Tensor:
        assert output.logits is not None
        image, observation = drawn["index"].unbind(1)
        return consistency_loss(output.logits[image, observation], implied_logits(logits, drawn))

    def _on_policy_loss(self, logits: Tensor, next_tokens: Tensor, drawn: Batch) -> Tensor:
        assert self.teacher is not None
        teacher_logits = self.teacher.logits(drawn["studies"].tolist(), next_tokens)
        return on_policy_loss(teacher_logits, logits, next_tokens, self.divergence)

    def _token_loss(self, kept: Tensor, text: Batch) -> Tensor:
        settings = self.divergence
        return divergence(
            text["topk_log_probs"],
            with_residual(kept),
            kind=settings.kind,
            beta=settings.beta,
            temperature=settings.temperature,
        )

    def _observation_loss(self, term: Term, output: KDistillOutput, batch: Batch) -> Tensor:
        match term:
            case "label":
                assert output.logits is not None
                blanks = batch["label_blanks"] if self.omission_rate else None
                return label_loss(output.logits, batch["label_targets"], blanks, self.omission_rate)
            case "side":
                assert output.side_logits is not None
                return side_loss(output.side_logits, batch["side_targets"])
            case "semantic":
                assert output.semantic_embeddings is not None and self.bank is not None
                image, observation = batch["statement_index"].unbind(1)
                queries = output.semantic_embeddings[image, observation]
                bank = self.bank.to(queries.device)
                return info_nce(queries, bank, batch["statement_rows"], self.semantic_temperature).sum()
            case "where":
                assert output.log_attention is not None
                image, observation = batch["region_index"].unbind(1)
                return outside_loss(output.log_attention[image, observation], batch["region_masks"]).sum()
            case "counterfactual":
                assert output.before is not None and output.after is not None and self.counterfactual is not None
                observation = batch["counterfactual"][:, 1]
                return counterfactual_loss(output.before, output.after, observation, self.counterfactual).sum()
        raise ValueError(f"{term} is no term of the observations")


def token_losses(logits: Tensor, text: Batch, *, with_teacher: bool = False) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of each target token, and the log-probabilities of the teacher's kept tokens.

    One gather serves both: its backward pass fills a [n, V] array, which on a CPU costs as much as the softmax.

    Args:
        logits: [n, V] at the target positions, in row-major order of `next_tokens`.
        text: A TextBatch, with `topk_ids` [m, K] if `with_teacher`: for all targets, or for those of `is_taught`.
        with_teacher: Return the second value.

    Returns:
        [n] in nats, and [m, K] or None.
    """
    targets = text["next_tokens"]
    targets = targets[targets != IGNORE_INDEX].unsqueeze(1)
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    if not with_teacher:
        return -log_probs.gather(1, targets)[:, 0], None
    ids = text["topk_ids"].long()
    taught = text["is_taught"] if "is_taught" in text else torch.ones(len(targets), dtype=torch.bool, device=ids.device)
    index = targets.repeat(1, 1 + ids.shape[1])
    index[taught, 1:] = ids
    chosen = log_probs.gather(1, index)
    return -chosen[:, 0], chosen[taught, 1:]


def label_loss(logits: Tensor, targets: Tensor, blanks: Tensor | None = None, omission_rate: float = 0.0) -> Tensor:
    """Summed binary cross-entropy over the known labels (Irvin et al. 2019, arXiv:1901.07031).

    A blank is no denial: where reports leave out a share r of what is there, an observation is not mentioned with
    probability 1 - (1 - r) s(z), and the loss of a blank is

        -log(1 - (1 - r) s(z)) = softplus(z) - softplus(z + log r)

    so that s(z) stays the probability of presence (forward correction of label noise: Patrini et al. 2017,
    arXiv:1609.03683, theorem 2). With r = 0 it is the plain loss. Mentioned findings keep theirs: r moves it by a
    constant.

    Args:
        logits: [B, L].
        targets: [B, L], from 0 to 1, or NaN where the label is not known; there not even a NaN logit matters.
        blanks: bool [B, L], negatives that a report only does not mention.
        omission_rate: r.
    """
    known = ~targets.isnan()
    loss = functional.binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum")
    if blanks is None or omission_rate == 0:
        return loss
    return loss - functional.softplus(logits[blanks & known] + math.log(omission_rate)).sum()


def side_loss(side_logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy over stated sides; `targets` [B, L]: 0 left, 1 right, 2 bilateral, -1 not stated."""
    stated = targets >= 0
    return functional.cross_entropy(side_logits[stated], targets[stated], reduction="sum")


def _count(term: Term, batch: Batch) -> int:
    match term:
        case "report" | "rationale":
            alone = sum(int((text["next_tokens"] != IGNORE_INDEX).sum()) for text in batch[term])
            return alone + sum(int((text["is_rationale"] == (term == "rationale")).sum()) for text in batch["joined"])
        case "token" if "on_policy" in batch:
            return len(batch["on_policy"]["image_index"])  # texts, not tokens: see `on_policy.on_policy_loss`
        case "token":
            texts = [*batch["rationale"], *batch["joined"]]
            return sum(len(text["topk_ids"]) for text in texts if "topk_ids" in text)
        case "label":
            return int((~batch["label_targets"].isnan()).sum())
        case "side":
            return int((batch["side_targets"] >= 0).sum())
        case "semantic":
            return len(batch["statement_rows"])
        case "where":
            return len(batch["region_rows"])
        case "consistency":
            return len(batch["consistency"]["index"]) if "consistency" in batch else 0
        case "counterfactual":
            return len(batch["counterfactual"]) if "counterfactual" in batch else 0
