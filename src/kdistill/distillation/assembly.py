"""What an arm is put together from: its terms, tokenizer, objective and tables, and what it is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from kdistill.distillation.augment import Augmenter
from kdistill.distillation.collate import Collator
from kdistill.distillation.config import (
    HEAD_TERMS,
    TEXT_TERMS,
    ArmConfig,
    DistillationConfig,
    GeometricPhotometric,
    NoAugmentation,
)
from kdistill.distillation.consistency import statement_sequences
from kdistill.distillation.draws import StepDraws
from kdistill.distillation.objective import Objective
from kdistill.distillation.on_policy import PrivilegedTeacher
from kdistill.distillation.regions import RegionMasks
from kdistill.distillation.targets import TrainingTargets, check_vocabularies, load_query_embeddings
from kdistill.distillation.views import FrontalViews
from kdistill.errors import ConfigError
from kdistill.records import Study
from kdistill.student.config import StudentConfig, TextOrder, TransformersLanguageConfig
from kdistill.student.images import pixel_values
from kdistill.student.modeling import KDistillStudent
from kdistill.studies.frame import FrameFinder
from kdistill.teacher.language_model import load
from kdistill.teacher.tokenizer import add_special_tokens, load_tokenizer

MODEL = "model"


def refuse_unfounded(name: str, arm: ArmConfig, student: StudentConfig) -> None:
    """What an arm would learn, or be told, from something that nothing trains.

    Raises:
        ConfigError: There is such a thing.
    """
    refuse_untrained_vision(name, arm, student)
    refuse_unfounded_conclusions(name, arm, student)
    refuse_unfounded_sides(name, arm, student)
    refuse_unfounded_terms(name, arm)
    refuse_texts_out_of_place(name, arm, student)


def refuse_untrained_vision(name: str, arm: ArmConfig, student: StudentConfig) -> None:
    """An arm of texts alone learns to see through its texts, or not at all.

    Raises:
        ConfigError: Its texts' gradient is switched off.
    """
    if not student.text_gradient and set(arm.terms) <= TEXT_TERMS:
        raise ConfigError(
            f"arm {name} has only text terms ({', '.join(arm.terms)}), and their gradient stops before its vision",
            where="student.text_gradient",
            remedy="Set it to true, or leave the arm out of distillation.arms.",
        )


def refuse_unfounded_conclusions(name: str, arm: ArmConfig, student: StudentConfig) -> None:
    """Conclusions of a label head that nothing trains are noise.

    Raises:
        ConfigError: The decoder would be told them.
    """
    if student.conclusions != "none" and arm.reasoning_input != "patches" and not arm.has_label_head:
        raise ConfigError(
            f"arm {name} has no label term, and its decoder is told what the label head concludes",
            where="student.conclusions",
            remedy="Set it to none, or give distillation.weights.label a weight.",
        )


def refuse_unfounded_sides(name: str, arm: ArmConfig, student: StudentConfig) -> None:
    """Sides that nothing trained would be told to the decoder, and stand beside trained probabilities.

    Raises:
        ConfigError: The student reads sides and the arm does not train them, or the other way round.
    """
    reads, trains = student.side_source != "none", "side" in arm.terms
    if arm.has_label_head and reads and not trains:
        raise ConfigError(
            f"arm {name} has no side term, and its student reads sides",
            where="student.side_source",
            remedy="Set it to none, or give distillation.weights.side a weight.",
        )
    if trains and not reads:
        raise ConfigError(
            f"arm {name} has the side term, and its student reads no sides",
            where="distillation.weights.side",
            remedy="Set it to 0, or student.side_source to embedding.",
        )


def refuse_unfounded_terms(name: str, arm: ArmConfig) -> None:
    """A text cannot agree, and an image lose, what no label head was taught to see.

    Raises:
        ConfigError: The arm has such a term and no label term.
    """
    unfounded = sorted(HEAD_TERMS & set(arm.terms))
    if unfounded and not arm.has_label_head:
        raise ConfigError(
            f"arm {name} has no label term, and {', '.join(unfounded)} reads the label head",
            where="distillation.weights.label",
            remedy=f"Give it a weight, or set distillation.weights.{unfounded[0]}=0.",
        )


def refuse_texts_out_of_place(name: str, arm: ArmConfig, student: StudentConfig) -> None:
    """Sampled rationales and asked statements stand alone right behind the prefix, where a joined text may have none.

    Raises:
        ConfigError: The arm has such a term, and its student writes report and rationale as one text in which the
            rationale begins elsewhere (or, for sampled ones, ends elsewhere).
    """
    order = text_order_of(arm, student)
    if (arm.on_policy and order != "apart") or ("consistency" in arm.terms and order == "report_first"):
        term = "own texts" if arm.on_policy else "the consistency term"
        raise ConfigError(
            f"arm {name} trains {term} as rationales of their own, and its student writes {order.replace('_', ' ')}",
            where="student.text_order",
            remedy="Set it to apart, or leave the arm out of distillation.arms.",
        )


def student_tokenizer(student: StudentConfig, arm: ArmConfig, teacher_dir: Path) -> PreTrainedTokenizerBase:
    """The teacher's, or that of a decoder of one's own with the section tokens added.

    Raises:
        ConfigError: The arm has the token term, and the two vocabularies differ.
    """
    teacher = load_tokenizer(str(teacher_dir / MODEL))
    if not isinstance(student.language, TransformersLanguageConfig):
        return teacher
    tokenizer = load_tokenizer(student.language.path)
    add_special_tokens(tokenizer)
    if "token" in arm.terms:
        check_vocabularies(tokenizer, teacher)
    return tokenizer


def text_order_of(arm: ArmConfig, student: StudentConfig) -> TextOrder:
    """The order of an arm's texts: an arm that writes one text has none."""
    return student.text_order if {"report", "rationale"} <= set(arm.terms) else "apart"


