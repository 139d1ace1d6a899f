"""What is concluded of the 14 observations, and how the decoder is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdistill.observations import OBSERVATIONS
from kdistill.sites import SITES
from kdistill.student.config import ConclusionKind
from kdistill.student.queries import NUM_SIDES, ObservationOutput

#: Thresholds of 0 and 1 have no log-odds: told as if this far from them, beyond what float32 logits say of a film.
LEAST_THRESHOLD: Final = 1e-12
_HAS_SIDE: Final = tuple(SITES[name].lateralised for name in OBSERVATIONS)


@dataclass
class Conclusions:
    """What is said of each observation, in B images.

    Attributes:
        states: float [B, L], from -1 (absent) over 0 (not known) to 1 (present).
        sides: int64 [B, L], 0 left, 1 right, 2 bilateral, -1 none.
    """

    states: Tensor
    sides: Tensor

    @classmethod
    def stated(cls, labels: Tensor, sides: Tensor) -> Conclusions:
        """From training labels [B, L] (0, or how surely present, NaN where not known) and stated sides [B, L]."""
        return cls(torch.where(labels.isnan(), 0.0, 2.0 * (labels > 0) - 1.0), sides)


class ObservationPrefix(nn.Linear):
    """What the decoder reads of the observations: one token each, the embedding and what was concluded from it.

        t_l = W e_l + b + c_l s_l + r_side(l)       s_l, r learned; c_l the state in [-1, 1], r only for a stated side

    `none`: c = 0. `soft`: c_l = tanh(z_l / 2) = 2 sigmoid(z_l) - 1, no sides. `decided`: in training what the arm's
    labels state; in prediction 1 where the probability reaches the observation's threshold, else -1, and the head's
    side where it is present. So a text says what the label head concluded, and the embedding is left with what the
    conclusion does not say (zone, severity, sign). Without `tells_sides` r = 0. Findings before the report: RaDialog
    (arXiv:2311.18681) puts a classifier's into the prompt. No gradient goes back through conclusions: texts read them
    and do not bend them.
    """

    decision_logits: Tensor

    def __init__(
        self,
        width: int,
        language_width: int,
        num_observations: int,
        conclusions: ConclusionKind,
        *,
        tells_sides: bool = True,
    ) -> None:
        super().__init__(width, language_width)
        self.conclusions = conclusions
        told = conclusions != "none"
        self.states = nn.Parameter(torch.zeros(num_observations, language_width)) if told else None
        tells_sides = tells_sides and conclusions == "decided"
        self.sides = nn.Parameter(torch.zeros(NUM_SIDES, language_width)) if tells_sides else None
        if conclusions == "decided":
            self.register_buffer("decision_logits", torch.zeros(num_observations))

    @torch.no_grad()
    def start_from_names(self, names: Tensor) -> None:
        """Let each state point where the observation's name does in the decoder, at the scale of a random start.

        A decoder that can already copy a word then names what it is told from the first step; a random direction has
        to be learned for each observation, and a rare one is told too seldom for that.

        Args:
            names: [L, language width], the decoder's embedding of each observation's name.
        """
        if self.states is not None:
            self.states.copy_(functional.normalize(names, dim=-1) * names.shape[-1] ** 0.5)

    def decide(self, thresholds: Sequence[float]) -> None:
        """Set the probabilities from which an observation is told to be present (saved with the weights)."""
        self.decision_logits.copy_(torch.logit(torch.tensor(thresholds, dtype=torch.float64), eps=LEAST_THRESHOLD))

    def tokens(self, observed: ObservationOutput, embeddings: Tensor, stated: Conclusions | None) -> Tensor:
        """[B, L, D] -> [B, L, language width].

        Args:
            observed: What the queries say; its logits and sides are concluded from.
            embeddings: Its embeddings, with or without the gradient of the texts.
            stated: What training data state; concluded from `observed` where None.
        """
        tokens = self(embeddings)
        if self.states is None:
            return tokens
        told = self._soft(observed) if self.conclusions == "soft" else (stated or self._decided(observed))
        tokens = tokens + (told.states.to(tokens.dtype)[..., None] * self.states).to(tokens.dtype)
        if self.sides is None:
            return tokens
        side = functional.one_hot(told.sides + 1, NUM_SIDES + 1)[..., 1:]
        return tokens + (side.to(tokens.dtype) @ self.sides.to(tokens.dtype))

    def _soft(self, observed: ObservationOutput) -> Conclusions:
        states = torch.tanh(observed.logits.detach() / 2)
        return Conclusions(states, torch.full_like(states, -1, dtype=torch.long))

    def _decided(self, observed: ObservationOutput) -> Conclusions:
        present = observed.logits.detach() >= self.decision_logits
        has_side = torch.tensor(_HAS_SIDE, device=present.device)
        side_logits = observed.side_logits
        read = -1 if side_logits is None else side_logits.detach().argmax(-1)
        sides = torch.where(present & has_side, read, -1)
        return Conclusions(2.0 * present - 1.0, sides)
