"""Training on transformers backbones: resume, freezing, adapters, forgotten activations; two vocabularies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdistill.checkpoints import newest_verified
from kdistill.distillation.assembly import student_tokenizer
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.targets import check_vocabularies
from kdistill.distillation.trainer import Plan, train
from kdistill.errors import ConfigError
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student
from kdistill.teacher.tokenizer import add_special_tokens, load_tokenizer

from ..student.backbones import EYES, TONGUES, save_eye, save_tongue
from .parts import Parts, make_parts
from .toy import ToyDirs

LORA = {"rank": 4, "alpha": 8.0}
STEPS = 2


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by name."""
    root = tmp_path_factory.mktemp("checkpoints")
    save_eye(EYES["dinov2"].config, root / "dinov2")
    for name in ("qwen3", "gpt2"):
        save_tongue(name, root / name)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def make(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, folders: dict[str, Path]
) -> Callable[..., Parts]:
    """Parts of `full` with a DINOv2 encoder and a Qwen3 decoder over the teacher's vocabulary."""

    def of(vision: dict[str, Any] | None = None, language: dict[str, Any] | None = None) -> Parts:
        settings = {
            **tiny.model_dump(),
            "dropout": 0.1,
            "image_size_px": EYES["dinov2"].size,
            "vision": {"kind": "transformers", "path": str(folders["dinov2"]), **(vision or {})},
            "language": {"kind": "transformers", "path": str(folders["qwen3"]), **(language or {})},
        }
        return make_parts(world, StudentConfig.model_validate(settings), short, "full")

    return of


@pytest.fixture(scope="module")
def stepwise(short: DistillationConfig) -> DistillationConfig:
    return short.model_copy(update={"checkpoint_steps": 1, "learning_rate": 1e-3})


def run(parts: Parts, config: DistillationConfig, folder: Path, **options: Any) -> list[dict[str, float]]:
    plan = Plan(num_steps=STEPS, seed=0, checkpoints_dir=folder, **options)
    return train(parts.model, parts.objective, parts.collator, config, plan)


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parts.model.state_dict().items()}


