"""What goes into and comes out of the student beside tensors of images and tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from kdistill.student.language import (
    TextBatch,
)
from kdistill.student.queries import ObservationOutput


@dataclass(frozen=True)
class SecondLook:
    """Images of the batch to be seen as they are and once more after a change.

    Attributes:
        image_index: int64 [n], which images.
        change: Those images [n, 1, S, S] and what was observed in them -> the changed images.
    """

    image_index: Tensor
    change: Callable[[Tensor, ObservationOutput], Tensor]


@dataclass
class KDistillOutput(ModelOutput):
    """Output of KDistillStudent.forward.

    Attributes:
        loss: Mean cross-entropy where `labels` were given.
        embeddings: Observation embeddings [B, L, D].
        logits: [B, L].
        side_logits: [B, L, 3], left, right, bilateral, where the model reads sides.
        log_attention: [B, L, P].
        semantic_embeddings: [B, L, D_teacher], L2-normalised, where the model has that projection.
        text_logits: For each text batch, [number of next_tokens that are not -100, V] in row-major order.
        written: The rationales that were sampled; their logits are the last of text_logits.
        before: The images of a second look as they are, without gradient.
        after: The same images changed.
        lm_logits: [B, T, V] where `input_ids` were given.
    """

    loss: Tensor | None = None
    embeddings: Tensor | None = None
    logits: Tensor | None = None
    side_logits: Tensor | None = None
    log_attention: Tensor | None = None
    semantic_embeddings: Tensor | None = None
    text_logits: tuple[Tensor, ...] | None = None
    written: TextBatch | None = None
    before: ObservationOutput | None = None
    after: ObservationOutput | None = None
    lm_logits: Tensor | None = None


@dataclass
class EncodedImages:
    """One pass of the vision side: the prefix for the decoder [B, Q, H], and the observations where they were asked."""

    prefix: Tensor
    observations: ObservationOutput | None
