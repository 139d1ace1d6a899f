"""Training: resume bit for bit, the cut of a batch, the stop at a NaN, equal runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdistill.checkpoints import newest_verified
from kdistill.distillation.arithmetic import settle_arithmetic, trains_in_bf16
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.trainer import DivergedError, Plan, train
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student

from .parts import Parts, make_parts
from .toy import ToyDirs


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours catches it."""


def run(parts: Parts, config: DistillationConfig, folder: Path, steps: int = 6, **options: object) -> list[dict]:
    plan = Plan(num_steps=steps, seed=0, checkpoints_dir=folder, draw=parts.draw, **options)
    return train(parts.model, parts.objective, parts.collator, config, plan)


@pytest.fixture(scope="module")
def uninterrupted(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    parts = make_parts(world, tiny.model_copy(update={"dropout": 0.1}), short, "full")
    history = run(parts, short, tmp_path_factory.mktemp("whole"))
    return parts.model.state_dict(), history


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path, uninterrupted: tuple
) -> None:
    """Killed at step 5, resumed from the checkpoint of step 3, with dropout: weights and history are equal."""

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    student = tiny.model_copy(update={"dropout": 0.1})
    with pytest.raises(Killed):
        run(make_parts(world, student, short, "full"), short, tmp_path, on_progress=kill)
    assert newest_verified(tmp_path) == tmp_path / "checkpoint-3"
    parts = make_parts(world, student, short, "full")
    history = run(parts, short, tmp_path)
    weights, expected = uninterrupted
    assert all(torch.equal(value, weights[name]) for name, value in parts.model.state_dict().items())
    assert history == expected


def test_history_holds_every_term(uninterrupted: tuple, short: DistillationConfig) -> None:
    _, history = uninterrupted
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5, 6]
    for term in ("report", "label", "side", "rationale", "token", "semantic", "where"):
        assert history[-1][f"{term}_loss"] > 0
    weights = short.weights.model_dump()
    total = sum(weights[term] * history[2][f"{term}_loss"] for term in ARMS["full"].terms)
    assert history[2]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_micro_batches_train_the_same_student(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path, micro_batch: int
) -> None:
    """8x1 = 2x4 = 1x8: after three steps the logits agree (AdamW magnifies rounding in near-zero gradients)."""
    cut = short.model_copy(update={"micro_batch": micro_batch, "checkpoint_steps": 100})
    whole, parts = (make_parts(world, tiny, short, "full") for _ in range(2))
    first = run(whole, short.model_copy(update={"checkpoint_steps": 100}), tmp_path / "a", steps=3)
    second = run(parts, cut, tmp_path / "b", steps=3)
    for one, two in zip(first, second, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)  # 4e-6 seen, of 14
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    values = whole.batch()["pixel_values"]
    torch.testing.assert_close(whole.model(values).logits, parts.model(values).logits, rtol=0, atol=2e-3)


def test_a_nan_stops_the_run_and_keeps_the_last_good_weights(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    parts = make_parts(world, tiny, short, "full")
    kept: dict[str, torch.Tensor] = {}

    def poison(done: int, total: int) -> None:
        kept.update({name: value.clone() for name, value in parts.model.state_dict().items()})
        if done == 2:  # the batch of step 3 is made already
            parts.targets.labels[:] = float("inf")

    labels = parts.targets.labels.copy()
    with pytest.raises(DivergedError, match=r"step 4 .*label"):
        run(parts, short, tmp_path, on_progress=poison)
    parts.targets.labels[:] = labels
    saved = load_student(tmp_path / "last-good").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in kept.items())


def test_out_of_memory_halves_the_micro_batch_and_changes_no_weight(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """FAULTS 36: four images at once do not fit; the run goes on with two, to the weights of a run that had two."""

    def too_many(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    four, two = (short.model_copy(update={"batch_size": 4, "micro_batch": number}) for number in (4, 2))
    small, full = (make_parts(world, tiny, config, "label") for config in (two, four))
    full.model.vision.register_forward_pre_hook(too_many)
    assert run(full, four, tmp_path / "a", steps=2)[-1]["step"] == 2
    run(small, two, tmp_path / "b", steps=2)
    expected = small.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in full.model.state_dict().items())


def test_memory_that_runs_out_on_the_way_costs_no_step(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """Two steps of four fit, the third does not, and there is no checkpoint: it starts again from the first weights."""
    seen: list[int] = []

    def too_many(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(len(inputs[0]))
        if seen == [4, 4, 4]:
            raise torch.OutOfMemoryError

    sizes = {"batch_size": 4, "checkpoint_steps": 100}
    four, two = (short.model_copy(update={**sizes, "micro_batch": number}) for number in (4, 2))
    small, full = (make_parts(world, tiny, config, "label") for config in (two, four))
    full.model.vision.register_forward_pre_hook(too_many)
    run(full, four, tmp_path / "a", steps=3)
    run(small, two, tmp_path / "b", steps=3)
    assert seen == [4, 4, 4] + [2] * 6
    expected = small.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in full.model.state_dict().items())


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_training_keeps_its_arithmetic(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path, begun: bool
) -> None:
    """Left to the hardware, it goes on as it began, whatever machine it is now on; without a checkpoint it does not."""
    free = short.model_copy(update={"bf16": None})
    assert settle_arithmetic(short.model_copy(update={"bf16": begun}), tmp_path).bf16 is begun
    assert settle_arithmetic(free, tmp_path).bf16 is trains_in_bf16(None)  # nothing was trained yet
    settle_arithmetic(short.model_copy(update={"bf16": begun}), tmp_path)
    run(make_parts(world, tiny, short, "label"), short, tmp_path, steps=3)
    assert settle_arithmetic(free, tmp_path).bf16 is begun
    assert settle_arithmetic(short.model_copy(update={"bf16": not begun}), tmp_path).bf16 is not begun


def test_validation_is_logged_and_draws_no_random_number(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    student = tiny.model_copy(update={"dropout": 0.1})
    plain, watched = (make_parts(world, student, short, "label") for _ in range(2))
    run(plain, short, tmp_path / "a")
    history = run(watched, short, tmp_path / "b", validate=lambda model: {"validation_label_loss": 1.0})
    assert [line["step"] for line in history if "validation_label_loss" in line] == [3, 6]
    states = plain.model.state_dict(), watched.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_nothing_is_printed(
    world: ToyDirs,
    tiny: StudentConfig,
    short: DistillationConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(make_parts(world, tiny, short, "report_only"), short, tmp_path, steps=2)
    assert capsys.readouterr().out == ""
