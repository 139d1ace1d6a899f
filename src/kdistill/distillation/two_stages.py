"""Two-stage training: the vision side first, then, with it held still, the side that writes.

Both stages run in one Trainer, so there is one order of visits, one history and one chain of checkpoints: which stage a
step belongs to follows from its number alone, and a resumed run finds itself in the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from kdistill.distillation.config import TEXT_TERMS, ArmConfig, DistillationConfig
from kdistill.distillation.objective import Objective
from kdistill.errors import WeightsError
from kdistill.student.modeling import KDistillStudent


def switch_step(config: DistillationConfig, arm: ArmConfig, num_steps: int) -> int | None:
    """Steps of the visual stage, or None where an arm trains jointly.

    An arm of texts alone (`report_only`, the end-to-end baseline) has nothing that could train its vision before its
    texts do, and an arm without texts has no second stage: both stay joint, at the same number of visits.
    """
    texts = set(arm.terms) & TEXT_TERMS
    if config.stages == "joint" or not texts or texts == set(arm.terms) or num_steps < 2:
        return None
    return min(max(1, round(config.visual_share * num_steps)), num_steps - 1)


@dataclass(frozen=True)
class Stages:
    """Which terms are on at which step.

    Attributes:
        objective: All terms of the arm.
        switch_step: Steps of the visual stage; None: all terms at every step.
    """

    objective: Objective
    switch_step: int | None

    def at(self, step: int) -> Objective:
        """The objective of a step; the first is step 0."""
        if self.switch_step is None:
            return self.objective
        visual = step < self.switch_step
        weights = {term: w for term, w in self.objective.weights.items() if (term not in TEXT_TERMS) == visual}
        return replace(self.objective, weights=weights)


def two_stage_schedule(
    optimizer: torch.optim.Optimizer, arguments: TrainingArguments, warmup_share: float, lengths: tuple[int, int]
) -> LambdaLR:
    """The configured schedule run through once in each stage.

    One schedule over both would hand the decoder a rate that has already decayed, and no warm-up.
    """
    shapes = [_shape(arguments, round(warmup_share * length), length) for length in lengths]

    def multiplier(step: int) -> float:
        return shapes[0](step) if step < lengths[0] else shapes[1](step - lengths[0])

    return LambdaLR(optimizer, multiplier)


def _shape(arguments: TrainingArguments, warmup_steps: int, length: int) -> Callable[[int], float]:
    """The library's multiplier of the learning rate; it gives it only to those who show it an optimiser."""
    stand_in = torch.optim.SGD([torch.zeros(1)])
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, stand_in, num_warmup_steps=warmup_steps, num_training_steps=length
    )
    assert isinstance(scheduler, LambdaLR)
    shape: Callable[[int], float] = scheduler.lr_lambdas[0]
    return shape


class HoldSides(TrainerCallback):
    """Holds the reasoning side through the visual stage, and the vision side from the switch on."""

    def __init__(
        self, student: KDistillStudent, switch_step: int, on_switch: Callable[[KDistillStudent], None] | None
    ) -> None:
        self._student = student
        self._switch_step = switch_step
        self._on_switch = on_switch

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Hold what the (perhaps resumed) step asks for; by now the optimiser knows every parameter."""
        self._student.hold("reasoning" if state.global_step < self._switch_step else "vision")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """At the end of the visual stage: the main process reports it; change sides, close the line of the history."""
        if state.global_step == self._switch_step:
            if self._on_switch is not None and state.is_world_process_zero:
                self._on_switch(self._student)
            self._student.hold("vision")
            control.should_log = True  # else one line would mix the means of both stages


def save_vision_side(model: KDistillStudent, path: Path) -> None:
    """Write the weights and statistics of the vision side (safetensors)."""
    save_file({name: value.contiguous() for name, value in _vision_side(model).items()}, path)


def load_vision_side(model: KDistillStudent, path: Path) -> None:
    """Put a saved vision side into a model of the same build.

    Raises:
        WeightsError: The file is missing, damaged or of another build.
    """
    own = _vision_side(model)
    try:
        saved = load_file(path)
        if saved.keys() != own.keys():
            raise ValueError(f"it holds {len(saved)} tensors, the model's vision side {len(own)}")
        model.load_state_dict(saved, strict=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"is no vision side of this student ({error})", where=str(path)) from error


def _vision_side(model: KDistillStudent) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part, module in model.sides()["vision"].items()
        for name, value in module.state_dict().items()
    }
