"""The student stage: train one arm with one seed, choose thresholds, predict. Publishing is the pipeline's business."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from kdistill.artifact import CHECKPOINTS, StageWriter
from kdistill.distillation.arithmetic import settle_arithmetic
from kdistill.distillation.assembly import (
    MODEL,
    build_collator,
    build_objective,
    privileged_teacher,
    query_embeddings,
    refuse_unfounded,
    step_draws,
    student_tokenizer,
    teacher_width,
    text_order_of,
)
from kdistill.distillation.config import ARMS, ArmConfig, DistillationConfig, active_terms
from kdistill.distillation.labels import label_targets, load_stated_labels
from kdistill.distillation.predict import Predictor, write_table
from kdistill.distillation.references import nearest_reports, template_reports
from kdistill.distillation.targets import build_targets
from kdistill.distillation.thresholds import choose_thresholds
from kdistill.distillation.trainer import Plan, train
from kdistill.distillation.two_stages import save_vision_side, switch_step
from kdistill.distillation.validation import Validation
from kdistill.errors import InputError
from kdistill.records import Study, write_jsonl
from kdistill.student.build import build_model
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import KDistillStudent, load_student
from kdistill.student.thresholds import load_thresholds, save_thresholds
from kdistill.studies.store import load_images, load_pair_images, load_pairs, load_studies
from kdistill.teacher.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

PREDICTIONS, PAIR_PREDICTIONS, HISTORY = "predictions.parquet", "pair_predictions.parquet", "history.jsonl"
#: Of a student trained in two stages: its vision side as it was before the reasoning stage.
VISION_SIDE = "vision_side.safetensors"
Progress = Callable[[int, int], None]
_STUDY_KEYS = {
    "study_id": pa.string(),
    "patient_id": pa.string(),
    "split": pa.string(),
    "arm": pa.string(),
    "seed": pa.int64(),
}
_PAIR_KEYS = {"pair_id": pa.string(), "which": pa.string(), "arm": pa.string(), "seed": pa.int64()}


def build_student(
    stage: StageWriter,
    config: DistillationConfig,
    student: StudentConfig,
    arm: str,
    seed: int,
    *,
    studies_dir: Path,
    labels_dir: Path,
    rationales_dir: Path,
    teacher_dir: Path,
    read_student_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write model/, predictions.parquet, pair_predictions.parquet and history.jsonl of one arm and seed; after training
    in two stages also vision_side.safetensors.

    Args:
        stage: Where to write; `stage.dir / "checkpoints"` survives a kill.
        config: Training settings.
        student: The model.
        arm: A name in ARMS.
        seed: Seed of weights, order and shuffling; equal in all arms.
        studies_dir: Images and reports; truth is never read here.
        labels_dir: Explicit labels.
        rationales_dir: Readings, rationales, templates, targets.
        teacher_dir: The teacher's model/ (tokenizer, and weights where the decoder starts from them).
        read_student_dir: The published student, of this seed, that an untrained reference is made from.
        on_progress: Called with (steps done, steps in all).

    Raises:
        ConfigError: The token term cannot compare two vocabularies, or nothing would train the vision side.
        DivergedError: The loss is not finite.
        InputError: An input file is missing or damaged, or there is nothing to train on.
    """
    settings = active_terms(ARMS[arm], config)
    if settings.kind != "trained":
        _build_reference(stage, config, settings, arm, seed, studies_dir, read_student_dir)
        return
    refuse_unfounded(arm, settings, student)
    folders = _Folders(studies_dir, labels_dir, rationales_dir, teacher_dir)
    tokenizer = student_tokenizer(student, settings, teacher_dir)
    model = _train(stage, config, student, settings, arm, seed, tokenizer, folders, on_progress)
    stage.device = model.device.type
    tokenizer.save_pretrained(stage.dir / MODEL)
    predictor = _predictor(model, tokenizer, settings, config)
    _save_model(stage.dir / MODEL, predictor, config, settings, studies_dir, labels_dir, rationales_dir)
    _predict_studies(stage, predictor, studies_dir, arm, seed)
    _predict_pairs(stage, predictor, studies_dir, arm, seed)


