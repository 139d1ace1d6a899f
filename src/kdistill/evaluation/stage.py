"""The evaluation stage: students and references -> scores.json, comparisons.json, calibration.json, table.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kdistill.artifact import MANIFEST, StageWriter, read_manifest
from kdistill.evaluation import calibration
from kdistill.evaluation.cohort import (
    Cohort,
    load_cohort,
    load_outputs,
    load_reference,
    subgroup_rows,
)
from kdistill.evaluation.comparisons import Field, compare_arms
from kdistill.evaluation.config import EvaluationConfig
from kdistill.evaluation.scores import (
    Entry,
    Outputs,
    Reference,
    Scope,
    all_families,
    main_families,
    make_scope,
    score_arm,
    score_floors,
    score_texts,
)
from kdistill.evaluation.table import format_table
from kdistill.evaluation.targets import BLANK, UNKNOWN, binarise
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.labeler import Labeler, RememberingLabeler, labeler_id, open_labeler
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.records import Record

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def build_evaluation(
    stage: StageWriter,
    config: EvaluationConfig,
    *,
    students: Mapping[tuple[str, int], Path],
    studies_dir: Path,
    labels_dir: Path,
    labeler: Labeler | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Score every arm on the test split and compare them. Reads truth, which no earlier stage does.

    Args:
        stage: Where to write.
        config: What to score and compare.
        students: (arm, seed) -> published student folder.
        studies_dir: The studies stage.
        labels_dir: The labels stage (test_labels.jsonl is the reference "report").
        labeler: Reads generated texts; the project's own rules if None. It must be the one that wrote labels_dir.
        on_progress: Called with (steps done, steps).

    Raises:
        InputError: An arm lacks test studies, or a file is damaged.
    """
    labeler = RememberingLabeler(labeler or open_labeler(RulesLabelerConfig()))
    cohort = load_cohort(studies_dir, "test")
    steps = _Steps(len(students), on_progress)
    arms = _load_arms(students, cohort, labeler, config, steps)
    references = _references(stage, cohort, config, studies_dir, labels_dir, labeler)
    steps.expect(len(references) * len(arms))
    lead = references[0]
    entries: list[Entry] = []
    for reference in references:
        groups = config.subgroups if reference is lead else tuple(by for by in config.subgroups if by == "source")
        entries += _score(arms, reference, cohort, config.model_copy(update={"subgroups": groups}), labeler, steps)
    entries += _score_text_arms(arms, cohort, config)
    field = Field(arms, lead, _scope(cohort, lead, config), [e for e in entries if _leads(e, lead)])
    comparisons, mixed = compare_arms(field, config), mixed_arithmetic(students)
    if mixed is not None:
        logger.warning("%s", mixed)
    scores = [entry.score for entry in entries]
    _write_records(stage.dir / "scores.json", scores)
    _write_records(stage.dir / "comparisons.json", comparisons)
    _write_json(stage.dir / "calibration.json", list(_reliability(arms, lead, cohort, config)))
    (stage.dir / "table.md").write_text(
        format_table(scores, comparisons, () if mixed is None else (mixed,)), encoding="utf-8"
    )
    stage.count("test_studies", len(cohort.studies))
    stage.count("scores", len(scores))
    stage.count("scores_null", sum(score.value is None for score in scores))
    stage.count("comparisons", len(comparisons))


def mixed_arithmetic(students: Mapping[tuple[str, int], Path]) -> str | None:
    """What a reader must know where some students were trained in bfloat16 and others in float32; None where none were.

    It happens where `distillation.bf16` is left to the hardware and a run was extended on another machine. Students of
    which the manifest does not say it (references, older runs) are left aside.
    """
    named: dict[int, list[str]] = {0: [], 1: []}
    for (arm, seed), folder in sorted(students.items()):
        if (folder / MANIFEST).is_file():
            told = read_manifest(folder).counts.get("trained_in_bfloat16")
            if told is not None:
                named[told].append(f"{arm}/seed-{seed}")
    if not (named[0] and named[1]):
        return None
    return f"Trained in float32: {', '.join(named[0])}; in bfloat16: {', '.join(named[1])}. They differ in this, too."