def teacher_width(arm: ArmConfig, targets: TrainingTargets) -> int:
    """Width of the statement bank, for the semantic projection; 0 for arms without it."""
    if "semantic" not in arm.terms or targets.teacher is None:
        return 0
    return int(targets.teacher.bank.shape[1])


def query_embeddings(arm: ArmConfig, student: StudentConfig, rationales_dir: Path) -> np.ndarray | None:
    """Only for arms that learn from the teacher's text: controls must not hear it through their first weights."""
    reads_teacher = arm.rationale_source in ("teacher", "shuffled_teacher")
    return load_query_embeddings(rationales_dir) if student.query_init == "literature" and reads_teacher else None


def privileged_teacher(
    arm: ArmConfig, config: DistillationConfig, teacher_dir: Path, studies: Sequence[Study]
) -> PrivilegedTeacher | None:
    """The teacher that scores the student's own texts; None where the arm writes none in training."""
    if not arm.on_policy:
        return None
    reports = [study.report for study in studies]
    return PrivilegedTeacher(load(str(teacher_dir / MODEL)), reports, config.on_policy.max_prompt_tokens)


def step_draws(
    arm: ArmConfig, config: DistillationConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> StepDraws | None:
    """What the arm's terms draw in each step; None where they draw nothing."""
    if not arm.on_policy and not HEAD_TERMS & set(arm.terms):
        return None
    consistent = "consistency" in arm.terms
    return StepDraws(
        seed=seed,
        on_policy=config.on_policy if arm.on_policy else None,
        consistency=config.consistency if consistent else None,
        counterfactual=config.counterfactual if "counterfactual" in arm.terms else None,
        statements=statement_sequences(tokenizer) if consistent else (),
    )


def build_objective(
    arm: ArmConfig, config: DistillationConfig, targets: TrainingTargets, teacher: PrivilegedTeacher | None = None
) -> Objective:
    """The arm's terms with the configured weights and the tables that they read."""
    weights = config.weights.model_dump()
    return Objective(
        weights={term: weights[term] for term in arm.terms},
        divergence=config.divergence,
        semantic_temperature=config.semantic_temperature,
        bank=torch.from_numpy(targets.teacher.bank) if targets.teacher is not None else None,
        omission_rate=config.omission_rate,
        counterfactual=config.counterfactual if "counterfactual" in arm.terms else None,
        teacher=teacher,
        sampling_temperature=config.on_policy.temperature,
    )


def build_collator(
    arm: ArmConfig,
    config: DistillationConfig,
    targets: TrainingTargets,
    model: KDistillStudent,
    images: np.ndarray,
    seed: int,
    count: Callable[[str, int], None],
) -> Collator:
    """What turns the visits of a training into batches; no other collator augments, or draws views."""
    views = training_views(config, targets, seed, count)
    return Collator(
        images,
        targets,
        model.config,
        config.texts_per_chunk,
        arm.blank_image,
        build_region_masks(arm, config, targets, model, images, count, views),
        augmenter(arm, config, seed),
        views,
    )


def augmenter(arm: ArmConfig, config: DistillationConfig, seed: int) -> Augmenter | None:
    """What changes the training images; None where nothing does. A blank image has nothing to change or to move."""
    match config.augmentation:
        case NoAugmentation():
            return None
        case GeometricPhotometric() as settings:
            return None if arm.blank_image else Augmenter(settings, seed)


def training_views(
    config: DistillationConfig, targets: TrainingTargets, seed: int, count: Callable[[str, int], None]
) -> FrontalViews | None:
    """What chooses among a study's frontal images; None where training shows the first."""
    if config.training_view == "first":
        return None
    views = FrontalViews.of(targets.studies, seed)
    count("studies_with_several_frontal_images", views.num_with_several)
    return views


def build_region_masks(
    arm: ArmConfig,
    config: DistillationConfig,
    targets: TrainingTargets,
    model: KDistillStudent,
    images: np.ndarray,
    count: Callable[[str, int], None],
    views: FrontalViews | None = None,
) -> RegionMasks | None:
    """The where term's regions, in the standard film's frame or in that of each film; None without the term.

    A blank film has no thorax to find, so its arm keeps the standard frame.
    """
    if "where" not in arm.terms:
        return None
    if config.where_frame == "fixed" or arm.blank_image:
        return RegionMasks(targets.region_table, num_patches(model))
    several = FrameFinder().find_many(images, targets.image_rows if views is None else views.image_rows)
    count("where_frame_found", int(several.found.sum()))
    count("where_frame_fell_back", int((~several.found).sum()))
    return RegionMasks(targets.region_table, num_patches(model), several.frames)


@torch.no_grad()
def num_patches(model: KDistillStudent) -> int:
    """P of a model, by showing it one empty image."""
    size = model.config.image_size_px
    values = pixel_values(np.zeros((1, size, size), dtype=np.uint8), model.config)
    return int(model.vision(values.to(model.device)).flatten(2).shape[-1])
