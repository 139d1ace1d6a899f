"""Which scores there are, and how each comes from one arm's outputs: one definition for bootstrap, tables and tests.

Axes: N studies, L = 14 observations, R weightings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kdistill.evaluation import auc, calibration, f1, text
from kdistill.evaluation.config import CALIBRATION_BINS
from kdistill.evaluation.targets import Targets, columns_of
from kdistill.observations import INDEX, OBSERVATIONS, OBSERVATIONS_5

Name = Literal["report_f1", "rationale_f1", "auc", "auprc", "brier", "ece", "bleu4", "rougeL"]
Average = Literal["micro", "macro", "example"]

#: Scores of label matrices, of rankings, of probabilities and of texts.
F1_NAMES: Final[tuple[Name, ...]] = ("report_f1", "rationale_f1")
RANK_NAMES: Final[tuple[Name, ...]] = ("auc", "auprc")
CALIBRATION_NAMES: Final[tuple[Name, ...]] = ("brier", "ece")
TEXT_NAMES: Final[tuple[Name, ...]] = ("bleu4", "rougeL")


@dataclass(frozen=True)
class Measure:
    """What a number is: its name, how it is averaged, over which observations (None for texts)."""

    name: Name
    average: Average | None = "micro"
    observation: str | None = None
    observations: Literal[14, 5] | None = 14

    @property
    def columns(self) -> NDArray[np.intp]:
        """Indices of the observations that it covers."""
        if self.observation is not None:
            return columns_of([self.observation])
        return columns_of(OBSERVATIONS_5 if self.observations == 5 else OBSERVATIONS)


def f1_measures(name: Name) -> list[Measure]:
    """Micro, macro and example average over 14 and over 5 observations, and each observation apart."""
    averages: tuple[Average, ...] = ("micro", "macro", "example")
    return _averaged(name, averages) + _each(name)


def rank_measures() -> list[Measure]:
    """AUROC and average precision: micro and macro over 14 and 5, and each observation apart."""
    averages: tuple[Average, ...] = ("micro", "macro")
    return [m for name in RANK_NAMES for m in _averaged(name, averages) + _each(name)]


def _averaged(name: Name, averages: Sequence[Average]) -> list[Measure]:
    subsets: tuple[Literal[14, 5], ...] = (14, 5)
    return [Measure(name, average, None, subset) for average in averages for subset in subsets]


def _each(name: Name) -> list[Measure]:
    return [Measure(name, None, observation) for observation in OBSERVATIONS]


@dataclass(frozen=True)
class LabelMaterial:
    """What F1 needs: `f1.confusion` counts, [N, L, 4]."""

    counts: NDArray[np.float64]


@dataclass(frozen=True)
class RankMaterial:
    """What rankings and calibration need: scores [N, L] (NaN allowed: the score is then null) and the targets."""

    scores: NDArray[np.float64]
    targets: Targets
    num_bins: int = CALIBRATION_BINS


@dataclass(frozen=True)
class TextMaterial:
    """What text scores need: BLEU statistics [N, 10] and ROUGE-L of each study [N]."""

    bleu: NDArray[np.float64]
    rouge: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> TextMaterial:
        """The material of some studies."""
        return TextMaterial(self.bleu[rows], self.rouge[rows])


Material = LabelMaterial | RankMaterial | TextMaterial
Values = dict[Measure, NDArray[np.float64]]


def evaluate(measures: Iterable[Measure], material: Material, weights: NDArray[np.float64]) -> Values:
    """Every measure under every weighting: {measure: [R]}; NaN where it is undefined.

    Args:
        measures: Of the kind that the material can give.
        material: One arm's outputs under one seed.
        weights: float64 [N, R].
    """
    match material:
        case LabelMaterial(counts):
            pooled = f1.pool(counts, weights)
            return {m: _f1(m, counts, pooled, weights) for m in measures}
        case RankMaterial():
            return _probability_values(list(measures), material, weights)
        case TextMaterial(bleu, rouge):
            return {m: _text(m, bleu, rouge, weights) for m in measures}


def _f1(
    measure: Measure, counts: NDArray[np.float64], pooled: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    columns = measure.columns
    match measure.average:
        case "micro":
            return f1.f1_micro(pooled[:, columns])
        case "macro":
            return f1.f1_macro(pooled[:, columns])
        case "example":
            return f1.f1_example(counts[:, columns], weights)
        case None:
            return f1.f1_per_observation(pooled[:, columns])[:, 0]


def _text(
    measure: Measure, bleu: NDArray[np.float64], rouge: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    if measure.name == "bleu4":
        return text.bleu4(bleu, weights)
    return (weights.T @ rouge) / weights.sum(axis=0)


def _probability_values(measures: Sequence[Measure], material: RankMaterial, weights: NDArray[np.float64]) -> Values:
    ranks = [m for m in measures if m.name in RANK_NAMES]
    values: Values = {m: _calibration(m, material, weights) for m in measures if m.name in CALIBRATION_NAMES}
    pooled = {m.columns.tobytes() for m in ranks if m.average == "micro"}
    micro = {size: _micro(material, size, weights) for size in sorted(pooled)}
    needed = sorted({int(c) for m in ranks if m.average != "micro" for c in m.columns})
    single = _single(material, needed, weights)
    for m in ranks:
        pair = micro[m.columns.tobytes()] if m.average == "micro" else _from_single(m, needed, single)
        values[m] = pair.auc if m.name == "auc" else pair.auprc
    return values


def _micro(material: RankMaterial, columns: bytes, weights: NDArray[np.float64]) -> auc.RankScores:
    index, (positive, known) = np.frombuffer(columns, dtype=np.intp), material.targets
    return auc.micro_rank_scores(material.scores[:, index], positive[:, index], known[:, index], weights)


def _single(material: RankMaterial, columns: Sequence[int], weights: NDArray[np.float64]) -> auc.RankScores:
    if not columns:
        return auc.RankScores(np.empty((weights.shape[1], 0)), np.empty((weights.shape[1], 0)))
    positive, known = material.targets
    index = np.asarray(columns)
    return auc.observation_rank_scores(material.scores[:, index], positive[:, index], known[:, index], weights)


def _from_single(measure: Measure, columns: Sequence[int], single: auc.RankScores) -> auc.RankScores:
    if measure.observation is not None:
        place = columns.index(INDEX[measure.observation])
        return auc.RankScores(single.auc[:, place], single.auprc[:, place])
    places = [columns.index(int(c)) for c in measure.columns]
    return auc.macro_rank_scores(auc.RankScores(single.auc[:, places], single.auprc[:, places]))


def _calibration(measure: Measure, material: RankMaterial, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    positive, known = material.targets
    if not np.isfinite(material.scores[known]).all():
        return np.full(weights.shape[1], np.nan)
    clean = np.where(known, material.scores, 0.0)
    if measure.name == "brier":
        return calibration.brier(clean, positive, known, weights)
    sums = calibration.bin_sums(clean, positive, known, material.num_bins)
    return calibration.expected_calibration_error(sums, weights)


def stack(first: Material, second: Material) -> Material:
    """Put two arms' outputs under one another ([2N, ...]), for a test that takes each patient from either."""
    match first, second:
        case LabelMaterial(), LabelMaterial():
            return LabelMaterial(np.concatenate([first.counts, second.counts]))
        case RankMaterial(), RankMaterial():
            positive = np.concatenate([first.targets.positive, second.targets.positive])
            known = np.concatenate([first.targets.known, second.targets.known])
            return RankMaterial(np.concatenate([first.scores, second.scores]), Targets(positive, known), first.num_bins)
        case TextMaterial(), TextMaterial():
            return TextMaterial(np.concatenate([first.bleu, second.bleu]), np.concatenate([first.rouge, second.rouge]))
    raise TypeError(f"cannot stack {type(first).__name__} on {type(second).__name__}")


def own_ranks(measure: Measure, material: Material) -> Material:
    """Replace scores by their mid-ranks within this arm (the arm's AUC is unchanged): over all items for a micro
    average, else within each observation. Other material is returned as it is."""
    if not isinstance(material, RankMaterial):
        return material
    known, ranks = material.targets.known, np.zeros_like(material.scores)
    if measure.average == "micro":
        inside = np.zeros_like(known)
        inside[:, measure.columns] = known[:, measure.columns]
        ranks[inside] = _mid_ranks(material.scores[inside])
    else:
        for column in measure.columns:
            rows = known[:, column]
            ranks[rows, column] = _mid_ranks(material.scores[rows, column])
    return RankMaterial(ranks, material.targets, material.num_bins)


def _mid_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def mean_over_seeds(values: Sequence[Mapping[Measure, NDArray[np.float64]]]) -> Values:
    """Average each measure over seeds within each weighting, so that one resample holds the same patients for all."""
    return {measure: np.mean([v[measure] for v in values], axis=0) for measure in values[0]}