@pytest.mark.parametrize("adapted", [False, True])
def test_resumed_at_step_one_equals_uninterrupted(
    make: Callable, stepwise: DistillationConfig, tmp_path: Path, adapted: bool
) -> None:
    """Bit for bit, with dropout; with adapters, checkpoints hold them apart and the end merges them."""
    options = ({"lora": LORA}, {"lora": LORA}) if adapted else ({}, {})
    whole, killed, resumed = (make(*options) for _ in range(3))
    expected = run(whole, stepwise, tmp_path / "whole")

    def kill(done: int, total: int) -> None:
        if done == STEPS:
            raise Killed

    with pytest.raises(Killed):
        run(killed, stepwise, tmp_path / "cut", on_progress=kill)
    assert newest_verified(tmp_path / "cut") == tmp_path / "cut" / "checkpoint-1"
    history = run(resumed, stepwise, tmp_path / "cut")
    assert history == expected
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys() and not any("lora" in name for name in first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    resumed.model.save_pretrained(tmp_path / "student")
    assert all(
        torch.equal(value, first[name]) for name, value in load_student(tmp_path / "student").state_dict().items()
    )


def moved(parts: Parts, config: DistillationConfig, folder: Path) -> dict[str, torch.Tensor]:
    """Names and differences of what training changed in encoder and decoder, seen before adapters are merged."""
    before, after = weights(parts), {}
    run(parts, config, folder, on_progress=lambda done, total: after.update(weights(parts)))
    return {
        name: after[name] - value
        for name, value in before.items()
        if name.startswith(("vision.", "language.")) and not torch.equal(after[name], value)
    }


def rows_moved(difference: torch.Tensor) -> set[int]:
    return set(difference.any(dim=1).nonzero().flatten().tolist())


def test_frozen_parts_do_not_move(make: Callable, stepwise: DistillationConfig, tmp_path: Path) -> None:
    """Weight decay included; the section tokens' rows are the exception, and the only one."""
    parts = make({"trainable": False}, {"trainable": False})
    found = moved(parts, stepwise, tmp_path)
    assert set(found) == {"language.model.embed_tokens.weight", "language.lm_head.weight"}
    assert set().union(*map(rows_moved, found.values())) == set(parts.model.config.token_ids.values())


def test_adapters_move_only_their_own_parameters(make: Callable, stepwise: DistillationConfig, tmp_path: Path) -> None:
    parts = make({"lora": LORA}, {"lora": LORA})
    found = moved(parts, stepwise, tmp_path)
    assert {name for name in found if "lora_" not in name} == parts.model.partly_trained
    for part in ("vision.", "language."):
        assert any(name.startswith(part) and "lora_B" in name for name in found)
    for name in parts.model.partly_trained:
        assert rows_moved(found[name]) <= set(parts.model.config.token_ids.values())


def test_everything_moves_where_nothing_is_frozen(make: Callable, stepwise: DistillationConfig, tmp_path: Path) -> None:
    parts = make()
    found = moved(parts, stepwise, tmp_path)
    still = {n for n, p in parts.model.named_parameters() if n.startswith(("vision.", "language.")) and n not in found}
    assert still == {"vision.model.embeddings.mask_token"}, "nothing reads it"


def test_forgetting_activations_changes_no_bit(make: Callable, stepwise: DistillationConfig, tmp_path: Path) -> None:
    kept, forgotten = make(), make()
    history = run(kept, stepwise, tmp_path / "a")
    assert run(forgotten, stepwise.model_copy(update={"gradient_checkpointing": True}), tmp_path / "b") == history
    assert all(m.gradient_checkpointing for m in forgotten.model.modules() if type(m).__name__.endswith("DecoderLayer"))
    first, second = weights(kept), weights(forgotten)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("decoder", "changes", "width"), [("qwen3", {"hidden_size": 40}, 40), ("gpt2", {"n_embd": 12}, 12)]
)
def test_encoder_student_and_decoder_differ_in_width_and_vocabulary(
    world: ToyDirs,
    tiny: StudentConfig,
    stepwise: DistillationConfig,
    tmp_path: Path,
    decoder: str,
    changes: dict[str, int],
    width: int,
) -> None:
    """Encoder 16, student 24, decoder 40 or 12, bank 12: trained, decoded from a cache, saved and loaded."""
    save_tongue(decoder, tmp_path / "decoder", **changes)
    language = {"kind": "transformers", "path": str(tmp_path / "decoder")}
    student = StudentConfig.model_validate({**tiny.model_dump(), "hidden_size": 24, "language": language})
    arm = ARMS["full_no_token"].model_copy(update={"reasoning_input": "both"})
    tokenizer = student_tokenizer(student, arm, world.teacher)
    config = stepwise.model_copy(update={"batch_size": 4, "micro_batch": 4, "checkpoint_steps": 100})
    parts = make_parts(world, student, config, arm, tokenizer=tokenizer)
    model = parts.model
    assert model.language.get_input_embeddings().weight.shape == (len(tokenizer), width)
    assert (model.config.hidden_size, model.vision.out_channels, parts.objective.bank.shape[1]) == (24, 16, 12)
    before = weights(parts)
    plan = Plan(num_steps=1, seed=0, checkpoints_dir=tmp_path / "checkpoints")
    history = train(model, parts.objective, parts.collator, config, plan)
    assert all(history[-1][f"{term}_loss"] > 0 for term in parts.objective.weights)
    moved = {name.partition(".")[0] for name, value in weights(parts).items() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in model.named_children()}
    images = parts.batch(range(4))["pixel_values"]
    texts = model.generate_text(images, slot="report", max_new_tokens=6)
    alone = [model.generate_text(image[None], slot="report", max_new_tokens=6)[0] for image in images]
    eos = model.config.token_ids["eos"]
    theirs = model.generate(images, slot="report", max_new_tokens=6, do_sample=False).tolist()
    assert texts == alone == [row[: row.index(eos)] if eos in row else row for row in theirs]
    assert len({tuple(text) for text in texts}) > 1, "a decoder that does not look would pass as well"
    model.save_pretrained(tmp_path / "student")
    loaded = load_student(tmp_path / "student")
    assert loaded.generate_text(images, slot="report", max_new_tokens=6) == texts
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_two_vocabularies_are_refused_before_anything_is_built(
    world: ToyDirs, tiny: StudentConfig, folders: dict[str, Path]
) -> None:
    own = load_tokenizer(str(folders["gpt2"]))
    add_special_tokens(own)
    teacher = load_tokenizer(str(world.teacher / "model"))
    assert len(own) == TONGUES["gpt2"][2] + 4
    with pytest.raises(ConfigError, match=rf"{len(own)} entries, the teacher's {len(teacher)}"):
        check_vocabularies(own, teacher)
    language = {"kind": "transformers", "path": str(folders["gpt2"])}
    student = StudentConfig.model_validate({**tiny.model_dump(), "language": language})
    with pytest.raises(ConfigError, match=r"distillation\.weights\.token=0"):
        student_tokenizer(student, ARMS["full"], world.teacher)
    assert student_tokenizer(student, ARMS["full_no_token"], world.teacher).get_vocab() == own.get_vocab()
