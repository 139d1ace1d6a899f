"""What each training study teaches in an arm: gathered once from the stage folders, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerBase

from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.distillation.labels import (
    READINGS,
    label_targets,
    left_blank,
    load_confidence,
    load_stated_labels,
    read_lines,
    softened,
)
from kdistill.distillation.regions import RegionTable, region_of
from kdistill.distillation.teacher_targets import TeacherTargets, load_teacher_targets
from kdistill.distillation.texts import Joined, impression_of, join, rationale_tokens, report_tokens
from kdistill.errors import ConfigError, InputError
from kdistill.observations import INDEX, NUM_OBSERVATIONS, LabelState
from kdistill.records import Place, Rationale, RationaleEntry, Study, read_jsonl
from kdistill.student.config import TextOrder

RATIONALES, TEMPLATE = "rationales.jsonl", "template.jsonl"
ASPECTS: Final = "aspects.safetensors"
SIDE_CODES: Final[Mapping[str, int]] = {"left": 0, "right": 1, "bilateral": 2}


@dataclass(frozen=True)
class TrainingTargets:
    """N training studies in their published order.

    Attributes:
        studies: The studies.
        image_rows: int64 [N], rows of images.npy.
        labels: float32 [N, 14], 1, 0, NaN; under `soft_labels` a positive is the teacher's confidence in it.
        blanks: bool [N, 14], negatives that are only not mentioned.
        sides: int64 [N, 14], 0 left, 1 right, 2 bilateral, -1 not stated.
        reports: Token sequences with start and end, None where there is no report.
        rationales: Token sequences, None where there is none.
        spans: Rows of the teacher's token targets that predict rationales[n][1:], None without the token term.
        regions: int64 [N, 14], rows of `region_table`, -1 not stated.
        region_table: The numbered regions.
        statements: int64 [N, 14], rows of the statement bank, -1 not stated.
        joined: Report and rationale of a study as one text; such a study has neither in `reports` nor in `rationales`.
        teacher: The teacher's arrays, None for arms that do not use them.
    """

    studies: tuple[Study, ...]
    image_rows: np.ndarray
    labels: np.ndarray
    blanks: np.ndarray
    sides: np.ndarray
    reports: tuple[list[int] | None, ...]
    rationales: tuple[list[int] | None, ...]
    spans: tuple[tuple[int, int] | None, ...]
    regions: np.ndarray
    region_table: RegionTable
    statements: np.ndarray
    joined: tuple[Joined | None, ...]
    teacher: TeacherTargets | None


def load_query_embeddings(rationales_dir: Path) -> np.ndarray:
    """The teacher's embedding of what the literature says each observation looks like, float32 [14, D_teacher].

    Raises:
        InputError: It is missing (the rationales were made before it was published) or damaged.
    """
    path = rationales_dir / ASPECTS
    try:
        embeddings = load_file(path)["observations"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"cannot be read ({type(error).__name__}), and student.query_init is literature",
            where=str(path),
            remedy="Make the rationales stage again (delete its folder, then kdistill run RECIPE --resume), or set "
            "student.query_init=random.",
        ) from error
    return embeddings.astype(np.float32)


def derangement(patients: Sequence[str], seed: int) -> np.ndarray:
    """For each study the index of one of another patient; every study is taken once (int64 [N]).

    Studies are listed patient by patient in a random order and shifted by the size of the largest patient, so that no
    study meets its own patient.

    Raises:
        InputError: One patient has more than half of the studies: there is no such assignment.
    """
    generator = np.random.default_rng(seed)
    names, group = np.unique(np.asarray(patients), return_inverse=True)
    sizes = np.bincount(group, minlength=len(names))
    if len(patients) == 0 or 2 * sizes.max() > len(patients):
        raise InputError("one patient has more than half of the training rationales: they cannot be shuffled")
    rank = generator.permutation(len(names))[group]
    order = np.lexsort((generator.random(len(patients)), rank))
    donors = np.empty(len(patients), dtype=np.int64)
    donors[order] = np.roll(order, -int(sizes.max()))
    return donors


def check_vocabularies(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """The token term compares distributions over one vocabulary.

    Raises:
        ConfigError: The vocabularies differ; both sizes are named.
    """
    if student.get_vocab() != teacher.get_vocab():
        raise ConfigError(
            f"the token term needs one vocabulary: the student's has {len(student)} entries, the teacher's "
            f"{len(teacher)}" + (" (other tokens)" if len(student) == len(teacher) else ""),
            where="distillation.weights.token",
            remedy="Set distillation.weights.token=0 (the other terms still work), or student.language.kind=llama.",
        )


def build_targets(
    studies: Sequence[Study],
    arm: ArmConfig,
    config: DistillationConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels_dir: Path,
    rationales_dir: Path,
    seed: int,
    count: Callable[[str, int], None],
    text_order: TextOrder = "apart",
) -> TrainingTargets:
    """Gather what an arm learns from the training studies.

    Args:
        studies: The training split, in published order.
        arm: What the arm may use; nothing else is read.
        config: Policies and lengths.
        tokenizer: The student's.
        labels_dir: The labels stage.
        rationales_dir: The rationales stage.
        seed: Seed of the shuffled_teacher control.
        count: Receives every drop and cut by name.
        text_order: How report and rationale follow each other in the student.
    """
    stated = load_stated_labels(arm.label_source, labels_dir, rationales_dir)
    uses_labels = "label" in arm.terms
    empty = np.full((len(studies), NUM_OBSERVATIONS), np.nan, dtype=np.float32)
    rationales, index = _assigned_rationales(studies, arm, rationales_dir, seed, count)
    teacher = _teacher_targets(arm, rationales_dir)
    texts, spans = rationale_tokens(rationales, index, teacher, arm, config, tokenizer, count)
    reports = tuple(
        report_tokens(study, impression_of(study, rationale, arm, count), tokenizer, config, count)
        for study, rationale in zip(studies, rationales, strict=True)
    )
    reports, texts, joined = join(reports, texts, spans, text_order)
    regions, table = _regions(rationales if "where" in arm.terms else [None] * len(studies), arm.sites, count)
    return TrainingTargets(
        studies=tuple(studies),
        image_rows=np.array([study.images[0].row for study in studies], dtype=np.int64),
        labels=_labels(studies, stated, arm, config, rationales_dir, count) if uses_labels else empty,
        blanks=left_blank(studies, stated),
        sides=_sides(studies, arm, rationales_dir),
        reports=reports,
        rationales=texts,
        spans=spans,
        regions=regions,
        region_table=table,
        statements=_statements(index, teacher if "semantic" in arm.terms else None),
        joined=joined,
        teacher=teacher,
    )


def _labels(
    studies: Sequence[Study],
    stated: Mapping[str, Mapping[str, LabelState]],
    arm: ArmConfig,
    config: DistillationConfig,
    rationales_dir: Path,
    count: Callable[[str, int], None],
) -> np.ndarray:
    targets = label_targets(studies, stated, config, count)
    if not config.soft_labels:
        return targets
    return softened(targets, studies, load_confidence(arm.label_source, rationales_dir))


def _assigned_rationales(
    studies: Sequence[Study],
    arm: ArmConfig,
    rationales_dir: Path,
    seed: int,
    count: Callable[[str, int], None],
) -> tuple[list[Rationale | None], list[int | None]]:
    """For each study its rationale and that one's number in the file, after the arm's shuffling."""
    match arm.rationale_source:
        case "none":
            return [None] * len(studies), [None] * len(studies)
        case "template":
            records = list(read_jsonl(rationales_dir / TEMPLATE, Rationale))
        case "teacher" | "shuffled_teacher":
            records = list(read_jsonl(rationales_dir / RATIONALES, Rationale))
    number = {record.study_id: position for position, record in enumerate(records)}
    index = [number.get(study.study_id) for study in studies]
    count("study_without_rationale", index.count(None))
    if arm.rationale_source == "shuffled_teacher":
        having = [row for row, position in enumerate(index) if position is not None]
        donors = derangement([studies[row].patient_id for row in having], seed)
        original = list(index)
        for row, donor in zip(having, donors.tolist(), strict=True):
            index[row] = original[having[donor]]
    return [records[position] if position is not None else None for position in index], index


def _teacher_targets(arm: ArmConfig, rationales_dir: Path) -> TeacherTargets | None:
    if arm.rationale_source in ("none", "template") or not {"token", "semantic"} & set(arm.terms):
        return None
    return load_teacher_targets(rationales_dir)


def _regions(
    rationales: Sequence[Rationale | None], place: Place, count: Callable[[str, int], None]
) -> tuple[np.ndarray, RegionTable]:
    entries = [(row, entry) for row, rationale in enumerate(rationales) if rationale for entry in rationale.entries]
    table = RegionTable((region_of(entry) for _, entry in entries), place=place)
    rows = np.full((len(rationales), NUM_OBSERVATIONS), -1, dtype=np.int64)
    for row, entry in entries:
        rows[row, INDEX[entry.observation]] = table.row(region_of(entry))
    match place:
        case "mirrored":
            _count_mirrored(rows, table, count)
        case "displaced":
            _count_displaced(rows, len({(row, entry.observation) for row, entry in entries}), count)
    return rows, table


def _count_mirrored(regions: np.ndarray, table: RegionTable, count: Callable[[str, int], None]) -> None:
    """What the control moves: most denials and findings without a side look the same in a mirror."""
    alike = table.alike_on_both_sides()[regions[regions >= 0]]
    count("where_region_mirrored", int((~alike).sum()))
    count("where_region_alike_on_both_sides", int(alike.sum()))


def _count_displaced(regions: np.ndarray, num_stated: int, count: Callable[[str, int], None]) -> None:
    """What the control moves; a site that fills the film has no other place, and its statements no where term."""
    displaced = int((regions >= 0).sum())
    count("where_region_displaced", displaced)
    count("where_region_without_another_place", num_stated - displaced)


def _statements(index: Sequence[int | None], teacher: TeacherTargets | None) -> np.ndarray:
    rows = np.full((len(index), NUM_OBSERVATIONS), -1, dtype=np.int64)
    if teacher is not None:
        for row, position in enumerate(index):
            if position is not None:
                rows[row] = teacher.entry_statement[position]
    return rows


def _sides(studies: Sequence[Study], arm: ArmConfig, rationales_dir: Path) -> np.ndarray:
    """Stated sides by the arm's own label source (never by shuffled rationales)."""
    rows = np.full((len(studies), NUM_OBSERVATIONS), -1, dtype=np.int64)
    if "side" not in arm.terms:
        return rows
    stated = _explicit_sides(rationales_dir) if arm.label_source == "explicit" else _read_sides(rationales_dir)
    for row, study in enumerate(studies):
        for observation, side in stated.get(study.study_id, {}).items():
            rows[row, INDEX[observation]] = SIDE_CODES[side]
    return rows


def _explicit_sides(rationales_dir: Path) -> dict[str, dict[str, str]]:
    records = read_jsonl(rationales_dir / TEMPLATE, Rationale)
    return {record.study_id: _entry_sides(record.entries) for record in records}


def _entry_sides(entries: Sequence[RationaleEntry]) -> dict[str, str]:
    return {e.observation: e.side for e in entries if e.side is not None and e.state != "absent"}


def _read_sides(rationales_dir: Path) -> dict[str, dict[str, str]]:
    return {
        line["study_id"]: {
            item["observation"]: item["side"]
            for item in line["items"]
            if item["side"] is not None and item["state"] != "absent"
        }
        for line in read_lines(rationales_dir / READINGS)
    }
