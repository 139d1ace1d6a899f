"""Figures on the validation split during training, labelled like the training data (no truth)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase

from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import ArmConfig, DistillationConfig, DivergenceConfig, Term
from kdistill.distillation.objective import Objective
from kdistill.distillation.targets import build_targets
from kdistill.student.modeling import KDistillStudent
from kdistill.studies.store import load_images, load_studies


@dataclass(frozen=True)
class Validation:
    """Computes report loss, label loss and the label head's micro-AUC; callable with the model.

    The reports are as they were written, in arms with canonical impressions too, and a decoder that is told conclusions
    is told the validation labels: the report loss follows one training and does not compare arms.
    """

    collator: Collator
    objective: Objective
    batch_size: int

    @classmethod
    def load(
        cls,
        studies_dir: Path,
        labels_dir: Path,
        rationales_dir: Path,
        arm: ArmConfig,
        config: DistillationConfig,
        tokenizer: PreTrainedTokenizerBase,
        model: KDistillStudent,
    ) -> Validation:
        """Gather the first `num_validation_studies`; rationales exist for the training split alone."""
        # A report that is written after its rationale has no loss of its own here: validation has no rationales.
        watched = ("label",) if model.config.text_order == "rationale_first" else ("report", "label")
        terms: tuple[Term, ...] = tuple(term for term in arm.terms if term in watched)
        reduced = arm.model_copy(update={"rationale_source": "none", "terms": terms})
        targets = build_targets(
            load_studies(studies_dir, "validate")[: config.num_validation_studies],
            reduced,
            config.model_copy(update={"soft_labels": False}),
            tokenizer,
            labels_dir=labels_dir,
            rationales_dir=rationales_dir,
            seed=0,
            count=lambda name, n: None,
        )
        objective = Objective(dict.fromkeys(terms, 1.0), DivergenceConfig(), 1.0, None)
        images = load_images(studies_dir)
        collator = Collator(images, targets, model.config, config.texts_per_chunk, arm.blank_image)
        return cls(collator, objective, config.prediction_batch)

    @torch.no_grad()
    def __call__(self, model: KDistillStudent) -> dict[str, float]:
        """Mean losses over the split, and the micro-AUC where both classes occur."""
        model.eval()
        sums: dict[Term, float] = {}
        counts: dict[Term, int] = {}
        scores, labels = [], []
        number = len(self.collator.targets.studies)
        for start in range(0, number, self.batch_size):
            visits = [Visit(study) for study in range(start, min(start + self.batch_size, number))]
            batch = move(self.collator(visits), model.device)
            found = self.objective.counts(batch)
            losses = self.objective.losses(model, batch, found)
            for term, value in losses.items():
                sums[term] = sums.get(term, 0.0) + float(value) * found[term]
                counts[term] = counts.get(term, 0) + found[term]
            if "label" in self.objective.weights:
                scores.append(self._scores(model, batch["pixel_values"]))
                labels.append(batch["label_targets"].cpu().numpy())
        figures = {f"validation_{term}_loss": sums[term] / counts[term] for term in sums}
        return {**figures, **_micro_auc(scores, labels)}

    def _scores(self, model: KDistillStudent, values: torch.Tensor) -> np.ndarray:
        observations = model.encode(values).observations
        assert observations is not None
        return observations.logits.float().cpu().numpy()


def _micro_auc(scores: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
    if not scores:
        return {}
    truth, values = np.concatenate(labels).ravel(), np.concatenate(scores).ravel()
    known = ~np.isnan(truth)
    if len(np.unique(truth[known])) < 2:
        return {}
    return {"validation_micro_auc": float(roc_auc_score(truth[known], values[known]))}


def move(batch: Any, device: torch.device) -> Any:
    """Put every tensor of a nested batch on a device."""
    match batch:
        case torch.Tensor():
            return batch.to(device)
        case dict():
            return {name: move(part, device) for name, part in batch.items()}
        case list():
            return [move(part, device) for part in batch]
    return batch
