"""Two stages: what each of them moves, resume bit for bit from either, and arms that cannot be split."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdistill.artifact import StageWriter
from kdistill.checkpoints import newest_verified
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.stage import VISION_SIDE, build_student
from kdistill.distillation.trainer import Plan, train, training_arguments
from kdistill.distillation.two_stages import (
    Stages,
    load_vision_side,
    save_vision_side,
    switch_step,
    two_stage_schedule,
)
from kdistill.errors import WeightsError
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student

from .parts import Parts, make_parts
from .toy import ToyDirs

STEPS, SWITCH = 8, 4
State = dict[str, torch.Tensor]


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def student(tiny: StudentConfig) -> StudentConfig:
    """With dropout and batch statistics: both must stand still with the vision side."""
    return tiny.model_copy(update={"dropout": 0.1, "vision": tiny.vision.model_copy(update={"norm": "batch"})})


def run(parts: Parts, config: DistillationConfig, folder: Path, **options: object) -> list[dict]:
    plan = Plan(num_steps=STEPS, seed=0, checkpoints_dir=folder, switch_step=SWITCH, **options)
    return train(parts.model, parts.objective, parts.collator, config, plan)


def copy(model: torch.nn.Module) -> State:
    """All weights; the thresholds of decisions are set after training."""
    return {name: value.clone() for name, value in model.state_dict().items() if not name.endswith("decision_logits")}


def sees(name: str) -> bool:
    return name.split(".")[0] in ("vision", "queries", "semantic")


def equal(one: State, two: State) -> dict[str, bool]:
    return {name: torch.equal(value, two[name]) for name, value in one.items()}


@pytest.fixture(scope="module")
def uninterrupted(
    world: ToyDirs, student: StudentConfig, short: DistillationConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[State, State, State, list[dict]]:
    """Weights before, at the switch and after, and the history."""
    parts, at_switch = make_parts(world, student, short, "full"), {}
    before = copy(parts.model)
    history = run(parts, short, tmp_path_factory.mktemp("whole"), on_switch=lambda model: at_switch.update(copy(model)))
    return before, at_switch, copy(parts.model), history


def test_each_stage_moves_its_own_half_and_nothing_else(uninterrupted: tuple) -> None:
    before, at_switch, after, _ = uninterrupted
    assert at_switch.keys() == before.keys()
    for name, same in equal(before, at_switch).items():
        assert same != sees(name), f"{name} in the visual stage"
    for name, same in equal(at_switch, after).items():
        assert same == sees(name), f"{name} in the reasoning stage"


def test_history_holds_the_terms_of_the_stage(uninterrupted: tuple) -> None:
    _, _, _, history = uninterrupted
    for line in history:
        texts = {"report_loss", "rationale_loss", "token_loss"}
        seen = {key for key in line if key.endswith("_loss")}
        visual = {"label_loss", "side_loss", "semantic_loss", "where_loss"}
        assert seen == (visual if line["step"] <= SWITCH else texts)


@pytest.mark.parametrize(("killed_at", "resumed_from"), [(3, 2), (5, 4), (7, 6)])
def test_resumed_runs_equal_the_uninterrupted_one_bit_for_bit(
    world: ToyDirs,
    student: StudentConfig,
    short: DistillationConfig,
    tmp_path: Path,
    uninterrupted: tuple,
    killed_at: int,
    resumed_from: int,
) -> None:
    """In the visual stage, right at the switch, in the reasoning stage."""
    config = short.model_copy(update={"checkpoint_steps": 2})

    def kill(done: int, total: int) -> None:
        if done == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run(make_parts(world, student, short, "full"), config, tmp_path, on_progress=kill)
    assert newest_verified(tmp_path) == tmp_path / f"checkpoint-{resumed_from}"
    parts = make_parts(world, student, short, "full")
    history = run(parts, config, tmp_path)
    _, _, after, expected = uninterrupted
    assert all(equal(copy(parts.model), after).values())
    assert history == expected


def test_a_line_of_the_history_never_mixes_stages(
    world: ToyDirs, student: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    config = short.model_copy(update={"logging_steps": 3, "checkpoint_steps": 6})
    history = run(make_parts(world, student, short, "full"), config, tmp_path)
    assert [line["step"] for line in history] == [3, 4, 6]
    assert ["label_loss" in line for line in history] == [True, True, False]


def test_no_text_is_decoded_in_the_visual_stage(
    world: ToyDirs, student: StudentConfig, short: DistillationConfig
) -> None:
    parts, passes = make_parts(world, student, short, "full"), []
    parts.model.language.register_forward_hook(lambda *_: passes.append(1))
    parts.model.language.base_model.register_forward_hook(lambda *_: passes.append(1))
    stages, batch = Stages(parts.objective, SWITCH), parts.batch()
    for step, decodes in ((SWITCH - 1, False), (SWITCH, True)):
        objective = stages.at(step)
        objective.losses(parts.model, batch, objective.counts(batch))
        assert bool(passes) == decodes


def test_a_reasoning_stage_without_texts_leaves_the_vision_side(
    world: ToyDirs, student: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    """Weight decay and momentum would move it, if its gradient were zero instead of none."""
    parts, at_switch = make_parts(world, student, short, "full"), {}
    silent = replace(
        parts.targets,
        reports=(None,) * len(parts.targets.studies),
        rationales=(None,) * len(parts.targets.studies),
    )
    parts.collator = replace(parts.collator, targets=silent)
    run(parts, short, tmp_path, on_switch=lambda model: at_switch.update(copy(model)))
    assert all(same for name, same in equal(at_switch, copy(parts.model)).items() if sees(name))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_each_stage_has_a_schedule_of_its_own(schedule: str, tmp_path: Path) -> None:
    config = DistillationConfig(schedule=schedule, warmup_share=0.25)
    arguments = training_arguments(config, Plan(num_steps=12, seed=0, checkpoints_dir=tmp_path), micro_batch=16)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    multiplier = two_stage_schedule(optimizer, arguments, config.warmup_share, (8, 4)).lr_lambdas[0]
    rise = [0.0, 0.5]
    fall = {
        "cosine": [(1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)],
        "linear": [1 - n / 6 for n in range(6)],
        "constant_with_warmup": [1.0] * 6,
    }[schedule]
    assert [multiplier(step) for step in range(8)] == pytest.approx(rise + fall)
    assert [multiplier(step) for step in (8, 9)] == pytest.approx([0.0, 1.0])


def test_arms_that_cannot_be_split_stay_joint(short: DistillationConfig) -> None:
    config = short.model_copy(update={"stages": "visual_then_reasoning", "visual_share": 0.6})
    joint = {name for name, arm in ARMS.items() if arm.kind == "trained" and switch_step(config, arm, 20) is None}
    assert joint == {"report_only", "report_only_long"}
    assert switch_step(config, ARMS["full"], 20) == 12 and switch_step(short, ARMS["full"], 20) is None
    assert switch_step(config, ARMS["full"], 1) is None and switch_step(config, ARMS["full"], 2) == 1


def test_the_stage_publishes_the_vision_side_of_the_switch(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    config = short.model_copy(update={"stages": "visual_then_reasoning", "num_image_visits": 48})
    for arm in ("label_patches", "report_only"):
        (tmp_path / arm).mkdir()
        build_student(
            StageWriter(tmp_path / arm),
            config,
            tiny,
            arm,
            0,
            studies_dir=world.studies,
            labels_dir=world.labels,
            rationales_dir=world.rationales,
            teacher_dir=world.teacher,
        )
    trained = load_student(tmp_path / "label_patches" / "model")
    expected = copy(trained)
    load_vision_side(trained, tmp_path / "label_patches" / VISION_SIDE)
    assert all(equal(copy(trained), expected).values()), "frozen: the published student sees as it did at the switch"
    assert not (tmp_path / "report_only" / VISION_SIDE).exists()
    events = [json.loads(line) for line in (tmp_path / "report_only" / "log.jsonl").read_text().splitlines()]
    assert [e["visual_steps"] for e in events if e["event"] == "stages"] == [None]


def test_a_vision_side_of_another_build_is_refused(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path: Path
) -> None:
    with_projection, without = (make_parts(world, tiny, short, arm).model for arm in ("full", "label"))
    save_vision_side(with_projection, tmp_path / "side.safetensors")
    with pytest.raises(WeightsError, match="no vision side of this student"):
        load_vision_side(without, tmp_path / "side.safetensors")
    with pytest.raises(WeightsError):
        load_vision_side(without, tmp_path / "missing.safetensors")