class _Steps:
    """Counts steps for whoever shows progress."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.done, self.total, self._on_progress = 0, total, on_progress

    def expect(self, more: int) -> None:
        """Add steps that are now known."""
        self.total += more

    def step(self) -> None:
        """One step is done."""
        self.done += 1
        if self._on_progress is not None:
            self._on_progress(self.done, self.total)


def _load_arms(
    students: Mapping[tuple[str, int], Path], cohort: Cohort, labeler: Labeler, config: EvaluationConfig, steps: _Steps
) -> dict[str, list[Outputs]]:
    arms: dict[str, list[Outputs]] = {}
    for (arm, seed), folder in sorted(students.items()):
        outputs = load_outputs(arm, seed, folder, cohort, labeler, with_text=config.text_scores)
        arms.setdefault(arm, []).append(outputs)
        steps.step()
    return arms


def _references(
    stage: StageWriter,
    cohort: Cohort,
    config: EvaluationConfig,
    studies_dir: Path,
    labels_dir: Path,
    labeler: Labeler,
) -> list[Reference]:
    """The references that the data have, best first; at least one, which may be empty."""
    found = []
    for kind in config.references:
        loaded = load_reference(kind, cohort, studies_dir, labels_dir, labeler)
        if loaded is not None:
            found.append(loaded[0])
            for name, count in loaded[1].items():
                stage.count(name, count)
    if not found:
        logger.warning("no reference for the test split: every score is null")
        kind = config.references[0] if config.references else "report"
        found.append(Reference(kind, np.full((len(cohort.studies), NUM_OBSERVATIONS), UNKNOWN, dtype=np.int8)))
    return found


def _scope(cohort: Cohort, reference: Reference, config: EvaluationConfig) -> Scope:
    """The studies of which the reference knows anything."""
    rows = np.flatnonzero((reference.states >= BLANK).any(axis=1))
    return make_scope(cohort.split, rows, cohort.patient_ids, num_bootstrap=config.num_bootstrap, seed=config.seed)


def _score(
    arms: Mapping[str, Sequence[Outputs]],
    reference: Reference,
    cohort: Cohort,
    config: EvaluationConfig,
    labeler: Labeler,
    steps: _Steps,
) -> Iterator[Entry]:
    whole, bins = _scope(cohort, reference, config), config.num_calibration_bins
    groups = list(_subgroups(cohort, whole, config))
    for seeds in arms.values():
        yield from score_arm(seeds, reference, whole, all_families(), labeler=labeler_id(labeler), num_bins=bins)
        for scope in groups:
            yield from score_arm(seeds, reference, scope, main_families(), labeler=labeler_id(labeler), num_bins=bins)
        steps.step()
    for scope in [whole, *(group for group in groups if (group.subgroup or "").startswith("source="))]:
        yield from score_floors(reference, scope, cohort.sources, num_bins=bins)


def _subgroups(cohort: Cohort, whole: Scope, config: EvaluationConfig) -> Iterator[Scope]:
    for by in config.subgroups:
        for name, rows in subgroup_rows(cohort, by, whole.rows).items():
            patients = {cohort.patient_ids[row] for row in rows}
            # A small source stays in: leaving it out would hide that the data are mixed.
            if by == "source" or len(patients) >= config.min_subgroup_patients:
                yield make_scope(
                    cohort.split,
                    rows,
                    cohort.patient_ids,
                    num_bootstrap=config.num_bootstrap,
                    seed=config.seed,
                    subgroup=name,
                )


def _score_text_arms(arms: Mapping[str, Sequence[Outputs]], cohort: Cohort, config: EvaluationConfig) -> list[Entry]:
    if not config.text_scores or not len(cohort.reported):
        return []
    scope = make_scope(
        cohort.split, cohort.reported, cohort.patient_ids, num_bootstrap=config.num_bootstrap, seed=config.seed
    )
    return [entry for seeds in arms.values() for entry in score_texts(seeds, scope)]


def _leads(entry: Entry, lead: Reference) -> bool:
    return entry.score.reference == lead.kind and entry.score.subgroup is None


def _reliability(
    arms: Mapping[str, Sequence[Outputs]], reference: Reference, cohort: Cohort, config: EvaluationConfig
) -> Iterator[dict[str, object]]:
    """Reliability diagram of each student: uncertain and blank as negative, all known items pooled."""
    targets = binarise(reference.states, "negative")
    for arm, seeds in arms.items():
        for outputs in seeds:
            p = outputs.probabilities
            if p is None or not len(cohort.studies) or not np.isfinite(p[targets.known]).all():
                continue
            sums = calibration.bin_sums(
                np.where(targets.known, p, 0.0), targets.positive, targets.known, config.num_calibration_bins
            )
            yield {
                "arm": arm,
                "seed": outputs.seed,
                "split": cohort.split,
                "reference": reference.kind,
                "uncertain": "negative",
                "bins": [row.model_dump() for row in calibration.reliability_table(sums)],
            }


def _write_records(path: Path, records: Iterable[Record]) -> None:
    _write_json(path, [record.model_dump(mode="json") for record in records])


def _write_json(path: Path, rows: Sequence[object]) -> None:
    """A JSON list with one record a line, so that two runs can be compared line by line. NaN is refused."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
