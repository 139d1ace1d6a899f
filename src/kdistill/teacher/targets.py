"""What the student learns from besides text: top-k token log-probabilities and entry embeddings, computed once.

The teacher reads the report and the rationale (a privileged prompt, since the student sees only the image); for every
token of the rationale its k most likely tokens are kept, with the log of the mass outside them, so that the divergences
of distillation (Agarwal et al. 2023, arXiv:2306.13649) can be taken over K + 1 classes that sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import log_softmax

from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.records import Rationale, State, write_jsonl
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.statements import Fact, all_facts, canonical, flips, of_fact

#: entry_state in targets.safetensors; -2 where the rationale has no entry.
STATE_CODES: dict[State, int] = {"present": 1, "absent": 0, "uncertain": -1}
NO_ENTRY = -2
#: The least residual log-mass that float16 holds with room to spare; a smaller one is as good as none.
_LEAST_LOG = -60.0


def top_k_log_probs(logits: torch.Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the k largest log-probabilities of each position.

    Args:
        logits: Float tensor of shape (T, V).
        top_k: K; at most V.

    Returns:
        Ids int32 (T, K), log-probabilities float16 (T, K) and the log of the mass outside them float16 (T,), in nats.
    """
    log_probs = log_softmax(logits.double(), dim=-1)
    kept, ids = log_probs.topk(min(top_k, logits.shape[-1]), dim=-1)
    # The sum of what is left, not 1 - kept: the difference of two numbers near one has no digits left.
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1).clamp(min=_LEAST_LOG)
    kept = kept.clamp(min=_LEAST_LOG)
    return ids.int().cpu().numpy(), kept.half().cpu().numpy(), rest.half().cpu().numpy()


class TokenTargets:
    """Teacher-forced top-k log-probabilities of texts behind prompts; equal (prompt, text) pairs are computed once."""

    def __init__(self, scorer: Scorer, *, top_k: int) -> None:
        self.scorer = scorer
        self.top_k = top_k

    def compute(
        self, prompts: Sequence[str], texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Return token_offsets, token_ids, topk_ids, topk_logprobs and residual_logprob, in the order of `texts`."""
        eos = self.scorer.language_model.tokenizer.eos_token_id
        keys = [
            (self.scorer.encode_prompt(p), (*self.scorer.encode(t), eos)) for p, t in zip(prompts, texts, strict=True)
        ]
        distinct = sorted(set(keys), key=lambda key: (len(key[0]) + len(key[1]), key))
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for start in range(0, len(distinct), self.scorer.batch_size):
            batch = distinct[start : start + self.scorer.batch_size]
            found.update(zip(batch, self._batch(batch), strict=True))
            if on_progress is not None:
                on_progress(min(start + self.scorer.batch_size, len(distinct)), len(distinct))
        return self._joined([key[1] for key in keys], [found[key] for key in keys])

    @torch.inference_mode()
    def _batch(
        self, batch: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        lm = self.scorer.language_model
        rows = [torch.tensor(prompt + text) for prompt, text in batch]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=lm.tokenizer.pad_token_id)
        # Padding stands on the right, where a causal model does not see it: no attention mask is needed.
        logits = lm.model(input_ids=padded.to(lm.device), use_cache=False).logits
        results = []
        for index, (prompt, text) in enumerate(batch):
            first = len(prompt) - 1
            results.append(top_k_log_probs(logits[index, first : first + len(text)], self.top_k))
        return results

    def _joined(
        self, texts: Sequence[tuple[int, ...]], found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        width = min(self.top_k, len(self.scorer.language_model.tokenizer))
        empty = (np.empty((0, width), np.int32), np.empty((0, width), np.float16), np.empty(0, np.float16))
        ids, kept, rest = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
        tokens = np.array([token for text in texts for token in text], dtype=np.int32)
        return {
            "token_offsets": offsets,
            "token_ids": tokens,
            "topk_ids": ids,
            "topk_logprobs": kept,
            "residual_logprob": rest,
        }


@torch.inference_mode()
def embed(language_model: LanguageModel, texts: Sequence[str], *, batch_size: int) -> np.ndarray:
    """Embed texts: the mean of the last hidden states over their tokens, centred over the texts, of unit length.

    Centred, because a language model's mean states share one large direction that makes every cosine near one.

    Returns:
        float32 of shape (M, D).
    """
    tokenizer, model = language_model.tokenizer, language_model.model
    means = []
    for start in range(0, len(texts), batch_size):
        encoded = tokenizer(list(texts[start : start + batch_size]), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([tokenizer.bos_token_id, *ids]) for ids in encoded]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        output = model(input_ids=padded.to(model.device), output_hidden_states=True, use_cache=False)
        hidden = output.hidden_states[-1].float()
        means += [hidden[index, 1 : len(row)].mean(0) for index, row in enumerate(rows)]
    matrix = torch.stack(means)
    matrix = matrix - matrix.mean(0)
    return torch.nn.functional.normalize(matrix, dim=-1).cpu().numpy().astype(np.float32)


class StatementBank:
    """Every canonical statement with its row, its embedding and the rows of its hard negatives."""

    def __init__(self) -> None:
        self.facts = all_facts()
        self.row = {fact: index for index, fact in enumerate(self.facts)}

    def embeddings(self, language_model: LanguageModel, *, batch_size: int) -> np.ndarray:
        """float32 of shape (M, D); see `embed`."""
        return embed(language_model, [of_fact(fact) + "." for fact in self.facts], batch_size=batch_size)

    def write(self, path: Path) -> None:
        """Write statements.jsonl: one fact a line with the rows of its hard negatives."""
        write_jsonl(
            path,
            (
                {"statement": of_fact(fact), **fact._asdict(), "negatives": [self.row[flip] for flip in flips(fact)]}
                for fact in self.facts
            ),
        )

    def entries(self, rationales: Sequence[Rationale]) -> dict[str, np.ndarray]:
        """entry_statement int32 and entry_state int8 of shape (N, 14)."""
        statement = np.full((len(rationales), NUM_OBSERVATIONS), -1, np.int32)
        state = np.full((len(rationales), NUM_OBSERVATIONS), NO_ENTRY, np.int8)
        for number, rationale in enumerate(rationales):
            for entry in rationale.entries:
                fact = canonical(Fact(entry.observation, entry.state, entry.side, entry.zone, entry.severity))
                statement[number, INDEX[entry.observation]] = self.row[fact]
                state[number, INDEX[entry.observation]] = STATE_CODES[entry.state]
        return {"entry_statement": statement, "entry_state": state}


def write_targets(
    directory: Path,
    scorer: Scorer,
    rationales: Sequence[Rationale],
    prompts: Sequence[str],
    *,
    top_k: int,
    embed_batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write targets.safetensors and statements.jsonl.

    Args:
        directory: The stage folder.
        scorer: The trained teacher.
        rationales: The accepted rationales, in the order of rationales.jsonl.
        prompts: The privileged prompt of each.
        top_k: Log-probabilities kept at a position.
        embed_batch_size: Statements embedded at once.
        on_progress: Called with (distinct texts done, in all).

    Returns:
        Tokens in all.
    """
    bank = StatementBank()
    bank.write(directory / "statements.jsonl")
    tensors = TokenTargets(scorer, top_k=top_k).compute(prompts, [r.text for r in rationales], on_progress)
    tensors |= bank.entries(rationales)
    tensors["statement_embeddings"] = bank.embeddings(scorer.language_model, batch_size=embed_batch_size)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, directory / "targets.safetensors")
    return int(tensors["token_offsets"][-1])
