"""Do the main run's probabilities mean what they say? Binned figures for the reliability diagram.

    python benchmarks/calibration.py runs/ablation/main --seeds 0 1 > benchmarks/calibration.json

Reads stored predictions and truth of the test studies; no model is loaded. Calibration error, Brier score and micro-AUC
are the evaluation stage's own, mean over seeds. The bins hold the items of all seeds together; the observed rate of
each has a 95% interval by patient bootstrap, with the evaluation's own draws. "No Finding" is also counted alone: it is
no finding like the others, and a report that leaves a finding out makes it wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdistill.artifact import read_manifest
from kdistill.evaluation.bootstrap import interval
from kdistill.evaluation.calibration import bin_sums, reliability_table
from kdistill.evaluation.cohort import Cohort, load_cohort, load_outputs, load_reference
from kdistill.evaluation.config import CALIBRATION_BINS
from kdistill.evaluation.measures import Measure
from kdistill.evaluation.scores import Family, Outputs, Reference, Scope, make_scope, score_arm
from kdistill.evaluation.targets import Targets, binarise
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.labeler import Labeler, RememberingLabeler, open_labeler
from kdistill.observations import INDEX

FAMILY: Final = Family("auc", (Measure("ece"), Measure("brier"), Measure("auc", "micro")), ("negative",))
NUM_RESAMPLES: Final = 1000


def extract(run: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Scores and bins of these arms' students."""
    labeler, cohort = RememberingLabeler(open_labeler(RulesLabelerConfig())), load_cohort(run / "studies", "test")
    truth = load_reference("truth", cohort, run / "studies", run / "labels", labeler)
    if truth is None:
        raise SystemExit(f"{run}: no ground truth")
    scope = make_scope("test", np.arange(len(cohort.studies)), cohort.patient_ids, num_bootstrap=NUM_RESAMPLES, seed=0)
    return {
        "commit": read_manifest(run / "studies").git_commit,
        "arms": [_arm(_outputs(run, arm, seeds, cohort, labeler), truth[0], scope) for arm in arms],
    }


def _outputs(run: Path, arm: str, seeds: Sequence[int], cohort: Cohort, labeler: Labeler) -> list[Outputs]:
    folder = run / "student" / arm
    return [load_outputs(arm, seed, folder / f"seed-{seed}", cohort, labeler, with_text=False) for seed in seeds]


def _arm(seeds: Sequence[Outputs], reference: Reference, scope: Scope) -> dict[str, Any]:
    entries = score_arm(seeds, reference, scope, (FAMILY,), labeler=None, num_bins=CALIBRATION_BINS)
    scores = {e.score.name: {"value": e.score.value, "ci95": e.score.ci95} for e in entries}
    return {
        "arm": seeds[0].arm,
        "seeds": [outputs.seed for outputs in seeds],
        "num_studies": len(scope.rows),
        "num_patients": len(set(scope.patient_ids)),
        **scores,
        "bins": bins(seeds, reference, scope),
    }


def bins(seeds: Sequence[Outputs], reference: Reference, scope: Scope) -> list[dict[str, Any]]:
    """The reliability table of all seeds' items, uncertain as negative, each bin with the interval of its rate."""
    targets = binarise(reference.states, "negative")
    only = np.zeros_like(targets.known)
    only[:, INDEX["No Finding"]] = True
    sums = _pooled(seeds, targets)
    alone = reliability_table(_pooled(seeds, Targets(targets.positive, targets.known & only)))
    rates = _resampled_rates(sums, scope.weights).T
    return [
        {**row.model_dump(), "observed_ci95": interval(samples), "no_finding": {"n": own.n, "rate": own.observed_rate}}
        for row, own, samples in zip(reliability_table(sums), alone, rates, strict=True)
    ]


def _pooled(seeds: Sequence[Outputs], targets: Targets) -> NDArray[np.float64]:
    """Sums of all seeds' items, [N, K, 3]."""
    sums = np.zeros((len(targets.known), CALIBRATION_BINS, 3))
    for outputs in seeds:
        assert outputs.probabilities is not None
        sums += bin_sums(outputs.probabilities, targets.positive, targets.known, CALIBRATION_BINS)
    return sums


def _resampled_rates(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Observed rate of each bin under each resample, [R, K]; NaN where a resample leaves a bin empty."""
    pooled = np.tensordot(weights[:, 1:].T, sums, axes=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(pooled[..., 2] / pooled[..., 0])


def main() -> None:
    """Print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--arms", nargs="+", default=("full", "label"), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1), metavar="SEED")
    chosen = parser.parse_args()
    json.dump(extract(chosen.run, chosen.arms, chosen.seeds), sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
