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
    TrainerState,
    TrainingArguments,
    default_data_collator,
)
from transformers.utils import logging as transformers_logging

from kdistill.checkpoints import ReportProgress, SealCheckpoints, newest_verified
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
        Interrupted: `on_progress` raised it; a checkpoint was saved first.
    """
    if training.steps == 0:
        return []
    rows = PackedPassages(
        documents,
        num_rows=training.steps * training.batch_size,
        sequence_length=training.sequence_length,
        seed=training.seed,
    )
    arguments = _arguments(training, checkpoints_dir)
    watch = ReportProgress(on_progress, stop_every=int(arguments.logging_steps))
    trainer = InOrderTrainer(
        model=language_model.model,
        args=arguments,
        train_dataset=rows,
        data_collator=default_data_collator,
        callbacks=[SealCheckpoints(), watch],
    )
    trainer.remove_callback(PrinterCallback)  # only cli/ prints
    transformers_logging.disable_progress_bar()
    checkpoint = newest_verified(checkpoints_dir)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    watch.reraise()
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
