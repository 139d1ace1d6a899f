import numpy as np
import pytest
from pydantic import ValidationError

from kdistill.evaluation.comparisons import pair_seeds
from kdistill.evaluation.config import EvaluationConfig
from kdistill.evaluation.scores import Outputs, Reference, Score, all_families, make_scope, score_arm
from kdistill.evaluation.targets import BLANK, UNKNOWN
from kdistill.observations import INDEX

EDEMA = INDEX["Edema"]


def column(values: list, fill: float, dtype) -> np.ndarray:
    matrix = np.full((len(values), 14), fill, dtype=dtype)
    matrix[:, EDEMA] = values
    return matrix


def edema_scores(reference: list[int], generated: list[int], probabilities: list[float]) -> dict[tuple, Score]:
    """Scores where only edema is known: stated, uncertain, denied and not mentioned."""
    outputs = Outputs(
        "full",
        0,
        column(probabilities, 0.5, float),
        column(generated, BLANK, np.int8),
        column(generated, BLANK, np.int8),
    )
    target = Reference("report", column(reference, UNKNOWN, np.int8), "plain@1")
    scope = make_scope("test", np.arange(len(reference)), list("abcdefgh"), num_bootstrap=100, seed=0)
    entries = score_arm([outputs], target, scope, all_families(), labeler="plain@1", num_bins=10)
    return {
        (e.score.name, e.score.uncertain): e.score
        for e in entries
        if e.score.average == "micro" and e.score.observations == 14
    }


def test_uncertain_reference_follows_the_policy() -> None:
    """Mutation spot, by hand. Edema stated, uncertain, denied, not mentioned; the text states the first two."""
    scores = edema_scores([1, -1, 0, BLANK], [1, 1, 0, BLANK], [0.9, 0.2, 0.5, 0.1])
    assert scores["report_f1", "positive"].value == 1.0
    assert scores["report_f1", "negative"].value == pytest.approx(2 / 3)
    assert scores["auc", "negative"].value == 1.0
    assert scores["auc", "positive"].value == pytest.approx(3 / 4)
    assert scores["auc", "masked"].value == 1.0
    assert [scores["auc", u].num_positive for u in ("positive", "negative", "masked")] == [2, 1, 1]
    assert [scores["auc", u].n for u in ("positive", "negative", "masked")] == [4, 4, 2]


def test_uncertain_text_follows_the_policy() -> None:
    """Mutation spot, by hand. The reference is certain; the text hedges about one case and one normal study."""
    scores = edema_scores([1, 1, 0, 0], [1, -1, -1, 0], [0.9, 0.8, 0.2, 0.1])
    assert scores["report_f1", "positive"].value == pytest.approx(4 / 5)
    assert scores["report_f1", "negative"].value == pytest.approx(2 / 3)
    assert scores["rationale_f1", "positive"].value == pytest.approx(4 / 5)


def test_certain_reference_gives_the_same_auc_under_every_policy() -> None:
    scores = edema_scores([1, 0, 1, 0], [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.5])
    assert {scores["auc", u].value for u in ("positive", "negative", "masked")} == {3 / 4}


def test_runs_are_paired_by_seed_and_a_single_run_meets_all() -> None:
    ours = [Outputs("a", seed) for seed in (0, 1, 2)]
    theirs = [Outputs("b", seed) for seed in (2, 0)]
    assert [(a.seed, b.seed) for a, b in pair_seeds(ours, theirs)] == [(0, 0), (2, 2)]
    assert [(a.seed, b.seed) for a, b in pair_seeds(ours, [Outputs("b", 9)])] == [(0, 9), (1, 9), (2, 9)]
    assert pair_seeds(ours[:2], [Outputs("b", 5), Outputs("b", 6)]) == []


def test_config_knows_no_other_key_and_no_silly_number() -> None:
    for wrong in (
        {"num_bootstraps": 5},
        {"num_bootstrap": 1},
        {"comparisons": [{"name": "bleu", "arm": "a", "baseline": "b"}]},
    ):
        with pytest.raises(ValidationError):
            EvaluationConfig.model_validate(wrong)
    assert EvaluationConfig().primary.arm == "full"
