"""An arm's model, objective, collator and batch, built as the stage builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdistill.distillation.assembly import (
    build_collator,
    build_objective,
    privileged_teacher,
    step_draws,
    text_order_of,
)
from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import ARMS, ArmConfig, DistillationConfig
from kdistill.distillation.draws import StepDraws
from kdistill.distillation.objective import Objective
from kdistill.distillation.targets import TrainingTargets, build_targets
from kdistill.student.build import build_model
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import KDistillStudent
from kdistill.studies.store import load_images, load_studies
from kdistill.teacher.tokenizer import load_tokenizer

from .toy import ToyDirs

#: All terms at once; the student writes its own texts in every step of `dense`.
EVERYTHING = ARMS["full"].model_copy(
    update={"terms": (*ARMS["full"].terms, "consistency", "counterfactual"), "on_policy": True}
)


@dataclass
class Parts:
    """See the module."""

    model: KDistillStudent
    objective: Objective
    collator: Collator
    targets: TrainingTargets
    draw: StepDraws | None

    def batch(self, numbers: Any = range(8), step: int = 0) -> dict[str, Any]:
        """A batch of training studies, with what a step draws for them."""
        batch = self.collator([Visit(number) for number in numbers])
        return self.draw(batch, step) if self.draw is not None else batch


def make_parts(
    world: ToyDirs,
    student: StudentConfig,
    config: DistillationConfig,
    arm: str | ArmConfig,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Parts:
    """Build the parts of an arm (by name or settings), over the teacher's vocabulary if no other is given."""
    settings = ARMS[arm] if isinstance(arm, str) else arm
    tokenizer = tokenizer or load_tokenizer(str(world.teacher / "model"))
    targets = build_targets(
        load_studies(world.studies, "train"),
        settings,
        config,
        tokenizer,
        labels_dir=world.labels,
        rationales_dir=world.rationales,
        seed=seed,
        count=lambda name, n: None,
        text_order=text_order_of(settings, student),
    )
    width = int(targets.teacher.bank.shape[1]) if targets.teacher is not None and "semantic" in settings.terms else 0
    model = build_model(
        student,
        tokenizer,
        teacher_model_dir=world.teacher / "model",
        seed=seed,
        reasoning_input=settings.reasoning_input,
        text_order=text_order_of(settings, student),
        teacher_hidden_size=width,
    )
    images = load_images(world.studies)
    collator = build_collator(settings, config, targets, model, images, seed, count=lambda name, n: None)
    objective = build_objective(
        settings, config, targets, privileged_teacher(settings, config, world.teacher, targets.studies)
    )
    return Parts(model, objective, collator, targets, step_draws(settings, config, tokenizer, seed))
