"""The 14 observation queries: where each observation looks, what it gathers there, and what it concludes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

from kdistill.student.vision import position_encoding

NUM_SIDES = 3
#: r above: at the start the evidence leads and the query follows.
QUERY_SCALE = 0.3
#: An observation is present in one study of eight: a start at even odds would spend the first steps on that alone.
PRIOR_LOGIT = -2.0


class Mlp(nn.Module):
    """x + MLP(norm(x)), one position at a time: no patch sees another."""

    def __init__(self, width: int, *, normalise: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if normalise else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> the same shape."""
        return x + self.layers(self.norm(x))


#: Keeps the first maps broad, so that no patch is shut out before anything was learned.
KEY_GAIN = 0.3


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

        s_lp = u_l . x_p                                     evidence of patch p for observation l
        a_l  = softmax_p(r q_l . W_k x_p / sqrt(D) + g_l s_lp)
        e_l  = out_norm(h + MLP(h)),  h = pooled_norm(W_v sum_p a_lp x_p + b_l)
        z_l  = w_l . e_l + sum_p a_lp s_lp + c_l

    The evidence is at once what attention follows and what the logit adds up, so a patch that speaks for an observation
    gains attention from the first step (attention pooling for multiple instances: Ilse et al. 2018, arXiv:1802.04712).
    Without it attention starts flat over 256 patches and hardly moves within some hundred steps: on a development
    phantom the label head's macro-AUC on validation labels was 0.73 (batches of 32), with it 0.84, and 0.86 with
    `patch_mlp` as well (batches of 16; one seed each, 18,000 visits, 400 studies).
    Single-headed, because with several heads no one map says where an embedding came from.
    """

    def __init__(self, channels: int, hidden_size: int, num_observations: int, dropout: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.patch_projection = nn.Linear(channels, hidden_size)
        self.position_projection = nn.Linear(hidden_size // 4 * 4, hidden_size, bias=False)
        self.patch_norm = nn.LayerNorm(hidden_size)
        self.patch_mlp = Mlp(hidden_size)
        self.queries = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.evidence = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.evidence_gain = nn.Parameter(torch.ones(num_observations, 1))
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.identity = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.pooled_norm = nn.LayerNorm(hidden_size)
        self.mlp = Mlp(hidden_size, normalise=False)
        self.out_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Parameter(torch.zeros(num_observations, hidden_size))
        self.classifier_bias = nn.Parameter(torch.zeros(num_observations))
        self.side = nn.Linear(hidden_size, NUM_SIDES)

    def reset(self) -> None:
        """Draw the parameters that belong to no layer (see `KDistillStudent._init_weights`)."""
        init.normal_(self.queries)
        init.normal_(self.evidence, std=self.hidden_size**-0.5)
        init.ones_(self.evidence_gain)
        init.normal_(self.identity, std=0.5)
        init.normal_(self.classifier, std=0.02)
        init.constant_(self.classifier_bias, PRIOR_LOGIT)

    def patches(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> patch tokens with position [B, P, D] (each still of a local receptive field)."""
        height, width = features.shape[-2:]
        tokens = self.patch_projection(features.flatten(2).transpose(1, 2))
        code = position_encoding(height, width, self.hidden_size, tokens)
        return self.patch_mlp(self.patch_norm(tokens + self.position_projection(code)))

    def forward(self, patches: Tensor) -> ObservationOutput:
        """[B, P, D] -> ObservationOutput."""
        # All projections are linear, so they act on the 14 queries and pools, not on every patch: same values.
        keyed = self.queries @ self.key.weight * (QUERY_SCALE * self.hidden_size**-0.5)
        evidence = (self.evidence @ patches.transpose(1, 2)).float()
        scores = (keyed @ patches.transpose(1, 2)).float() + self.evidence_gain * evidence
        log_attention = torch.log_softmax(scores, dim=-1)
        attention = log_attention.exp()
        pooled = self.pooled_norm(self.value(attention.to(patches.dtype) @ patches) + self.identity)
        embeddings = self.dropout(self.out_norm(self.mlp(pooled)))
        attended = (attention * evidence).sum(-1)
        logits = (embeddings.float() * self.classifier).sum(-1) + attended + self.classifier_bias
        return ObservationOutput(embeddings, logits, self.side(embeddings).float(), log_attention)


class ObservationPrefix(nn.Linear):
    """What the decoder reads of the observations: one token each.

        t_l = W e_l + b            and, with states,        + tanh(z_l / 2) s_l

    tanh(z / 2) = 2 sigmoid(z) - 1 runs from -1 (surely absent) to 1 (surely present), so a text that contradicts the
    label head has to unlearn a direction that says so outright. No gradient goes back through z: the text reads the
    conclusion and does not bend it.
    """

    def __init__(self, width: int, language_width: int, num_observations: int, *, with_states: bool) -> None:
        super().__init__(width, language_width)
        self.states = nn.Parameter(torch.zeros(num_observations, language_width)) if with_states else None

    def tokens(self, embeddings: Tensor, logits: Tensor) -> Tensor:
        """[B, L, D] and [B, L] -> [B, L, language width]."""
        projected = self(embeddings)
        if self.states is None:
            return projected
        return projected + (torch.tanh(logits.detach() / 2)[..., None] * self.states).to(projected.dtype)
