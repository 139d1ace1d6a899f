"""Equivalence: shared prompts, batches and the plain float64 loop give the same log-likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.scoring import Row, Scorer

PROMPTS = (
    "Findings: The lungs are clear. Interpretation:",
    "A meniscus climbs the chest wall: this is a sign of",
    "In",
)
CANDIDATES = (" pleural effusion", " pneumothorax", " no abnormality at all", " x")
#: Worst case seen between float32 passes of different shapes on these models: 2e-5 nats.
TOLERANCE = 2e-4


def by_loop(language_model: LanguageModel, scorer: Scorer, prompt: str, candidate: str) -> float:
    """One token at a time, softmax in float64."""
    ids = list(scorer.encode_prompt(prompt))
    total = 0.0
    for token in scorer.encode(candidate):
        with torch.inference_mode():
            logits = language_model.model(torch.tensor([ids])).logits[0, -1].double().numpy()
        total += logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        ids.append(token)
    return total


def test_shared_prompt_equals_a_loop_one_by_one(language_model: LanguageModel, scorer: Scorer) -> None:
    scores = scorer.log_likelihoods(PROMPTS, CANDIDATES)
    expected = [[by_loop(language_model, scorer, p, c) for c in CANDIDATES] for p in PROMPTS]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
    assert scorer._shared is True


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_nothing(language_model: LanguageModel, scorer: Scorer, batch_size: int) -> None:
    other = Scorer(language_model, batch_size=batch_size)
    np.testing.assert_allclose(
        other.log_likelihoods(PROMPTS, CANDIDATES), scorer.log_likelihoods(PROMPTS, CANDIDATES), atol=TOLERANCE
    )


def test_rows_with_their_own_candidates_come_back_by_index(scorer: Scorer) -> None:
    rows = [
        Row(scorer.encode_prompt(PROMPTS[0]), tuple(scorer.encode(c) for c in CANDIDATES[:3])),
        Row(scorer.encode_prompt(PROMPTS[2]), (scorer.encode(CANDIDATES[1]),)),
    ]
    found = dict(scorer.score_rows(rows))
    full = scorer.log_likelihoods(PROMPTS, CANDIDATES)
    np.testing.assert_allclose(found[0], full[0, :3], atol=TOLERANCE)
    np.testing.assert_allclose(found[1], full[2, 1:2], atol=TOLERANCE)


def test_a_model_that_ignores_the_mask_is_found_out(language_model: LanguageModel) -> None:
    class Forgetful(torch.nn.Module):
        """Stands for a recurrent model: it takes the block mask and does as it likes."""

        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, use_cache: bool = False, **ignored: object) -> object:
            return language_model.model(input_ids=input_ids, use_cache=False)

    blind = Scorer(LanguageModel(Forgetful(), language_model.tokenizer, "blind"))  # type: ignore[arg-type]
    expected = Scorer(language_model).log_likelihoods(PROMPTS, CANDIDATES)
    np.testing.assert_allclose(blind.log_likelihoods(PROMPTS, CANDIDATES), expected, atol=TOLERANCE)
    assert blind._shared is False


def test_special_tokens_in_text_are_plain_text(scorer: Scorer) -> None:
    assert scorer.language_model.tokenizer.eos_token_id not in scorer.encode("the lungs <eos> are clear")


def test_long_prompts_keep_bos_and_their_end(language_model: LanguageModel) -> None:
    scorer = Scorer(language_model, max_prompt_tokens=8)
    ids = scorer.encode_prompt("a " * 50 + "end")
    assert len(ids) == 8 and ids[0] == language_model.tokenizer.bos_token_id
    assert ids[1:] == scorer.encode("a " * 50 + "end")[-7:]