class _Folders(NamedTuple):
    """The stages that a student reads."""

    studies: Path
    labels: Path
    rationales: Path
    teacher: Path


def _train(
    stage: StageWriter,
    config: DistillationConfig,
    student: StudentConfig,
    arm: ArmConfig,
    name: str,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    folders: _Folders,
    on_progress: Progress | None,
) -> KDistillStudent:
    """Build the student and train it; its history is written."""
    studies = _split(folders.studies, "train")
    order = text_order_of(arm, student)
    targets = build_targets(
        studies,
        arm,
        config,
        tokenizer,
        labels_dir=folders.labels,
        rationales_dir=folders.rationales,
        seed=seed,
        count=stage.count,
        text_order=order,
    )
    model = build_model(
        student,
        tokenizer,
        teacher_model_dir=folders.teacher / MODEL,
        seed=seed,
        reasoning_input=arm.reasoning_input,
        text_order=order,
        teacher_hidden_size=teacher_width(arm, targets),
        query_embeddings=query_embeddings(arm, student, folders.rationales),
    )
    config = settle_arithmetic(config, stage.dir / CHECKPOINTS)
    steps = config.num_steps(name)
    stage.log("student", parameters=dict(model.parts()), terms=list(arm.terms), steps=steps, bf16=config.bf16)
    stage.count("trained_in_bfloat16", int(config.bf16 is True))
    collator = build_collator(arm, config, targets, model, load_images(folders.studies), seed, stage.count)
    plan = Plan(
        num_steps=steps,
        seed=seed,
        checkpoints_dir=stage.dir / CHECKPOINTS,
        text_every=config.arm_text_every(arm),
        switch_step=_switch_step(stage, config, arm, name),
        on_switch=lambda trained: save_vision_side(trained, stage.dir / VISION_SIDE),
        draw=step_draws(arm, config, tokenizer, seed),
        validate=Validation.load(*folders[:3], arm, config, tokenizer, model),
        on_progress=on_progress,
    )
    objective = build_objective(arm, config, targets, privileged_teacher(arm, config, folders.teacher, studies))
    write_jsonl(stage.dir / HISTORY, train(model, objective, collator, config, plan))
    return model


def _split(studies_dir: Path, split: str) -> list[Study]:
    studies = [study for study in load_studies(studies_dir) if study.split == split]
    if not studies and split == "train":
        raise InputError("no study is in the training split", where=str(studies_dir))
    return studies


def _switch_step(stage: StageWriter, config: DistillationConfig, arm: ArmConfig, name: str) -> int | None:
    switch = switch_step(config, arm, config.num_steps(name))
    if config.stages != "joint":
        reason = None if switch is not None else "the arm has no visual terms, or no texts"
        stage.log("stages", visual_steps=switch, joint_because=reason)
    return switch


def _predictor(
    model: KDistillStudent, tokenizer: PreTrainedTokenizerBase, arm: ArmConfig, config: DistillationConfig
) -> Predictor:
    return Predictor(
        model=model,
        tokenizer=tokenizer,
        has_label_head=arm.has_label_head,
        writes_rationale=bool({"rationale", "token"} & set(arm.terms)),
        batch_size=config.prediction_batch,
        max_new_tokens=config.max_new_tokens,
        blanked=arm.blank_image,
    )


def _predict_studies(stage: StageWriter, predictor: Predictor, studies_dir: Path, arm: str, seed: int) -> None:
    studies = [*_split(studies_dir, "validate"), *_split(studies_dir, "test")]
    said = predictor.predict(load_images(studies_dir), [study.images[0].row for study in studies])
    rows = ({**_keys(study, arm, seed), **row} for study, row in zip(studies, said, strict=True))
    stage.count("predicted_studies", write_table(stage.dir / PREDICTIONS, rows, _STUDY_KEYS))


def _keys(study: Study, arm: str, seed: int) -> dict[str, Any]:
    return {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "split": study.split,
        "arm": arm,
        "seed": seed,
    }


