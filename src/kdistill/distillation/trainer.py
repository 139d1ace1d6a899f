"""transformers.Trainer with our objective: losses normalised over the accumulated batch, a fixed order, a hard stop."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from kdistill import processes
from kdistill.checkpoints import ReportProgress, SealCheckpoints, newest_verified
from kdistill.distillation.arithmetic import trains_in_bf16
from kdistill.distillation.collate import Collator, VisitOrder, Visits
from kdistill.distillation.config import DistillationConfig, Term
from kdistill.distillation.cuts import (
    has_batch_statistics,
    micro_batches_each,
    refuse_cut_statistics,
    refuse_to_go_on_alone,
)
from kdistill.distillation.objective import Objective
from kdistill.distillation.two_stages import HoldSides, Stages, two_stage_schedule
from kdistill.errors import KDistillError
from kdistill.student.modeling import KDistillStudent

logger = logging.getLogger(__name__)

Validate = Callable[[KDistillStudent], dict[str, float]]
#: A batch and the number of steps done before it -> the batch with what its step draws (see `draws.StepDraws`).
DrawForStep = Callable[[dict[str, Any], int], dict[str, Any]]
#: Figures of the library that hold times or nothing: they would make two equal histories differ.
_UNKEPT = frozenset({"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"})


class DivergedError(KDistillError):
    """The loss is no longer a number."""


class DistillationTrainer(Trainer):
    """Adds the objective, the order of visits and the terms' own values in the history."""

    def __init__(
        self,
        *,
        stages: Stages,
        order: VisitOrder,
        draw: DrawForStep | None,
        last_good_dir: Path,
        warmup_share: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.student: KDistillStudent = kwargs["model"]
        self.stages = stages
        self.warmup_share = warmup_share
        self.order = order
        self.draw = draw
        self.last_good_dir = last_good_dir
        self.model_accepts_loss_kwargs = True  # our losses are already divided by the whole batch's counts
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._num_summed_steps = 0
        self._broken: set[Term] = set()

    def _running(self) -> Objective:
        """The terms of the running step."""
        return self.stages.at(self.state.global_step)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The library's schedule, or one for each of two stages."""
        switch_step = self.stages.switch_step
        if self.lr_scheduler is None and switch_step is not None:
            lengths = (switch_step, num_training_steps - switch_step)
            used = self.optimizer if optimizer is None else optimizer
            assert used is not None
            self.lr_scheduler = two_stage_schedule(used, self.args, self.warmup_share, lengths)
            self._created_lr_scheduler = True
            return self.lr_scheduler
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> VisitOrder:
        return self.order

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The library's choice without tables of which some rows are frozen: decay moves every row."""
        return [name for name in super().get_decay_parameter_names(model) if name not in self.student.partly_trained]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """A checkpoint goes on with the adapters as they are; the student alone would write them merged."""
        if state_dict is None and self.student.has_adapters:
            state_dict = self.student.state_dict()
        super()._save(output_dir, state_dict)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one step and count what each term is averaged over, in all of them together."""
        batches = list(islice(epoch_iterator, num_batches))
        if self.draw is not None:
            batches = [self.draw(batch, self.state.global_step) for batch in batches]
        objective = self._running()
        counts: dict[Term, int] = dict.fromkeys(objective.weights, 0)
        for batch in batches:
            for term, number in objective.counts(batch).items():
                counts[term] += number
        self._num_summed_steps += 1
        return batches, self._over_processes(counts)

    def _over_processes(self, counts: dict[Term, int]) -> dict[Term, int]:
        return dict(zip(counts, map(int, processes.summed([*counts.values()])), strict=True))

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Weighted sum of the terms of one micro-batch."""
        objective = self._running()
        losses = objective.losses(model, inputs, num_items_in_batch)
        if not losses:  # a micro-batch of studies that this arm learns nothing from
            return torch.zeros((), device=self.args.device, requires_grad=True)
        total = objective.total(losses)
        for term, value in losses.items():
            self._sums[term] += float(value.detach())
        if not math.isfinite(float(total.detach())):
            self._broken |= {term for term, value in losses.items() if not bool(value.isfinite())} or losses.keys()
        return total * self.args.world_size  # gradients are averaged over processes, the counts were summed

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch; after the last one of a step the gradients are those of all processes.

        Raises:
            DivergedError: The loss of the step is not finite; the weights of the last good step are saved first.
        """
        with self.accelerator.no_sync(model):  # see `average_gradients` for why not as the library does it
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._refuse_broken()
            processes.average_gradients(self.student.parameters())
        return loss

    def _refuse_broken(self) -> None:
        """All processes stop where one has met what is not a number."""
        terms = sorted(self.stages.objective.weights)
        times = processes.summed([float(term in self._broken) for term in terms])
        broken = [term for term, number in zip(terms, times, strict=True) if number]
        if not broken:
            return
        intact = all(bool(p.isfinite().all()) for p in self.student.parameters())
        if intact and processes.is_main():
            self.student.save_pretrained(self.last_good_dir)
        raise DivergedError(
            f"the loss is not finite at step {self.state.global_step + 1} (terms: {', '.join(broken)})",
            where="distillation",
            remedy="Lower distillation.learning_rate. "
            + ("The weights before this step were saved." if intact else "Resume goes back to the last checkpoint."),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term's mean over the steps since the last line.

        The micro-batches of a term, in all processes, add up to its value; one that fed none of them is left out.
        """
        if "loss" in logs and self._num_summed_steps:
            terms = sorted(self.stages.objective.weights)
            sums = processes.summed([self._sums.get(term, 0.0) for term in terms])
            fed = processes.summed([float(term in self._sums) for term in terms])
            logs |= {f"{t}_loss": s / self._num_summed_steps for t, s, f in zip(terms, sums, fed, strict=True) if f}
            self._sums.clear()
            self._num_summed_steps = 0
        super().log(logs, start_time)


class _Watch(TrainerCallback):
    """Logs validation figures every so many steps and at the end."""

    def __init__(self) -> None:
        self.trainer: DistillationTrainer | None = None
        self.validate: Validate | None = None
        self.validation_steps = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log validation figures where they are due, leaving the training figures of the same step their line.

        The main process works them out and all log them, so that their histories are equal.
        """
        step, last = state.global_step, state.max_steps
        trainer, validate = self.trainer, self.validate
        if validate is not None and trainer is not None and (not step % self.validation_steps or step == last):
            due = control.should_log
            trainer.log(processes.said_by_main(lambda: validate(trainer.student)))
            control.should_log = due  # any log clears it, and the training figures of this step would be lost


@dataclass(frozen=True)
class Plan:
    """What one training follows beside the recipe's settings; every process of a training is given the same.

    `on_switch`, `validate` and `on_progress` are called in the main process alone.

    Attributes:
        num_steps: Optimiser steps.
        seed: Seed of the order (and of dropout).
        checkpoints_dir: Where checkpoints are kept, and found after an interruption.
        text_every: Of so many visits one decodes texts.
        switch_step: Steps of the visual stage, after which the vision side is held still and the texts begin (see
            `two_stages`); None trains all terms together.
        on_switch: Called with the model at the end of the visual stage.
        draw: What each step draws at random, by its number.
        validate: Figures to log on the way; must not draw random numbers.
        on_progress: Called with (steps done, steps in all).
    """

    num_steps: int
    seed: int
    checkpoints_dir: Path
    text_every: int = 1
    switch_step: int | None = None
    on_switch: Callable[[KDistillStudent], None] | None = None
    draw: DrawForStep | None = None
    validate: Validate | None = None
    on_progress: Callable[[int, int], None] | None = None


def training_arguments(config: DistillationConfig, plan: Plan, micro_batch: int) -> TrainingArguments:
    """Trainer's settings: no printing, no trackers, one process unless torchrun starts more.

    Raises:
        ConfigError: The batch cannot be shared out among the processes.
    """
    arguments = TrainingArguments(
        output_dir=str(plan.checkpoints_dir),
        max_steps=plan.num_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=micro_batches_each(config.batch_size, micro_batch, processes.number()),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup_share * plan.num_steps),
        weight_decay=config.weight_decay,
        adam_beta2=0.98,  # a run of some hundred steps ends before 0.999 has forgotten its start
        max_grad_norm=config.max_grad_norm,
        bf16=trains_in_bf16(config.bf16),
        use_cpu=not torch.cuda.is_available(),
        seed=plan.seed,
        data_seed=plan.seed,
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=config.data_workers,
        # A worker that is forked shares the memory-mapped images; any other start would copy them all.
        dataloader_multiprocessing_context="fork" if config.data_workers else None,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # we average gradients, after the step's last micro-batch
    )
    # Else one process that sees several GPUs copies the student to all of them, each with a micro-batch of its own.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def train(
    model: KDistillStudent, objective: Objective, collator: Collator, config: DistillationConfig, plan: Plan
) -> list[dict[str, float]]:
    """Train a student in place; goes on from the newest checkpoint that verifies. Adapters are merged at the end.

    Out of memory on an accelerator, the micro-batch is halved at the same effective batch, which changes no loss; it
    starts again from the newest checkpoint, or from the first weights.

    Where torchrun started several processes they share each step's batch, and the student is that of one process up to
    rounding (dropout alone falls otherwise). Every process builds the same arguments and calls this; weights
    and history are equal in all of them afterwards.

    Args:
        model: Trained in place.
        objective: The arm's terms.
        collator: Images and targets.
        config: Rates, sizes, intervals.
        plan: Steps, seed, stages, and who is told.

    Returns:
        The history, one mapping a line.

    Raises:
        ConfigError: The batch cannot be cut, or not be shared out among the processes.
        DivergedError: The loss is not finite.
        EnvironmentFault: One of several processes ran out of memory.
        Interrupted: `plan.on_progress` raised it; a checkpoint was saved first.
    """
    refuse_cut_statistics(model, config.batch_size, config.micro_batch, processes.number())
    if config.pack_texts and not model.pack_texts():
        logger.info("the decoder cannot keep texts of one row apart: every text is padded to its chunk's longest")
    if config.gradient_checkpointing:
        model.checkpoint_activations()
    stages, micro_batch = Stages(objective, plan.switch_step), config.micro_batch
    start = {} if has_batch_statistics(model) else _copy_of(model)
    while True:
        try:
            history = _train_once(model, stages, collator, config, plan, micro_batch)
            break
        except torch.OutOfMemoryError as error:
            if micro_batch == 1 or micro_batch % 2 or has_batch_statistics(model):
                raise
            micro_batch //= 2
            refuse_to_go_on_alone(micro_batch, error)
            if newest_verified(plan.checkpoints_dir) is None:
                model.load_state_dict(start)  # else the steps that it had time for would count twice
            logger.warning("out of memory: going on with a micro-batch of %d", micro_batch)
    model.hold(None)
    model.merge_adapters()
    model.eval()
    # Sorted keys: a resumed run reads the older lines back from trainer_state.json, in another order.
    return [{key: line[key] for key in sorted(line) if key not in _UNKEPT} for line in history if _kept(line)]


def _train_once(
    model: KDistillStudent,
    stages: Stages,
    collator: Collator,
    config: DistillationConfig,
    plan: Plan,
    micro_batch: int,
) -> list[dict[str, float]]:
    model.hold(None)  # or the optimiser would not know what was held when memory ran out
    watch = ReportProgress(plan.on_progress, stop_every=config.logging_steps)
    trainer = _trainer(model, stages, collator, config, plan, watch, micro_batch)
    if plan.switch_step is not None:
        trainer.add_callback(HoldSides(model, plan.switch_step, plan.on_switch))
    checkpoint = processes.said_by_main(lambda: newest_verified(plan.checkpoints_dir))  # it removes damaged ones
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    watch.reraise()
    history: list[dict[str, float]] = trainer.state.log_history
    return history


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _kept(line: dict[str, float]) -> bool:
    return "train_runtime" not in line


def _trainer(
    model: KDistillStudent,
    stages: Stages,
    collator: Collator,
    config: DistillationConfig,
    plan: Plan,
    progress: ReportProgress,
    micro_batch: int,
) -> DistillationTrainer:
    watch = _Watch()
    num_studies = len(collator.targets.studies)
    trainer = DistillationTrainer(
        stages=stages,
        warmup_share=config.warmup_share,
        order=VisitOrder(num_studies, plan.num_steps * config.batch_size, plan.seed, plan.text_every),
        draw=plan.draw,
        last_good_dir=plan.checkpoints_dir / "last-good",
        model=model,
        args=training_arguments(config, plan, micro_batch),
        train_dataset=Visits(num_studies),
        data_collator=collator,
        callbacks=[watch, SealCheckpoints(), progress],
    )
    watch.trainer, watch.validate, watch.validation_steps = trainer, plan.validate, config.validation_steps
    trainer.remove_callback(PrinterCallback)  # only cli/ prints
    transformers_logging.disable_progress_bar()
    return trainer
