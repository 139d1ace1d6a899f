"""The 14 observation queries: where each observation looks, and what it gathers there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from kdistill.student.config import SideSource
from kdistill.student.vision import position_encoding

NUM_SIDES = 3
#: r above: at the start the evidence leads and the query follows.
QUERY_SCALE = 0.3
#: Seed of the projection that carries text embeddings to the queries: the same in every student.
PROJECTION_SEED = 0
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


#: Less of a map than this in one half counts as this: a side must not hang on the eighth decimal of an attention.
MIN_SHARE: Final = 0.01


@dataclass
class PatchTokens:
    """What the patches of a batch of images show; P patches of the grid on which evidence is looked for.

    Attributes:
        local: [B, P, D], each from its own receptive field, with its position.
        context: [B, P, C], the encoder's coarse features at the same place; None where there is one grid alone.
    """

    local: Tensor
    context: Tensor | None = None

    def together(self) -> Tensor:
        """Both side by side [B, P, D + C]: for a decoder that reads patches, which nothing keeps apart anyway."""
        return self.local if self.context is None else torch.cat([self.local, self.context], dim=-1)


class ContextGate(nn.Module):
    """Turns the evidence of a place up or down by what surrounds it, within bounds.

        s'_lp = s_lp + m (tanh(scale_lp) s_lp + tanh(shift_lp)),   (scale, shift)_p = W c_p + b

    c_p are the coarse features at patch p, m < 1 the largest share. A feature-wise affine modulation (FiLM: Perez et
    al. 2018, arXiv:1709.07871) of the evidence alone, by a coarser grid as in attention gates (Oktay et al. 2018,
    arXiv:1804.03999), but bounded:

        |s'_lp - s_lp| <= m (|s_lp| + 1)

    whatever c_p holds. So a finding elsewhere in the coarse receptive field can make a local sign count for more, and
    cannot stand in for it; beyond that field it changes nothing.
    """

    def __init__(self, channels: int, num_observations: int, modulation: float) -> None:
        super().__init__()
        self.modulation = modulation
        self.weight = nn.Parameter(torch.zeros(2 * num_observations, channels))
        self.bias = nn.Parameter(torch.zeros(2 * num_observations))

    def reset(self) -> None:
        """Begin near no modulation, but not at it: at zero the coarse features would get no gradient."""
        init.normal_(self.weight, std=0.1 * self.weight.shape[1] ** -0.5)
        init.zeros_(self.bias)

    def forward(self, evidence: Tensor, context: Tensor) -> Tensor:
        """[B, L, P] and [B, P, C] -> [B, L, P]."""
        moved = torch.tanh(functional.linear(context, self.weight, self.bias).float()).transpose(1, 2)
        scale, shift = moved.chunk(2, dim=1)
        return evidence + self.modulation * (scale * evidence + shift)


@dataclass
class ObservationOutput:
    """What the queries say about a batch of images.

    Attributes:
        embeddings: [B, L, D].
        logits: [B, L], probability = sigmoid.
        side_logits: [B, L, 3] for left, right, bilateral; None for queries that read no side.
        log_attention: [B, L, P], logarithm of the evidence maps (each sums to one over the patches).
    """

    embeddings: Tensor
    logits: Tensor
    side_logits: Tensor | None
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

    With `context_channels` the features hold, behind `channels` local ones, the coarse features at the same place; s_lp
    is then modulated by them (see `ContextGate`), and everything else above still reads the local ones alone.

    The side is read from e_l; with `side_source: map` also from where the map lies,

        side_l = W_side e_l + b + V m_l,   m_l = (log sum_{p left} a_lp, log sum_{p right} a_lp), sums >= MIN_SHARE

    so that side and map, which tell a reader the same thing, rest on the same evidence.
    """

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        num_observations: int,
        dropout: float,
        context_channels: int = 0,
        modulation: float = 0.0,
        side_source: SideSource = "embedding",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.gate = ContextGate(context_channels, num_observations, modulation) if context_channels else None
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
        self.side = nn.Linear(hidden_size, NUM_SIDES) if side_source != "none" else None
        self.side_of_map = nn.Parameter(torch.zeros(NUM_SIDES, 2)) if side_source == "map" else None

    def reset(self) -> None:
        """Draw the parameters that belong to no layer (see `KDistillStudent._init_weights`)."""
        init.normal_(self.queries)
        init.normal_(self.evidence, std=self.hidden_size**-0.5)
        init.ones_(self.evidence_gain)
        init.normal_(self.identity, std=0.5)
        init.normal_(self.classifier, std=0.02)
        init.constant_(self.classifier_bias, PRIOR_LOGIT)
        if self.side_of_map is not None:
            init.zeros_(self.side_of_map)  # a side begins at what the embedding says

    @torch.no_grad()
    def start_from(self, embeddings: Tensor) -> None:
        """Begin at what a text says of each observation instead of at random.

        The rows get the length that random ones have: sqrt(D) for queries, 1 for evidence. All other parameters stay.

        Args:
            embeddings: [L, D_text], of any scale; they must not be zero.
        """
        directions = project(embeddings, self.hidden_size)
        self.queries.copy_(directions * self.hidden_size**0.5)
        self.evidence.copy_(directions)

    def patches(self, features: Tensor) -> PatchTokens:
        """[B, C, H, W] -> patch tokens with position (each still of a local receptive field), and their context."""
        height, width = features.shape[-2:]
        flat = features.flatten(2).transpose(1, 2)
        tokens = self.patch_projection(flat[..., : self.channels])
        code = position_encoding(height, width, self.hidden_size, tokens)
        local = self.patch_mlp(self.patch_norm(tokens + self.position_projection(code)))
        return PatchTokens(local, None if self.gate is None else flat[..., self.channels :])

    def forward(self, tokens: PatchTokens) -> ObservationOutput:
        """PatchTokens -> ObservationOutput."""
        patches = tokens.local
        # All projections are linear, so they act on the 14 queries and pools, not on every patch: same values.
        keyed = self.queries @ self.key.weight * (QUERY_SCALE * self.hidden_size**-0.5)
        evidence = (self.evidence @ patches.transpose(1, 2)).float()
        if self.gate is not None and tokens.context is not None:
            evidence = self.gate(evidence, tokens.context)
        scores = (keyed @ patches.transpose(1, 2)).float() + self.evidence_gain * evidence
        log_attention = torch.log_softmax(scores, dim=-1)
        attention = log_attention.exp()
        pooled = self.pooled_norm(self.value(attention.to(patches.dtype) @ patches) + self.identity)
        embeddings = self.dropout(self.out_norm(self.mlp(pooled)))
        attended = (attention * evidence).sum(-1)
        logits = (embeddings.float() * self.classifier).sum(-1) + attended + self.classifier_bias
        return ObservationOutput(embeddings, logits, self._side_logits(embeddings, log_attention), log_attention)

    def _side_logits(self, embeddings: Tensor, log_attention: Tensor) -> Tensor | None:
        if self.side is None:
            return None
        side_logits = self.side(embeddings).float()
        if self.side_of_map is not None:
            side_logits = side_logits + half_shares(log_attention) @ self.side_of_map.T
        return side_logits


