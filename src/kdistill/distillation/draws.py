"""What a training step draws at random: a function of seed, step and study alone.

So neither the cut of a batch nor an interruption changes it, and no term moves another term's random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdistill.distillation.config import ConsistencyConfig, CounterfactualConfig, OnPolicyConfig
from kdistill.distillation.consistency import statement_batch
from kdistill.distillation.streams import Draw, generator
from kdistill.observations import FINDINGS, INDEX


@dataclass(frozen=True)
class StepDraws:
    """Adds to a batch what its step draws; a part that is None is never drawn and costs nothing.

    Attributes:
        seed: Seed of the run.
        on_policy: Adds `on_policy` in its share of the steps: image_index and studies int64 [N], uniforms float64
            [N, max_new_tokens] (the sampled token is the one whose cumulative probability passes the uniform).
        consistency: Adds `consistency` (see `consistency.statement_batch`).
        counterfactual: Adds `counterfactual`, int64 [E, 2]: image, and one of its observations that is present.
        statements: The token sequences of `consistency.statement_sequences`.
    """

    seed: int
    on_policy: OnPolicyConfig | None = None
    consistency: ConsistencyConfig | None = None
    counterfactual: CounterfactualConfig | None = None
    statements: Sequence[Sequence[list[int]]] = ()

    def __call__(self, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
        """The batch with what this step (optimiser steps done before it) draws for its studies."""
        drawn = dict(batch)
        studies = batch["study_numbers"].tolist()
        if self.on_policy is not None and generator(Draw.ON_POLICY, self.seed, step).random() < self.on_policy.share:
            self._add_sampling(drawn, studies, step, self.on_policy.max_new_tokens)
        if self.consistency is not None:
            pairs = self._asked(studies, step, self.consistency.share)
            if pairs:
                drawn["consistency"] = statement_batch(self.statements, pairs)
        if self.counterfactual is not None:
            removed = self._removed(studies, step, self.counterfactual.share, batch["label_targets"])
            if removed:
                drawn["counterfactual"] = torch.tensor(removed)
        return drawn

    def _add_sampling(self, drawn: dict[str, Any], studies: Sequence[int], step: int, num_tokens: int) -> None:
        """Every study with a rationale writes its own."""
        images = sorted(
            image for text in (*drawn["rationale"], *drawn["joined"]) for image in text["image_index"].tolist()
        )
        if images:
            own = [generator(Draw.TOKENS, self.seed, step, studies[image]).random(num_tokens) for image in images]
            drawn["on_policy"] = {
                "image_index": torch.tensor(images),
                "studies": torch.tensor([studies[image] for image in images]),
                "uniforms": torch.from_numpy(np.stack(own)),
            }

    def _asked(self, studies: Sequence[int], step: int, share: float) -> list[tuple[int, int]]:
        pairs = []
        for image, study in enumerate(studies):
            random = generator(Draw.CONSISTENCY, self.seed, step, study)
            if random.random() < share:
                pairs.append((image, INDEX[FINDINGS[random.integers(len(FINDINGS))]]))
        return pairs

    def _removed(self, studies: Sequence[int], step: int, share: float, labels: Tensor) -> list[tuple[int, int]]:
        pairs = []
        for image, study in enumerate(studies):
            random = generator(Draw.COUNTERFACTUAL, self.seed, step, study)
            present = [INDEX[name] for name in FINDINGS if labels[image, INDEX[name]] > 0]
            if present and random.random() < share:
                pairs.append((image, present[random.integers(len(present))]))
        return pairs
