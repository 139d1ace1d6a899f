"""Does the teacher know its literature? Sign -> observation by likelihood, and bits per byte on held-out text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from kdistill.observations import FINDINGS
from kdistill.records import Passage, ProbeItem, Record
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.meaning import meaning_scores
from kdistill.teacher.scoring import Scorer


class Accuracy(Record):
    """Accuracy over n probe items; `value` is None where there are none."""

    value: float | None
    n: int


class ProbeScores(Record):
    """One model's answers: over all signs, and over those that the literature only states, never in a case."""

    all: Accuracy
    declarative_only: Accuracy
    by_observation: dict[str, Accuracy]


class BitsPerByte(Record):
    """Cross-entropy in bits over the UTF-8 bytes of held-out text; comparable between tokenizers."""

    value: float | None
    num_bytes: int


def choose(scorer: Scorer, phrases: Sequence[str]) -> list[str]:
    """The observation, of the 13, that each phrase points to."""
    if not phrases:
        return []
    return [FINDINGS[index] for index in meaning_scores(scorer, phrases, FINDINGS).argmax(axis=1)]


def probe(scorer: Scorer, items: Sequence[ProbeItem]) -> ProbeScores:
    """Ask the model for the observation of every probe item.

    Args:
        scorer: The language model.
        items: Signs in wordings that the literature does not use, with their observation.
    """
    answers = choose(scorer, [item.phrase for item in items])
    right = [answer == item.observation for answer, item in zip(answers, items, strict=True)]
    pairs = list(zip(items, right, strict=True))
    return ProbeScores(
        all=_accuracy(right),
        declarative_only=_accuracy([hit for item, hit in pairs if item.declarative_only]),
        by_observation={name: _accuracy([hit for item, hit in pairs if item.observation == name]) for name in FINDINGS},
    )


def _accuracy(right: Sequence[bool]) -> Accuracy:
    return Accuracy(value=sum(right) / len(right) if right else None, n=len(right))


@torch.inference_mode()
def bits_per_byte(language_model: LanguageModel, passages: Sequence[Passage], *, max_tokens: int = 256) -> BitsPerByte:
    """Measure -sum log2 p(token | before) / bytes; each passage starts after bos, long ones are cut into windows.

    Args:
        language_model: Model and tokenizer.
        passages: Held-out text.
        max_tokens: Longest window, in tokens.
    """
    tokenizer, model = language_model.tokenizer, language_model.model
    nats, num_bytes = 0.0, 0
    for passage in passages:
        ids = tokenizer(passage.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        num_bytes += len(passage.text.encode("utf-8"))
        for start in range(0, len(ids), max_tokens):
            window = torch.tensor([[tokenizer.bos_token_id, *ids[start : start + max_tokens]]], device=model.device)
            logits = model(input_ids=window, use_cache=False).logits[0, :-1]
            nats += cross_entropy(logits.float(), window[0, 1:], reduction="sum").item()
    return BitsPerByte(value=nats / np.log(2) / num_bytes if num_bytes else None, num_bytes=num_bytes)