def _predict_pairs(stage: StageWriter, predictor: Predictor, studies_dir: Path, arm: str, seed: int) -> None:
    """Counterfactual pairs; an image that stands in several pairs is read once."""
    pairs, images = load_pairs(studies_dir), load_pair_images(studies_dir)
    if not pairs or images is None:
        return
    rows = sorted({row for pair in pairs for row in (pair.before_row, pair.after_row)})
    said = dict(zip(rows, predictor.predict(images, rows), strict=True))
    lines = _pair_lines(pairs, said, arm, seed)
    stage.count("predicted_pair_images", write_table(stage.dir / PAIR_PREDICTIONS, lines, _PAIR_KEYS))


def _pair_lines(
    pairs: Sequence[Any], said: Mapping[int, dict[str, Any]], arm: str, seed: int
) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        for which, row in (("before", pair.before_row), ("after", pair.after_row)):
            yield {"pair_id": pair.pair_id, "which": which, "arm": arm, "seed": seed, **said[row]}


def _save_model(
    model_dir: Path,
    predictor: Predictor,
    config: DistillationConfig,
    arm: ArmConfig,
    studies_dir: Path,
    labels_dir: Path,
    rationales_dir: Path,
) -> None:
    """Choose thresholds on the validation split, labelled like the arm's training data; save weights, then thresholds.

    In this order, because a decoder that is told decisions keeps the thresholds in its weights.
    """
    if not arm.has_label_head:
        predictor.model.save_pretrained(model_dir)
        return
    studies = _split(studies_dir, "validate")
    stated = load_stated_labels(arm.label_source, labels_dir, rationales_dir)
    targets = label_targets(studies, stated, config, lambda name, n: None)
    seen = predictor.encode(load_images(studies_dir), [study.images[0].row for study in studies])
    values, positives = choose_thresholds(seen.probabilities, targets)
    predictor.model.decide_at(values)
    predictor.model.save_pretrained(model_dir)
    save_thresholds(model_dir, values, arm.label_source, positives)


def _build_reference(
    stage: StageWriter,
    config: DistillationConfig,
    arm: ArmConfig,
    name: str,
    seed: int,
    studies_dir: Path,
    read_student_dir: Path | None,
) -> None:
    if read_student_dir is None or arm.reads_student is None:
        raise InputError(f"arm {name} needs the published student of the arm {arm.reads_student!r} with this seed")
    model_dir = read_student_dir / MODEL
    tokenizer = load_tokenizer(str(model_dir))
    predictor = _predictor(load_student(model_dir), tokenizer, ARMS[arm.reads_student], config)
    train_studies = [study for study in _split(studies_dir, "train") if study.report.strip()]
    say = _reference(arm, predictor, load_images(studies_dir), train_studies, model_dir)
    studies = [*_split(studies_dir, "validate"), *_split(studies_dir, "test")]
    said = say(load_images(studies_dir), [study.images[0].row for study in studies])
    rows = ({**_keys(study, name, seed), **row} for study, row in zip(studies, said, strict=True))
    stage.count("predicted_studies", write_table(stage.dir / PREDICTIONS, rows, _STUDY_KEYS))
    pairs, images = load_pairs(studies_dir), load_pair_images(studies_dir)
    if pairs and images is not None:
        numbers = sorted({row for pair in pairs for row in (pair.before_row, pair.after_row)})
        by_row = dict(zip(numbers, say(images, numbers), strict=True))
        lines = _pair_lines(pairs, by_row, name, seed)
        stage.count("predicted_pair_images", write_table(stage.dir / PAIR_PREDICTIONS, lines, _PAIR_KEYS))
    write_jsonl(stage.dir / HISTORY, [])


def _reference(
    arm: ArmConfig, predictor: Predictor, train_images: np.ndarray, train_studies: Sequence[Study], model_dir: Path
) -> Callable[[np.ndarray, Sequence[int]], list[dict[str, Any]]]:
    if arm.kind == "nearest_report":
        candidates = predictor.encode(train_images, [study.images[0].row for study in train_studies])
        return lambda images, rows: nearest_reports(predictor.encode(images, rows), candidates, train_studies)
    thresholds = load_thresholds(model_dir)
    if thresholds is None:
        raise InputError("the arm's student has no thresholds", where=str(model_dir))
    return lambda images, rows: template_reports(predictor.encode(images, rows), thresholds.values)
