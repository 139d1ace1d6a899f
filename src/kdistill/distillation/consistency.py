"""The consistency term: what the student's own text implies of an observation must agree with its label head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from kdistill.distillation.collate import pad
from kdistill.observations import NO_FINDING, OBSERVATIONS
from kdistill.sites import SITES
from kdistill.student.language import IGNORE_INDEX
from kdistill.student.text import encode_plain, token_ids
from kdistill.teacher.statements import SIDES, statement

#: Slot of the denial among an observation's statements; the affirmations, one for each side, follow.
ABSENT = 0


def statement_sequences(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[list[int], ...], ...]:
    """For each observation the beginnings of rationales that deny it and affirm it, as token sequences.

    `<rationale> No pleural effusion`, then `<rationale> Pleural effusion`, `<rationale> Left pleural effusion`, ...;
    no full stop, so that what a rationale may add (the zone, a reason) is left open. Empty for "No Finding", which has
    no denial.
    """
    start = token_ids(tokenizer)["rationale"]
    return tuple(
        tuple([start, *encode_plain(tokenizer, text)] for text in _statements(observation))
        for observation in OBSERVATIONS
    )


def _statements(observation: str) -> list[str]:
    if observation == NO_FINDING:
        return []
    sides = SIDES if SITES[observation].lateralised else SIDES[:1]
    return [statement(observation, "absent"), *(statement(observation, "present", side) for side in sides)]


def statement_batch(sequences: Sequence[Sequence[list[int]]], pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The texts of drawn (image, observation) pairs.

    Returns:
        text: a TextBatch of N statements; pair, slot: int64 [N], whose statement each is and which of its statements;
        index: int64 [E, 2], the pairs.
    """
    items = [
        (number, slot, image, tokens)
        for number, (image, observation) in enumerate(pairs)
        for slot, tokens in enumerate(sequences[observation])
    ]
    text = pad([tokens for *_, tokens in items])
    text["image_index"] = torch.tensor([image for _, _, image, _ in items])
    return {
        "text": text,
        "pair": torch.tensor([number for number, *_ in items]),
        "slot": torch.tensor([slot for _, slot, *_ in items]),
        "index": torch.tensor(pairs),
    }


def implied_logits(logits: Tensor, drawn: Mapping[str, Any]) -> Tensor:
    """Log-odds that the student's text affirms rather than denies, from the likelihoods of its statements.

        t = log sum_side q(affirmation with side) - log q(denial),   q(y) = prod_t q_t(y_t)

    sigmoid(t) is the softmax over the statements of an observation, its affirmations summed over their sides.

    Args:
        logits: [n, V] at the statements' target positions, row-major.
        drawn: See `statement_batch`.

    Returns:
        [E].
    """
    targets = drawn["text"]["next_tokens"]
    row, column = (targets != IGNORE_INDEX).nonzero().unbind(1)
    each = torch.log_softmax(logits.float(), dim=-1).gather(1, targets[row, column].unsqueeze(1)).squeeze(1)
    likelihoods = each.new_zeros(len(targets)).index_add(0, row, each)
    num_slots = int(drawn["slot"].max()) + 1
    table = each.new_full((len(drawn["index"]), num_slots), float("-inf"))
    table = table.index_put((drawn["pair"], drawn["slot"]), likelihoods)
    return table[:, ABSENT + 1 :].logsumexp(-1) - table[:, ABSENT]


def consistency_loss(head_logits: Tensor, text_logits: Tensor) -> Tensor:
    """KL(head, text) of two Bernoulli distributions by their log-odds z and t: zero where they agree.

        loss = s(z) (log s(z) - log s(t)) + s(-z) (log s(-z) - log s(-t))

    No gradient goes to z: the head is trained on labels and its probability is what thresholds and calibration are
    made of, while a likelihood of words also moves with style; so the text follows the head, not the head the text.

    Args:
        head_logits: [E].
        text_logits: [E].

    Returns:
        [E] in nats.
    """
    head = head_logits.detach().float()
    terms = [
        torch.sigmoid(sign * head) * (functional.logsigmoid(sign * head) - functional.logsigmoid(sign * text_logits))
        for sign in (1, -1)
    ]
    return terms[0] + terms[1]
