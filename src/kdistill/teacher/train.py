"""Train the teacher on the literature: transformers.Trainer on packed passages, resumable after a kill bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
)
from transformers.utils import logging as transformers_logging

from kdistill.checkpoints import SealCheckpoints, newest_verified
from kdistill.errors import InputError
from kdistill.teacher.config import TeacherTraining
from kdistill.teacher.corpus import PackedPassages
from kdistill.teacher.language_model import LanguageModel

Progress = Callable[[int, int], None]


class InOrderTrainer(Trainer):
    """Trainer that takes rows in the data set's own order, which is already shuffled by our seed."""

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        assert isinstance(rows, PackedPassages)
        return SequentialSampler(rows)


class _Progress(TrainerCallback):
    """Reports optimiser steps to whoever owns the terminal."""

    def __init__(self, on_progress: Progress) -> None:
        self.on_progress = on_progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.on_progress(state.global_step, state.max_steps)


def _arguments(training: TeacherTraining, checkpoints_dir: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints_dir),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        adam_beta2=0.95,  # short runs: a long memory of the second moment never warms up
        max_grad_norm=1.0,
        bf16=training.bf16,
        use_cpu=not torch.cuda.is_available(),  # without it, bf16 on a CPU is refused
        seed=training.seed,
        data_seed=training.seed,
        logging_strategy="steps",
        logging_steps=max(1, training.steps // 50),
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=2,
        logging_nan_inf_filter=False,  # a diverged run must be seen
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def train(
    language_model: LanguageModel,
    documents: Sequence[np.ndarray],
    training: TeacherTraining,
    checkpoints_dir: Path,
    on_progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train in place with next-token cross-entropy; goes on from the newest checkpoint that verifies.

    Args:
        language_model: Trained in place.
        documents: Token ids of each article.
        training: Steps, batch, rates, seed.
        checkpoints_dir: Where checkpoints are kept; an interrupted run's are found there.
        on_progress: Called with (steps done, steps in all).

    Returns:
        The history: step, loss (nats per token), learning rate.

    Raises:
        InputError: The loss is not finite.
    """
    if training.steps == 0:
        return []
    rows = PackedPassages(
        documents,
        num_rows=training.steps * training.batch_size,
        sequence_length=training.sequence_length,
        seed=training.seed,
    )
    callbacks: list[TrainerCallback] = [SealCheckpoints()]
    if on_progress is not None:
        callbacks.append(_Progress(on_progress))
    trainer = InOrderTrainer(
        model=language_model.model,
        args=_arguments(training, checkpoints_dir),
        train_dataset=rows,
        data_collator=default_data_collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # only cli/ prints
    transformers_logging.disable_progress_bar()
    checkpoint = newest_verified(checkpoints_dir)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    language_model.model.eval()
    return _history(trainer.state)


def _history(state: TrainerState) -> list[dict[str, float]]:
    keys = ("step", "loss", "learning_rate")
    history = [{key: entry[key] for key in keys} for entry in state.log_history if "loss" in entry]
    for entry in history:
        if not np.isfinite(entry["loss"]):
            raise InputError(
                f"the loss became {entry['loss']} at step {entry['step']}",
                where="teacher training",
                remedy="Lower teacher.training.learning_rate.",
            )
    return history
