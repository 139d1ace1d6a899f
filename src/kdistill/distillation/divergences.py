"""Divergences between next-token distributions known by their top-k tokens and the mass of all others.

All functions take logarithms of probabilities over K+1 events (the K kept tokens and "any other token") and return one
value in nats per row. They are pure: no model, no I/O.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

#: Least residual mass of the student: 1 - sum of K float32 probabilities is exact to about 1e-7.
_LEAST_RESIDUAL = 1e-6


def with_residual(log_probs: Tensor) -> Tensor:
    """Append the log of the remaining mass to the log-probabilities of K tokens: [n, K] -> [n, K+1].

    r = log(1 - sum_k exp(log p_k)), at least log(1e-6)
    """
    rest = (1.0 - log_probs.exp().sum(dim=-1, keepdim=True)).clamp_min(_LEAST_RESIDUAL)
    return torch.cat([log_probs, rest.log()], dim=-1)


def temper(log_probs: Tensor, temperature: float) -> Tensor:
    """Soften a distribution over K+1 events: p_i^(1/tau) / sum_j p_j^(1/tau), in logarithms.

    The single tokens behind the residual event are unknown, so both sides are tempered after they were reduced to the
    same events; equal distributions stay equal. With tau = 1 this only renormalises (the cache is float16).
    """
    return torch.log_softmax(log_probs / temperature, dim=-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p, q) = sum_i p_i (log p_i - log q_i) of log-probabilities [n, E] -> [n].

    An event with p_i = 0 adds nothing, whatever q_i is.
    """
    possible = p > float("-inf")
    difference = torch.where(possible, p, 0.0) - torch.where(possible, q, 0.0)
    return torch.where(possible, p.exp() * difference, 0.0).sum(dim=-1)


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher, student): the student must cover what the teacher finds possible (Hinton et al. 2015, 1503.02531)."""
    return kl(teacher, student)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(student, teacher): the student must not say what the teacher finds impossible (Gu et al. 2023, 2306.08543)."""
    return kl(student, teacher)


def generalized_jsd(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2023, arXiv:2306.13649, eq. 1).

        D(P, Q) = beta KL(P, M) + (1 - beta) KL(Q, M),  M = beta P + (1 - beta) Q,  P teacher, Q student

    It is at most ln 2 (at beta = 1/2), and D / beta tends to KL(P, Q) as beta tends to 0.
    """
    weights = torch.tensor([beta, 1.0 - beta], dtype=teacher.dtype, device=teacher.device).log()
    mixture = torch.logaddexp(teacher + weights[0], student + weights[1])
    return beta * kl(teacher, mixture) + (1.0 - beta) * kl(student, mixture)


def divergence(
    teacher: Tensor,
    student: Tensor,
    *,
    kind: Literal["forward_kl", "reverse_kl", "generalized_jsd"],
    beta: float,
    temperature: float,
) -> Tensor:
    """The token term's value per row [n], in nats.

        tau^2 D(temper(teacher, tau), temper(student, tau))

    The square of the temperature keeps the size of the gradient (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Args:
        teacher: Log-probabilities of K+1 events [n, K+1]; no gradient goes there.
        student: The student's, over the same events.
        kind: Which divergence.
        beta: Teacher's share in the mixture of generalized_jsd.
        temperature: tau.
    """
    p, q = temper(teacher.detach(), temperature), temper(student, temperature)
    match kind:
        case "forward_kl":
            value = forward_kl(p, q)
        case "reverse_kl":
            value = reverse_kl(p, q)
        case "generalized_jsd":
            value = generalized_jsd(p, q, beta)
    return temperature**2 * value
