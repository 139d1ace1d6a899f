"""How a step's batch is cut into micro-batches and shared out among processes, and what would not survive it."""

from __future__ import annotations

import math

import torch
from torch import nn

from kdistill import processes
from kdistill.errors import ConfigError, EnvironmentFault


def micro_batches_each(batch_size: int, micro_batch: int, num_processes: int) -> int:
    """Micro-batches of a step that each process works on.

    Args:
        batch_size: Studies in a step, over all processes.
        micro_batch: Studies in a forward pass.
        num_processes: Processes that train together.

    Raises:
        ConfigError: They cannot be shared out evenly.
    """
    if batch_size % (micro_batch * num_processes):
        fitting = math.gcd(batch_size // num_processes, micro_batch) if batch_size % num_processes == 0 else 0
        raise ConfigError(
            f"a batch of {batch_size} cannot be cut into micro-batches of {micro_batch} that {num_processes} processes "
            "share evenly",
            where="distillation.micro_batch",
            remedy=f"Set it to {fitting}: the losses stay the same."
            if fitting
            else f"Start a number of processes that divides {batch_size}, or change distillation.batch_size.",
        )
    return batch_size // (micro_batch * num_processes)


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a layer normalises by the statistics of the micro-batch (a frozen one keeps those it has)."""
    return any(isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad for module in model.modules())


def refuse_cut_statistics(model: nn.Module, batch_size: int, micro_batch: int, num_processes: int = 1) -> None:
    """Batch statistics of a part of the batch would make the loss depend on the cut.

    Raises:
        ConfigError: The model has such layers and the batch is cut, or shared by processes.
    """
    if (micro_batch != batch_size or num_processes > 1) and has_batch_statistics(model):
        cut = f"is cut into {micro_batch}" if num_processes == 1 else f"is shared by {num_processes} processes"
        raise ConfigError(
            f"the encoder normalises by batch statistics, and a batch of {batch_size} {cut}",
            where="distillation.micro_batch",
            remedy=("Set it to batch_size" if num_processes == 1 else "Train in one process")
            + ", or take an encoder without (student.vision.norm=channel of the small one).",
        )


def refuse_to_go_on_alone(micro_batch: int, error: torch.OutOfMemoryError) -> None:
    """The others wait in the middle of a step, and only whoever started the processes can end them."""
    if processes.number() > 1:
        raise EnvironmentFault(
            f"one of {processes.number()} processes that train together ran out of memory",
            where="distillation.micro_batch",
            remedy=f"Set it to {micro_batch} and start again: the losses stay the same.",
        ) from error
