"""The token term on the student's own rationales: the teacher scores what the student wrote."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdistill.distillation.config import DivergenceConfig
from kdistill.distillation.divergences import divergence
from kdistill.student.language import IGNORE_INDEX, next_token_logits
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.rationale_stage import privileged_prompt
from kdistill.teacher.scoring import Scorer


class PrivilegedTeacher:
    """The frozen teacher behind its privileged prompts: it reads each study's report, which the student never does.

    Args:
        language_model: The published teacher; frozen here.
        reports: The report of each training study, by its number.
        max_prompt_tokens: Longer prompts lose their beginning, as in the rationales stage.
    """

    def __init__(self, language_model: LanguageModel, reports: Sequence[str], max_prompt_tokens: int) -> None:
        self.model = language_model.model.eval().requires_grad_(False)
        self.reports = reports
        self._scorer = Scorer(language_model, max_prompt_tokens=max_prompt_tokens)

    @torch.no_grad()
    def logits(self, studies: Sequence[int], next_tokens: Tensor) -> Tensor:
        """Score texts token by token.

        Args:
            studies: Study number of each text.
            next_tokens: int64 [N, T], -100 in the padding on the right.

        Returns:
            float32 [number of tokens, V] in row-major order: what the teacher expects at each token, having read the
            prompt and the tokens before it.
        """
        prompts = [self._scorer.encode_prompt(privileged_prompt(self.reports[study])) for study in studies]
        texts = [row[row != IGNORE_INDEX].tolist() for row in next_tokens]
        rows = [torch.tensor([*prompt, *text[:-1]]) for prompt, text in zip(prompts, texts, strict=True)]
        # Padding stands on the right, where a causal model does not see it.
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        keep = torch.zeros_like(input_ids, dtype=torch.bool)
        for row, prompt, text in zip(keep, prompts, texts, strict=True):
            row[len(prompt) - 1 : len(prompt) - 1 + len(text)] = True
        model = self.model.to(next_tokens.device)
        width = model.get_input_embeddings().embedding_dim
        no_prefix = torch.empty(len(rows), 0, width, device=next_tokens.device)
        logits = next_token_logits(model, no_prefix, input_ids.to(next_tokens.device), keep.to(next_tokens.device))
        return logits.float()


def on_policy_loss(
    teacher_logits: Tensor, student_logits: Tensor, next_tokens: Tensor, settings: DivergenceConfig
) -> Tensor:
    """Summed over texts, the mean divergence over a text's tokens, on the full vocabulary.

        sum_y (1/|y|) sum_t tau^2 D(p_t^(1/tau), q_t^(1/tau))       y sampled from q, no gradient through sampling

    Agarwal et al. 2023 (arXiv:2306.13649, eq. 2 and Algorithm 1). The mean is taken text by text, not over all tokens:
    how many there will be is not known before the first micro-batch is written, and the loss must not depend on the
    cut. Rows that one vocabulary has beyond the other (padding of embedding tables) are left out.

    Args:
        teacher_logits: [n, V]; no gradient goes there.
        student_logits: [n, V'].
        next_tokens: int64 [N, T], the sampled tokens, -100 in the padding.
        settings: Which divergence, beta and temperature.
    """
    vocabulary = min(teacher_logits.shape[-1], student_logits.shape[-1])
    values = divergence(
        torch.log_softmax(teacher_logits[:, :vocabulary].float(), dim=-1),
        torch.log_softmax(student_logits[:, :vocabulary].float(), dim=-1),
        kind=settings.kind,
        beta=settings.beta,
        temperature=settings.temperature,
    )
    lengths = (next_tokens != IGNORE_INDEX).sum(-1)
    return (values / lengths.repeat_interleave(lengths)).sum()
