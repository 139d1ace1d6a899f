"""Equivalence: top-k log-probabilities against a float64 softmax loop; batched against one by one; the bank's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from kdistill.observations import INDEX
from kdistill.records import Rationale, RationaleEntry
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.statements import Fact, of_fact
from kdistill.teacher.targets import StatementBank, TokenTargets, embed, top_k_log_probs, write_targets

from .worlds import read_lines

PROMPTS = ("Findings: The sulcus is filled. Interpretation:", "Interpretation:", "Findings: Clear. Interpretation:")
TEXTS = ("Left pleural effusion. Fluid sinks.", "No pneumothorax.", "Cardiomegaly.")
#: float16 keeps 11 bits: a log-probability of -60 is off by at most 2**-6; the worst seen here is 4e-3.
HALF = 0.02


@given(hnp.arrays(np.float64, (3, 9), elements=st.floats(-25, 25)), st.integers(1, 9))
def test_kept_and_residual_mass_sum_to_one(logits: np.ndarray, top_k: int) -> None:
    ids, kept, rest = top_k_log_probs(torch.from_numpy(logits), top_k)
    log_probs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_probs -= logits.max(1, keepdims=True)
    np.testing.assert_allclose(kept, np.sort(log_probs, 1)[:, ::-1][:, :top_k], atol=HALF)
    np.testing.assert_allclose(np.take_along_axis(log_probs, ids.astype(int), 1), kept, atol=HALF)
    total = np.exp(kept.astype(float)).sum(1) + np.exp(rest.astype(float))
    np.testing.assert_allclose(total, 1, atol=0.02)
    assert np.isfinite(rest).all() and ids.dtype == np.int32 and kept.dtype == np.float16


def by_loop(
    language_model: LanguageModel, scorer: Scorer, prompt: str, text: str, top_k: int
) -> list[dict[int, float]]:
    """The prefix grows by one token; the full softmax is taken in float64."""
    ids, found = list(scorer.encode_prompt(prompt)), []
    for token in (*scorer.encode(text), language_model.tokenizer.eos_token_id):
        with torch.inference_mode():
            logits = language_model.model(torch.tensor([ids])).logits[0, -1].double().numpy()
        log_probs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        found.append({int(i): float(log_probs[i]) for i in np.argsort(-log_probs)[:top_k]})
        ids.append(token)
    return found


def test_token_targets_equal_a_loop(language_model: LanguageModel, scorer: Scorer) -> None:
    found = TokenTargets(scorer, top_k=4).compute(PROMPTS, TEXTS)
    for number, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        start, stop = found["token_offsets"][number : number + 2]
        expected = by_loop(language_model, scorer, prompt, text, 4)
        assert stop - start == len(expected)
        assert found["token_ids"][start:stop].tolist() == [*scorer.encode(text), language_model.tokenizer.eos_token_id]
        for row, wanted in zip(range(start, stop), expected, strict=True):
            np.testing.assert_allclose(found["topk_logprobs"][row], sorted(wanted.values(), reverse=True), atol=HALF)
            outside = np.log1p(-sum(np.exp(v) for v in wanted.values()))
            np.testing.assert_allclose(found["residual_logprob"][row], outside, atol=HALF)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batched_equals_one_by_one_and_equal_pairs_are_computed_once(
    language_model: LanguageModel, batch_size: int
) -> None:
    wide = TokenTargets(Scorer(language_model, batch_size=64), top_k=4).compute(PROMPTS, TEXTS)
    calls: list[tuple[int, int]] = []
    narrow = TokenTargets(Scorer(language_model, batch_size=batch_size), top_k=4).compute(
        [*PROMPTS, *PROMPTS], [*TEXTS, *TEXTS], lambda done, total: calls.append((done, total))
    )
    half = wide["token_offsets"][-1]
    for part in (slice(0, half), slice(half, 2 * half)):
        np.testing.assert_array_equal(narrow["token_ids"][part], wide["token_ids"])
        np.testing.assert_allclose(narrow["topk_logprobs"][part], wide["topk_logprobs"], atol=HALF)
    assert calls[-1] == (3, 3)


def test_nothing_has_its_shape(scorer: Scorer) -> None:
    found = TokenTargets(scorer, top_k=4).compute([], [])
    assert found["token_offsets"].tolist() == [0] and found["topk_ids"].shape == (0, 4)


def test_embeddings_are_centred_unit_and_batched_alike(language_model: LanguageModel) -> None:
    texts = ["Left pleural effusion.", "No pneumothorax.", "Cardiomegaly.", "Right fracture in the upper zone."]
    together, apart = (embed(language_model, texts, batch_size=size) for size in (4, 1))
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together.dtype == np.float32
    # Centred: the sum of the vectors before scaling is zero, so they do not all point one way.
    assert (together @ together.T)[np.triu_indices(4, 1)].min() < 0


def test_written_files_fit_together(tmp_path: Path, scorer: Scorer) -> None:
    facts = [Fact("Pleural Effusion", "present", "left", None, "mild"), Fact("Pneumothorax", "absent")]
    entries = tuple(
        RationaleEntry(
            observation=f.observation, state=f.state, side=f.side, severity=f.severity, text=f"{of_fact(f)}."
        )
        for f in reversed(facts)
    )
    rationale = Rationale(study_id="s", teacher="t", entries=entries, text=" ".join(e.text for e in entries))
    tokens = write_targets(tmp_path, scorer, [rationale], [PROMPTS[0]], top_k=16, embed_batch_size=64)
    tensors, bank = load_file(tmp_path / "targets.safetensors"), read_lines(tmp_path / "statements.jsonl")
    assert tokens == tensors["token_offsets"][-1] == len(tensors["token_ids"])
    assert tensors["topk_ids"].shape == (tokens, 16) and tensors["statement_embeddings"].shape[0] == len(bank)
    assert tensors["entry_statement"].shape == (1, 14) and tensors["entry_state"].dtype == np.int8
    row = tensors["entry_statement"][0, INDEX["Pleural Effusion"]]
    assert bank[row]["statement"] == "Mild left pleural effusion"
    assert "No pleural effusion" in {bank[n]["statement"] for n in bank[row]["negatives"]}
    assert tensors["entry_state"][0, INDEX["Pneumothorax"]] == 0
    assert (tensors["entry_state"][0] == -2).sum() == (tensors["entry_statement"][0] == -1).sum() == 12


def test_bank_rows_are_stable() -> None:
    bank = StatementBank()
    assert bank.facts[0] == Fact("No Finding", "present") and bank.row[bank.facts[700]] == 700
