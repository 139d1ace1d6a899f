"""A student's texts about images: every section it was trained to write, in the order in which it learned them."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdistill.student.modeling import KDistillStudent, Slot
from kdistill.student.text import Texts, split_texts


def write_texts(
    model: KDistillStudent,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Tensor,
    *,
    writes_rationale: bool,
    max_new_tokens: int,
    batch_size: int = 256,
) -> list[Texts]:
    """Write report and rationale greedily.

    Args:
        model: The student, in evaluation mode.
        tokenizer: Its tokenizer.
        prefix: [N, Q, H] as `KDistillStudent.encode` made it.
        writes_rationale: Whether it was trained to write one; any other answers with noise.
        max_new_tokens: Longest report, and longest rationale.
        batch_size: Images decoded at once.
    """

    def write(slot: Slot, num_sections: int = 1) -> list[Texts]:
        written = model.generate_text(
            prefix=prefix, slot=slot, max_new_tokens=num_sections * max_new_tokens, batch_size=batch_size
        )
        return [split_texts(tokenizer, tokens, slot) for tokens in written]

    match model.config.text_order:
        case "rationale_first":
            return write("rationale", 2)
        case "report_first":
            return write("report", 2)
    reports = write("report")
    if not writes_rationale:
        return reports
    rationales = write("rationale")
    return [report._replace(rationale=other.rationale) for report, other in zip(reports, rationales, strict=True)]
