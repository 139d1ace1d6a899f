import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from kdistill.evaluation.text import bleu4, bleu_statistics, rouge_l

GENERATED = [
    "The heart is normal in size. No pneumothorax.",
    "Small left pleural effusion with blunting of the costophrenic angle.",
    "",
    "Lungs are clear and the heart is not enlarged today.",
]
REFERENCE = [
    "The heart is normal in size. There is no pneumothorax or effusion.",
    "There is blunting of the left costophrenic angle, a small pleural effusion.",
    "No acute disease.",
    "Lungs are clear and the heart is not enlarged.",
]


def test_bleu_equals_sacrebleus_corpus_score() -> None:
    found = bleu4(bleu_statistics(GENERATED, REFERENCE), np.ones((4, 1)))
    assert found[0] == pytest.approx(sacrebleu.corpus_bleu(GENERATED, [REFERENCE]).score / 100, abs=1e-12)


def test_weighted_bleu_equals_the_corpus_with_repeats() -> None:
    weights = np.array([[2.0], [0.0], [1.0], [3.0]])
    rows = [0, 0, 2, 3, 3, 3]
    expected = sacrebleu.corpus_bleu([GENERATED[r] for r in rows], [[REFERENCE[r] for r in rows]]).score / 100
    assert bleu4(bleu_statistics(GENERATED, REFERENCE), weights)[0] == pytest.approx(expected, abs=1e-12)


def test_rouge_l_compares_generated_with_reference() -> None:
    values = rouge_l(GENERATED, REFERENCE)
    expected = RougeScorer(["rougeL"]).score(REFERENCE[1], GENERATED[1])["rougeL"].fmeasure
    assert values[1] == pytest.approx(expected)
    assert values[2] == 0
    assert rouge_l(["a b"], ["a b"])[0] == 1
