"""Several processes train the student of one: the same visits a step, terms, weights, history; who writes and stops."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.multiprocessing import start_processes

from kdistill import processes
from kdistill.checkpoints import is_sealed
from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import DistillationConfig
from kdistill.distillation.cuts import micro_batches_each, refuse_cut_statistics
from kdistill.distillation.trainer import DivergedError, Plan, train
from kdistill.errors import ConfigError, EnvironmentFault
from kdistill.interrupt import Interrupted
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student

from .parts import EVERYTHING, Parts, make_parts
from .toy import ToyDirs

NUMBER, STEPS = 2, 2


def side_by_side(folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What `work` returns in each of two processes that gloo joins, as torchrun would start them.

    Forked, so that nothing is imported again. `accelerate launch --cpu` would not do: it starts one process.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start_processes(_joined, (folder, port, work), nprocs=NUMBER, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(NUMBER)]


def _joined(rank: int, folder: Path, port: int, work: Callable[[int], Any]) -> None:
    world = {"WORLD_SIZE": NUMBER, "LOCAL_WORLD_SIZE": NUMBER, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({key: str(value) for key, value in world.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    AcceleratorState._reset_state(reset_partial_state=True)  # the fork copied that of one process
    assert processes.number() == torch.distributed.get_world_size() == NUMBER
    assert torch.distributed.get_backend() == "gloo" and processes.is_main() == (rank == 0)
    torch.save(work(rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Watched(Collator):
    """Notes which visits of the run it was asked for."""

    seen: list[int] = field(default_factory=list)

    def __call__(self, visits: Sequence[Visit]) -> dict[str, Any]:
        self.seen.extend(visit.number for visit in visits)
        return super().__call__(visits)


def run(parts: Parts, config: DistillationConfig, folder: Path, **options: Any) -> list[dict[str, float]]:
    """Every other visit has texts: of two processes with a study each the first gets all of them."""
    plan = Plan(
        **{"num_steps": STEPS, "seed": 0, "checkpoints_dir": folder, "draw": parts.draw, **options}, text_every=2
    )
    return train(parts.model, parts.objective, parts.collator, config, plan)


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parts.model.state_dict().items()}


@pytest.mark.parametrize(
    ("batch_size", "tolerance"),
    [(4, 1e-4), pytest.param(2, 1e-6, marks=pytest.mark.slow)],  # 1.3e-7 and 0 seen
)
def test_two_processes_train_the_student_of_one(
    world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig, tmp_path: Path, batch_size: int, tolerance: float
) -> None:
    """All terms and draws, stopped after the first step and gone on with.

    The main process alone validates, reports and stops; both have the history and the weights of one process. With one
    study each they add up the same numbers; with two in another order, and AdamW magnifies rounding.
    """
    sizes = {"batch_size": batch_size, "micro_batch": 1, "checkpoint_steps": 1, "validation_steps": STEPS}
    config = dense.model_copy(update=sizes)
    alone, shared, resumed = (make_parts(world, tiny, config, EVERYTHING) for _ in range(3))
    expected = run(alone, config, tmp_path / "one", validate=lambda model: {"validation_label_loss": 1.0})

    def work(rank: int) -> dict[str, Any]:
        calls: list[str] = []

        def report(done: int, total: int) -> None:
            calls.append(f"step {done} of {total}")
            if done == 1:
                raise Interrupted(signal.SIGTERM)

        def validate(model: torch.nn.Module) -> dict[str, float]:
            calls.append("validated")
            return {"validation_label_loss": 1.0}

        with pytest.raises(Interrupted):
            run(shared, config, tmp_path / "two", on_progress=report, validate=validate)
        resumed.collator = Watched(**vars(resumed.collator))
        history = run(resumed, config, tmp_path / "two", on_progress=report, validate=validate)
        return {"history": history, "weights": weights(resumed), "calls": calls, "seen": resumed.collator.seen}

    main, other = side_by_side(tmp_path, work)
    assert main["calls"] == ["step 1 of 2", "validated", "step 2 of 2"] and other["calls"] == []
    assert main["seen"] == list(range(batch_size, 2 * batch_size, 2))
    assert other["seen"] == [number + 1 for number in main["seen"]]
    for found in (main, other):
        assert [line.keys() for line in found["history"]] == [line.keys() for line in expected]
        for one, two in zip(found["history"], expected, strict=True):
            assert one == pytest.approx(two, rel=1e-4)  # 1.5e-7 seen
        for name, value in weights(alone).items():
            torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=tolerance)
    assert all(is_sealed(tmp_path / "two" / f"checkpoint-{step}") for step in (1, 2))
    assert (tmp_path / "two" / "checkpoint-1" / "rng_state_1.pth").is_file()


def test_all_processes_stop_where_one_has_to(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """At a loss that is not finite in one of them, and without memory."""
    config = short.model_copy(update={"batch_size": 4, "micro_batch": 2})
    parts, full = (make_parts(world, tiny, config, "label") for _ in range(2))

    def too_many(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        raise torch.OutOfMemoryError

    def work(rank: int) -> dict[str, torch.Tensor]:
        kept: list[dict[str, torch.Tensor]] = []

        def poison(batch: dict[str, Any], step: int) -> dict[str, Any]:
            kept.append(weights(parts))
            ill = torch.full_like(batch["label_targets"], torch.inf)
            return {**batch, "label_targets": ill} if (rank, step) == (1, 1) else batch

        with pytest.raises(DivergedError, match=r"step 2 .*label"):
            run(parts, config, tmp_path, draw=poison)
        full.model.vision.register_forward_pre_hook(too_many)
        with pytest.raises(EnvironmentFault, match="Set it to 1"):
            run(full, config, tmp_path / "full")
        return kept[-1]

    main, other = side_by_side(tmp_path, work)
    saved = load_student(tmp_path / "last-good").state_dict()
    assert all(torch.equal(main[name], value) and torch.equal(other[name], value) for name, value in saved.items())


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "number", "remedy"),
    [(16, 16, 2, "Set it to 8"), (16, 6, 2, "Set it to 2"), (16, 4, 3, "number of processes that divides 16")],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(
    batch_size: int, micro_batch: int, number: int, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{batch_size} .* {micro_batch} that {number} pro[\s\S]*{remedy}"):
        micro_batches_each(batch_size, micro_batch, number)


def test_every_process_gets_its_share_of_the_micro_batches() -> None:
    assert [micro_batches_each(16, 4, number) for number in (1, 2, 4)] == [4, 2, 1]


def test_batch_statistics_are_refused_in_several_processes(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig
) -> None:
    """Even where each step's micro-batches could be shared out, and where the batch is not cut in any of them."""
    vision = tiny.vision.model_copy(update={"norm": "batch"})
    model = make_parts(world, tiny.model_copy(update={"vision": vision}), short, "label").model
    refuse_cut_statistics(model, 8, 8, 1)
    with pytest.raises(ConfigError, match=r"shared by 2 processes[\s\S]*Train in one process"):
        refuse_cut_statistics(model, 8, 8, 2)


def test_one_process_asks_nobody() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    processes.average_gradients([parameter])
    assert parameter.grad is None and processes.summed([0.1]) == [0.1]
    assert processes.said_by_main(lambda: 3) == 3 and not torch.distributed.is_initialized()
