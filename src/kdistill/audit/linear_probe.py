"""Linear probes: what a straight line can read off a student's features, whatever its own heads made of them.

    z_l(x) = w_l . (x - mean) / std + b_l,   fitted by  min  |w_l|^2 / 2 + C sum_n log-loss(z_l(x_n), y_nl)

(Alain & Bengio 2016, arXiv:1610.01644.) If visual feature learning is decoupled from reasoning, what can be read off
the vision side does not depend on whether, and how, a decoder was trained on top of it.
Axes: N training and M test studies, F features, C channels of the encoder, L = 14 observations, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from kdistill.evaluation.auc import (
    macro_rank_scores,
    micro_rank_scores,
    observation_rank_scores,
    prevalence_scores,
)
from kdistill.evaluation.bootstrap import Estimate, estimate
from kdistill.student.images import pixel_values
from kdistill.student.modeling import KDistillStudent

#: Fixed and not tuned: some hundred features, and as few as a dozen positives among 3,000 training studies.
INVERSE_L2: Final = 0.01
MAX_ITERATIONS: Final = 1000
#: With fewer of either class in training there is no line to speak of.
LEAST_OF_A_CLASS: Final = 3
ENCODER, EMBEDDINGS, HEAD = "encoder", "embeddings", "label head"


@dataclass(frozen=True)
class Features:
    """What a student makes of N images.

    Attributes:
        encoder: float32 [N, 2C], the encoder's patch features, their mean and their maximum over the patches.
        embeddings: float32 [N, L, D], the observation embeddings.
        head_logits: float32 [N, L], the student's own label head.
    """

    encoder: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    head_logits: NDArray[np.float32]


@dataclass(frozen=True)
class ProbeResult:
    """How well the observations can be told from one kind of features.

    Attributes:
        features: ENCODER, EMBEDDINGS (each observation from its own) or HEAD (nothing fitted).
        micro, macro: AUROC with its resamples over patients.
        micro_floor: Micro-AUC of a predictor that knows only how frequent each observation is.
        by_observation: AUROC of each observation, None where a class is missing.
        n: Test studies.
        num_fitted: Observations that both splits have enough of.
    """

    features: str
    micro: Estimate
    macro: Estimate
    micro_floor: float | None
    by_observation: tuple[float | None, ...]
    n: int
    num_fitted: int


@torch.no_grad()
def extract_features(model: KDistillStudent, images: np.ndarray, rows: Sequence[int], *, batch_size: int) -> Features:
    """Run the vision side over rows of a memory-mapped image array, in float32 as prediction does.

    The model is in evaluation mode.
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        chosen = images[np.asarray(rows[start : start + batch_size])]
        grid = model.vision(pixel_values(chosen, model.config).to(model.device))
        seen = model.queries(model.queries.patches(grid))
        pooled = torch.cat([grid.float().mean((2, 3)), grid.float().amax((2, 3))], dim=1)
        parts.append((pooled, seen.embeddings.float(), seen.logits.float()))
    return Features(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def fit_probes(
    train: NDArray[np.float32], labels: NDArray[np.float32], test: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Fit one probe for each observation on the known training labels, and apply it.

    Args:
        train: [N, F] for all observations, or [N, L, F], each from its own.
        labels: [N, L], 1, 0 or NaN.
        test: [M, F] or [M, L, F].

    Returns:
        Logits [M, L]; a column of NaN where training knows too few of a class.
    """
    logits = np.full((len(test), labels.shape[1]), np.nan)
    for column in range(labels.shape[1]):
        known = ~np.isnan(labels[:, column])
        positive = labels[known, column] == 1
        if min(positive.sum(), (~positive).sum()) < LEAST_OF_A_CLASS:
            continue
        own = [x if x.ndim == 2 else x[:, column] for x in (train[known], test)]
        mean, std = own[0].mean(0), own[0].std(0)
        std[std == 0] = 1
        fitted = LogisticRegression(C=INVERSE_L2, max_iter=MAX_ITERATIONS).fit((own[0] - mean) / std, positive)
        logits[:, column] = fitted.decision_function((own[1] - mean) / std)
    return logits


def score(
    features: str, logits: NDArray[np.float64], labels: NDArray[np.float32], weights: NDArray[np.float64]
) -> ProbeResult:
    """Micro- and macro-AUC of logits [M, L] against labels [M, L] under `bootstrap_weights` [M, 1 + R].

    Unknown labels and observations without a probe are left out.
    """
    known, positive = ~np.isnan(labels) & ~np.isnan(logits), labels == 1
    each = observation_rank_scores(logits, positive, known, weights)
    floor = micro_rank_scores(prevalence_scores(positive, known), positive, known, np.ones((len(labels), 1))).auc[0]
    return ProbeResult(
        features=features,
        micro=estimate(micro_rank_scores(logits, positive, known, weights).auc),
        macro=estimate(macro_rank_scores(each).auc),
        micro_floor=float(floor) if np.isfinite(floor) else None,
        by_observation=tuple(float(auc) if np.isfinite(auc) else None for auc in each.auc[0]),
        n=len(labels),
        num_fitted=int(np.isfinite(each.auc[0]).sum()),
    )


def probe(
    train: Features,
    train_labels: NDArray[np.float32],
    test: Features,
    test_labels: NDArray[np.float32],
    weights: NDArray[np.float64],
    *,
    kinds: Sequence[str],
) -> Mapping[str, ProbeResult]:
    """Probe each kind of features.

    Args:
        train: Features of the training studies.
        train_labels: [N, L], 1, 0 or NaN.
        test: Features of the studies that the probes are tested on.
        test_labels: [M, L], labelled in the same way.
        weights: [M, 1 + R], see `bootstrap.bootstrap_weights`; equal weights make results comparable as pairs.
        kinds: Among ENCODER, EMBEDDINGS and HEAD: what the arm has trained.
    """
    logits = {
        ENCODER: lambda: fit_probes(train.encoder, train_labels, test.encoder),
        EMBEDDINGS: lambda: fit_probes(train.embeddings, train_labels, test.embeddings),
        HEAD: lambda: test.head_logits.astype(np.float64),
    }
    return {kind: score(kind, logits[kind](), test_labels, weights) for kind in kinds}
