"""Phantom studies in the layout of the studies stage: what `write` puts into a folder, without PNG files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kdistill.artifact import StageWriter
from kdistill.records import CounterfactualPair, Side, Split, Study, StudyImage, Truth, write_jsonl
from kdistill.studies import store
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import Rendering, render_many
from kdistill.studies.phantom.reports import write_report
from kdistill.studies.phantom.world import counterfactual_plans, sample_plans

OnProgress = Callable[[int, int], None] | None


def build_phantom(stage: StageWriter, config: PhantomConfig, *, processes: int, on_progress: OnProgress) -> None:
    """Render the phantom world of a configuration (see `sample_plans` and `counterfactual_plans`)."""
    splits = sample_plans(config)
    pairs = list(counterfactual_plans(splits["test"], config))
    plans = [(split, plan) for split, found in splits.items() for plan in found]
    paired = [plan for _, _, before, after in pairs for plan in (before, after)]
    total = len(plans) + len(paired)
    rendered = render_many([p for _, p in plans] + paired, config.size_px, processes, on_progress)
    truths = _write_studies(stage, config, plans, rendered)
    for split, found in splits.items():
        stage.count(f"studies_{split}", len(found))
    stage.count("images_rendered", total)
    if pairs:
        _write_pairs(stage, pairs, rendered)
        stage.count("pairs", len(pairs))
    write_jsonl(stage.dir / store.TRUTH, truths)
    write_jsonl(stage.dir / store.REJECTED, [])


def study_of(plan: StudyPlan, split: Split, row: int, image_path: str) -> Study:
    """The study as a reader meets it: image, report and what a request form says; no truth."""
    rng = np.random.default_rng([plan.seed, 7])
    findings, impression = write_report(plan, "b" if split == "test" else "a", rng)
    return Study(
        study_id=plan.study_id,
        patient_id=plan.patient_id,
        split=split,
        images=(StudyImage(image_path=image_path, row=row, view_position=plan.view_position),),
        source="phantom",
        view_position=plan.view_position,
        sex=plan.sex,
        age=plan.age,
        findings=findings,
        impression=impression,
    )


def sides_of(plan: StudyPlan) -> dict[str, Side]:
    """Observation -> side, for the findings that have one; on both sides where they are drawn on both."""
    sides: dict[str, Side] = {}
    for finding in plan.findings:
        if finding.side is not None:
            known = sides.get(finding.observation, finding.side)
            sides[finding.observation] = finding.side if known == finding.side else "bilateral"
    return sides


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, rounded to nearest, as `images.to_square` does for files."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _write_studies(
    stage: StageWriter, config: PhantomConfig, plans: Sequence[tuple[Split, StudyPlan]], rendered: Iterator[Rendering]
) -> list[Truth]:
    images = np.empty((len(plans), config.size_px, config.size_px), dtype=np.uint8)
    studies: list[Study] = []
    truths: list[Truth] = []
    masks: list[np.ndarray] = []
    for row, (split, plan) in enumerate(plans):
        rendering = next(rendered)
        images[row] = to_bytes(rendering.image)
        studies.append(study_of(plan, split, row, f"{plan.study_id}.png"))
        if split == "test":
            rows = {name: len(masks) + index for index, name in enumerate(rendering.masks)}
            masks += [mask.astype(np.uint8) for mask in rendering.masks.values()]
            truths.append(Truth(study_id=plan.study_id, truth=plan.truth(), masks=rows, sides=sides_of(plan)))
    write_jsonl(stage.dir / store.STUDIES, studies)
    _save(stage.dir / store.IMAGES, images)
    if masks:
        _save(stage.dir / store.MASKS, np.stack(masks))
    return truths


def _write_pairs(
    stage: StageWriter, pairs: Sequence[tuple[str, str, StudyPlan, StudyPlan]], rendered: Iterator[Rendering]
) -> None:
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    records: list[CounterfactualPair] = []
    for number, (kind, observation, before, after) in enumerate(pairs):
        shown = [next(rendered), next(rendered)]
        images += [to_bytes(rendering.image) for rendering in shown]
        mask = next((r.masks[observation] for r in shown if observation in r.masks), None)
        mask_row = None
        if mask is not None:
            mask_row = len(masks)
            masks.append(mask.astype(np.uint8))
        records.append(
            CounterfactualPair(
                pair_id=f"pair-{number:05d}",
                kind=kind,  # type: ignore[arg-type]
                study_id=before.study_id,
                patient_id=before.patient_id,
                observation=observation,
                before_row=2 * number,
                after_row=2 * number + 1,
                mask_row=mask_row,
                before_side=sides_of(before).get(observation),
                after_side=sides_of(after).get(observation),
                before_truth=before.truth(),
                after_truth=after.truth(),
                shortcut_before=before.shortcut,
            )
        )
    write_jsonl(stage.dir / store.PAIRS, records)
    _save(stage.dir / store.PAIR_IMAGES, np.stack(images))
    if masks:
        _save(stage.dir / store.PAIR_MASKS, np.stack(masks))


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=False)
