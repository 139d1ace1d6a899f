"""Checkpoints that prove they are whole: sealed with hashes after each save, verified before each resume.

`transformers.Trainer` saves a checkpoint as several files; a process killed in the middle, a full disk or a flipped bit
leaves one that loads and is wrong. The seal is written last, so a checkpoint without a matching seal does not exist.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdistill import processes
from kdistill.artifact import sha256_file
from kdistill.interrupt import Interrupted, OnProgress

logger = logging.getLogger(__name__)

SEAL = "seal.json"


def seal(checkpoint_dir: Path) -> None:
    """Write seal.json: the SHA-256 of every file of the checkpoint, synced before and after."""
    hashes: dict[str, str] = {}
    for path in sorted(p for p in checkpoint_dir.rglob("*") if p.is_file() and p.name != SEAL):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        hashes[path.relative_to(checkpoint_dir).as_posix()] = sha256_file(path)
    partial = checkpoint_dir / f".{SEAL}"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(hashes, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(checkpoint_dir / SEAL)


def is_sealed(checkpoint_dir: Path) -> bool:
    """Whether the seal is there and every file matches it."""
    try:
        hashes: dict[str, str] = json.loads((checkpoint_dir / SEAL).read_text(encoding="utf-8"))
        return all(sha256_file(checkpoint_dir / name) == value for name, value in hashes.items())
    except (OSError, ValueError):
        return False


def newest_verified(checkpoints_dir: Path) -> Path | None:
    """The newest `checkpoint-<step>` whose seal holds; damaged newer ones are removed, and that is logged.

    Removed, because Trainer would otherwise count them when it rotates, and a later save of that step would mix files.
    """
    found = sorted(checkpoints_dir.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if is_sealed(checkpoint):
            return checkpoint
        logger.warning("checkpoint %s is incomplete or damaged: going back to the one before", checkpoint.name)
        shutil.rmtree(checkpoint)
    return None


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint as soon as Trainer has written it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal `checkpoint-<global step>` below the output folder, once every process has added its random state."""
        processes.wait()
        if processes.is_main():
            seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


class ReportProgress(TrainerCallback):
    """Reports each step; when the report raises `Interrupted`, Trainer saves and stops, and `reraise` lets it through.

    It stops at the next multiple of `stop_every` steps: a checkpoint between two lines of the training history would
    lose the sums of the line that it cuts, and a resumed run would not end in the same bytes. Of several processes the
    main one alone reports, and all stop at the same step.
    """

    def __init__(self, on_progress: OnProgress, *, stop_every: int) -> None:
        self._on_progress = on_progress
        self._stop_every = stop_every
        self._interrupted: Interrupted | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report (global step, steps in all)."""
        if self._on_progress is not None and self._interrupted is None and processes.is_main():
            try:
                self._on_progress(state.global_step, state.max_steps)
            except Interrupted as error:
                self._interrupted = error
        if state.global_step % self._stop_every:
            return
        self._interrupted = processes.said_by_main(lambda: self._interrupted)
        if self._interrupted is not None:
            control.should_save = control.should_training_stop = True

    def reraise(self) -> None:
        """Call after `Trainer.train`: raises what stopped it, now that the checkpoint is on disk."""
        if self._interrupted is not None:
            raise self._interrupted