def half_shares(log_attention: Tensor) -> Tensor:
    """Logarithm of each map's mass in the patient's left and right half, [B, L, P] -> [B, L, 2].

    The film shows the patient's left on its right. P is a square grid; a middle column belongs to both halves alike.
    """
    width = int(log_attention.shape[-1] ** 0.5)
    columns = torch.arange(width, device=log_attention.device)
    in_left = (torch.sign(2 * columns - (width - 1)) + 1) / 2
    rows = log_attention.exp().unflatten(-1, (-1, width)).sum(-2)
    return torch.stack([rows @ in_left, rows @ (1 - in_left)], dim=-1).clamp_min(MIN_SHARE).log()


def project(embeddings: Tensor, width: int) -> Tensor:
    """Carry directions to another width by a fixed random matrix with orthonormal columns (or rows, to a larger width).

    Angles are kept exactly towards a larger width, and nearly towards a smaller one (Johnson & Lindenstrauss 1984).

    Args:
        embeddings: [L, D_text].
        width: D.

    Returns:
        [L, D], rows of unit length.
    """
    source = embeddings.shape[1]
    generator = torch.Generator().manual_seed(PROJECTION_SEED)
    gaussian = torch.randn(max(source, width), min(source, width), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(gaussian).Q
    projected = embeddings.double() @ (basis if source >= width else basis.T)
    return functional.normalize(projected, dim=-1).float()
