"""The smallest recipe that goes through every stage, and the command line as a user calls it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from kdistill.cli.main import main

TINY = {
    "name": "tiny",
    "processes": 1,
    "threads": 1,
    "studies": {
        "kind": "phantom",
        "seed": 9100,
        "num_train": 40,
        "num_validate": 16,
        "num_test": 24,
        "num_pairs": 8,
        "size_px": 64,
    },
    "literature": {"sources": [{"kind": "phantom", "seed": 9100, "num_articles": 150}]},
    "teacher": {
        "kind": "from_scratch",
        "vocab_size": 700,
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 64,
        "training": {"steps": 30, "save_steps": 10, "batch_size": 4, "sequence_length": 64},
    },
    "student": {
        "image_size_px": 64,
        "hidden_size": 32,
        "pooled_patch_grid": 4,
        "vision": {"kind": "cnn", "stem_channels": 8, "middle_channels": 8, "channels": 16, "num_blocks": 1},
        "language": {"kind": "llama", "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64},
    },
    "distillation": {
        "arms": ["label", "full", "classifier_template"],
        "seeds": [0],
        "num_image_visits": 160,
        "batch_size": 8,
        "micro_batch": 8,
        "logging_steps": 5,
        "checkpoint_steps": 5,
        "validation_steps": 10,
        "max_new_tokens": 16,
    },
    "evaluation": {"num_bootstrap": 100, "num_permutations": 100},
}


#: Forks each command from a process that has imported the libraries once: they take longer than the tiny runs.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "kdistill.cli.main",
        "kdistill.audit.stage",
        "kdistill.distillation.stage",
        "kdistill.evaluation.stage",
        "kdistill.pipeline.run",
        "kdistill.teacher.stage",
    ]
)


def kdistill(*arguments: str, cwd: Path | None = None, check: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; `check` is the exit code that is expected."""
    with TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        process = _SERVER.Process(target=_command, args=(arguments, cwd or Path.cwd(), out, error))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
        done = subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read_text(), error.read_text())
    assert done.returncode == check, done.stderr[-4000:]
    return done


def _command(arguments: Sequence[str], cwd: Path, out: Path, error: Path) -> None:
    for path, descriptor in ((out, 1), (error, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(cwd)
    sys.argv = ["kdistill", *arguments]
    main()


def write_recipe(path: Path, **sections: object) -> Path:
    """The tiny recipe with some sections replaced."""
    path.write_text(yaml.safe_dump({**TINY, **sections}, sort_keys=False), encoding="utf-8")
    return path
