"""The texts that a training study gives: token sequences of its report and rationale, apart or as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.distillation.teacher_targets import TeacherTargets
from kdistill.records import Rationale, Study
from kdistill.student.config import TextOrder
from kdistill.student.text import joined_sequence, rationale_sequence, report_sequence, token_ids
from kdistill.teacher.writers import canonical_impression


class Joined(NamedTuple):
    """Two texts as one.

    Attributes:
        tokens: The whole sequence.
        num_first: Target tokens that belong to the first text; the last of them starts the second.
        rationale_first: Which text comes first.
        span: Rows of the teacher's token targets for the rationale's own targets, None without the token term.
    """

    tokens: list[int]
    num_first: int
    rationale_first: bool
    span: tuple[int, int] | None

    def is_rationale(self) -> np.ndarray:
        """bool [number of targets]."""
        return (np.arange(len(self.tokens) - 1) < self.num_first) == self.rationale_first

    def is_taught(self) -> np.ndarray:
        """bool [number of targets]: where the teacher's distribution is known; it starts no report."""
        taught = self.is_rationale()
        if self.rationale_first:
            taught[self.num_first - 1] = False
        return taught if self.span is not None else np.zeros_like(taught)


Sequences = tuple[list[int] | None, ...]


def join(
    reports: Sequences, rationales: Sequences, spans: Sequence[tuple[int, int] | None], order: TextOrder
) -> tuple[Sequences, Sequences, tuple[Joined | None, ...]]:
    """Reports and rationales that stay apart, and those of studies that have both as one text."""
    if order == "apart":
        return reports, rationales, (None,) * len(reports)
    joined = tuple(
        _joined(report, rationale, span, order) if report is not None and rationale is not None else None
        for report, rationale, span in zip(reports, rationales, spans, strict=True)
    )
    alone = [text is None for text in joined]
    left = (
        tuple(t if single else None for t, single in zip(texts, alone, strict=True)) for texts in (reports, rationales)
    )
    return next(left), next(left), joined


def _joined(report: list[int], rationale: list[int], span: tuple[int, int] | None, order: TextOrder) -> Joined:
    if order == "report_first":
        return Joined(joined_sequence(report, rationale), len(report) - 1, False, span)
    span = (span[0], span[1] - 1) if span is not None else None
    return Joined(joined_sequence(rationale, report), len(rationale) - 1, True, span)


def impression_of(study: Study, rationale: Rationale | None, arm: ArmConfig, count: Callable[[str, int], None]) -> str:
    """The impression that an arm's training report has: as written, or what its rationale comes to.

    A study without a rationale or a report keeps its own, as does one whose rationale concludes nothing.

    Args:
        study: The training study.
        rationale: The arm's, after its shuffling; None where there is none.
        arm: Says which of the two.
        count: Receives impression_canonical and impression_without_conclusion.
    """
    if arm.impression == "written" or rationale is None or not study.report.strip():
        return study.impression
    concluded = canonical_impression(rationale.entries)
    count("impression_canonical" if concluded else "impression_without_conclusion", 1)
    return concluded or study.impression


def report_tokens(
    study: Study,
    impression: str,
    tokenizer: PreTrainedTokenizerBase,
    config: DistillationConfig,
    count: Callable[[str, int], None],
) -> list[int] | None:
    """Token sequence of a study's report, cut to `max_text_tokens`; None (counted) where it has none.

    Args:
        study: The training study; its findings are taken as they were written.
        impression: See `impression_of`.
        tokenizer: The student's.
        config: Holds the longest text.
        count: Receives study_without_report and report_cut.
    """
    if not study.report.strip():
        count("study_without_report", 1)
        return None
    tokens, cut = report_sequence(tokenizer, study.findings, impression, config.max_text_tokens)
    count("report_cut", int(cut))
    return tokens


def rationale_tokens(
    rationales: Sequence[Rationale | None],
    index: Sequence[int | None],
    teacher: TeacherTargets | None,
    arm: ArmConfig,
    config: DistillationConfig,
    tokenizer: PreTrainedTokenizerBase,
    count: Callable[[str, int], None],
) -> tuple[tuple[list[int] | None, ...], tuple[tuple[int, int] | None, ...]]:
    """Token sequences, and with the token term the rows of the teacher's targets that belong to their tokens."""
    texts: list[list[int] | None] = [None] * len(rationales)
    spans: list[tuple[int, int] | None] = [None] * len(rationales)
    if not {"rationale", "token"} & set(arm.terms):
        return tuple(texts), tuple(spans)
    with_tokens = teacher is not None and "token" in arm.terms
    start_id = token_ids(tokenizer)["rationale"]
    for row, (rationale, position) in enumerate(zip(rationales, index, strict=True)):
        if rationale is None or position is None:
            continue
        if with_tokens:
            assert teacher is not None
            start, stop = teacher.span(position)
            kept = min(stop, start + config.max_text_tokens - 1)
            texts[row] = [start_id, *teacher.token_ids[start:kept].tolist()]
            spans[row], cut = (start, kept), kept < stop
        else:
            texts[row], cut = rationale_sequence(tokenizer, rationale.text, config.max_text_tokens)
        count("rationale_cut", int(cut))
    return tuple(texts), tuple(spans)
