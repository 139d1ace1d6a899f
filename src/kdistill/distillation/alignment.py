"""The semantic term: an observation's embedding must point at the teacher's statement about it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def info_nce(queries: Tensor, bank: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each query against the whole statement bank (van den Oord et al. 2018, arXiv:1807.03748, eq. 4).

        loss_n = -log( exp(q_n . b_pos / t) / sum_m exp(q_n . b_m / t) )

    All statements compete, so the hard negatives (the same statement with polarity, side, zone, severity or observation
    flipped) always do; without them similarity is blind to polarity. The bank is bounded by the grammar of statements
    (observation x state x side x zone x severity, under 2,500 rows). It is fixed and shared, unlike in-batch negatives
    (MedKLIP, arXiv:2301.02228; KAD, arXiv:2302.14042), so the loss does not change with how a batch is cut.

    Args:
        queries: [n, D] L2-normalised embeddings of the student, in the teacher's space.
        bank: [M, D] L2-normalised statement embeddings; no gradient goes there.
        positive: int64 [n] rows of the bank.
        temperature: t.

    Returns:
        [n] in nats.
    """
    scores = queries @ bank.detach().T / temperature
    return functional.cross_entropy(scores, positive, reduction="none")
