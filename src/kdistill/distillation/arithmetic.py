"""Whether a student trains in bfloat16, and that an interrupted training goes on as it began."""

from __future__ import annotations

from pathlib import Path

import torch

from kdistill import processes
from kdistill.checkpoints import newest_verified
from kdistill.distillation.config import DistillationConfig


def trains_in_bf16(wanted: bool | None) -> bool:
    """Whether to train under bfloat16 autocast.

    Undecided, where the hardware multiplies in it. A CPU without such instructions emulates them: a step of `full` took
    1,093 ms in place of 325 ms there (batch of 16 at 128 px, one core).
    """
    if wanted is not None:
        return wanted
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def settle_arithmetic(config: DistillationConfig, checkpoints_dir: Path) -> DistillationConfig:
    """Decide `bf16`: as the recipe says, else as the checkpoints were begun, else as the hardware has it.

    Else a training that was interrupted on one machine and goes on on another would change its arithmetic half-way.

    Args:
        config: Training settings.
        checkpoints_dir: Where the decision is kept beside the checkpoints.

    Returns:
        The settings with `bf16` decided.
    """
    bf16 = processes.said_by_main(lambda: _settled(config, checkpoints_dir))
    return config.model_copy(update={"bf16": bf16})


def _settled(config: DistillationConfig, checkpoints_dir: Path) -> bool:
    marks = {True: checkpoints_dir / "bfloat16", False: checkpoints_dir / "float32"}
    resumes = newest_verified(checkpoints_dir) is not None
    begun = next((bf16 for bf16, mark in marks.items() if resumes and mark.is_file()), None)
    bf16 = trains_in_bf16(begun if config.bf16 is None else config.bf16)
    checkpoints_dir.mkdir(parents=True, exist_ok=True)
    marks[not bf16].unlink(missing_ok=True)
    marks[bf16].touch()
    return bf16
