"""The 14 observation queries: where each observation looks, what it gathers there, and what it concludes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdistill.student.vision import position_encoding

NUM_SIDES = 3


@dataclass
class ObservationOutput:
    """What the queries say about a batch of images.

    Attributes:
        embeddings: [B, L, D].
        logits: [B, L], probability = sigmoid.
        side_logits: [B, L, 3] for left, right, bilateral.
        log_attention: [B, L, P], logarithm of the evidence maps (each sums to one over the patches).
    """

    embeddings: Tensor
    logits: Tensor
    side_logits: Tensor
    log_attention: Tensor

    @property
    def attention(self) -> Tensor:
        """The evidence maps [B, L, P]."""
        return self.log_attention.exp()


class ObservationQueries(nn.Module):
    """One query per observation cross-attends to the patches with a single head: the evidence map is the attention.

        a = softmax(Q K^T / sqrt(D)),  e = MLP(norm(a V + b)),  z_l = w_l . e_l + c_l

    Single-headed, because with several heads no one map says where an embedding came from.
    """

    def __init__(self, channels: int, hidden_size: int, num_observations: int, dropout: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.patch_projection = nn.Linear(channels, hidden_size)
        self.position_projection = nn.Linear(hidden_size // 4 * 4, hidden_size, bias=False)
        self.patch_norm = nn.LayerNorm(hidden_size)
        self.queries = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.identity = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.pooled_norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, hidden_size)
        )
        self.out_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.classifier_bias = nn.Parameter(torch.zeros(num_observations))
        self.side = nn.Linear(hidden_size, NUM_SIDES)

    def patches(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> patch tokens with position [B, P, D] (each still of a local receptive field)."""
        height, width = features.shape[-2:]
        tokens = self.patch_projection(features.flatten(2).transpose(1, 2))
        code = position_encoding(height, width, self.hidden_size, tokens)
        return self.patch_norm(tokens + self.position_projection(code))

    def forward(self, patches: Tensor) -> ObservationOutput:
        """[B, P, D] -> ObservationOutput."""
        # Both projections are linear, so they act on the 14 queries and pools, not on every patch: same values.
        keyed = self.queries @ self.key.weight * self.hidden_size**-0.5
        log_attention = torch.log_softmax((keyed @ patches.transpose(1, 2)).float(), dim=-1)
        pooled = self.value(log_attention.exp().to(patches.dtype) @ patches)
        pooled = self.pooled_norm(pooled + self.identity)
        embeddings = self.dropout(self.out_norm(pooled + self.mlp(pooled)))
        logits = (embeddings.float() * self.classifier).sum(-1) + self.classifier_bias
        return ObservationOutput(embeddings, logits, self.side(embeddings).float(), log_attention)
