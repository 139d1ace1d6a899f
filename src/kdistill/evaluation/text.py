"""BLEU-4 and ROUGE-L of generated reports. They reward style: no claim of this project rests on them.

BLEU: Papineni et al. 2002, corpus level, by sacrebleu (tokenizer 13a, exponential smoothing, case kept), over 100.
ROUGE-L: Lin 2004, F-measure by rouge-score without stemming, mean over studies. Both lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MAX_ORDER = 4


def bleu_statistics(generated: Sequence[str], reference: Sequence[str]) -> NDArray[np.float64]:
    """Sufficient statistics of corpus BLEU, additive over studies.

    Returns:
        float64 [N, 10]: matching n-grams (1..4), generated n-grams (1..4), generated length, reference length (tokens).
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    rows = []
    for ours, theirs in zip(generated, reference, strict=True):
        score = metric.sentence_score(ours, [theirs])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2 * _MAX_ORDER + 2)


def bleu4(statistics: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corpus BLEU-4 in [0, 1] for each weighting: statistics [N, 10], weights [N, R] -> [R]."""
    from sacrebleu.metrics import BLEU

    sums = (weights.T @ statistics).round().astype(int)
    scores = [
        BLEU.compute_bleu(row[:4], row[4:8], sys_len=row[8], ref_len=row[9], smooth_method="exp").score
        for row in sums.tolist()
    ]
    return np.asarray(scores) / 100


def rouge_l(generated: Sequence[str], reference: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L F-measure of each study, float64 [N]."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(generated, reference, strict=True)
    return np.asarray([scorer.score(theirs, ours)["rougeL"].fmeasure for ours, theirs in pairs], dtype=np.float64)
