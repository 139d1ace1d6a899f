"""The parts of the audit that load models: pointing, side flips of maps, weight randomisation, constant images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdistill.audit import saliency
from kdistill.audit.config import AuditConfig
from kdistill.audit.maps import MapCases, activation_maps, attention_maps, gradient_maps, map_cases
from kdistill.audit.material import Cases, Said, TextReader
from kdistill.audit.pointing import MEASURES, Method, pointing_rows
from kdistill.audit.randomisation import PARTS, randomisation_rows
from kdistill.audit.resampling import Fraction, PatientBootstrap, fraction
from kdistill.audit.rows import AuditRow, measured, not_run
from kdistill.audit.swap import TESTS as SWAP_TESTS
from kdistill.audit.swap import Known, constant_rows
from kdistill.explain.student_reader import MODEL, StudentReader, load_reader
from kdistill.observations import INDEX
from kdistill.student.images import mean_grey
from kdistill.student.modeling import KDistillStudent
from kdistill.studies.store import load_images, load_masks, load_pair_images

logger = logging.getLogger(__name__)

FLIP = 0.95
NO_MASKS = "the data have no masks"
Readers = Mapping[str, Sequence[StudentReader]]


@dataclass(frozen=True)
class MapWork:
    """What the map tests share."""

    readers: Readers
    cases: Cases
    config: AuditConfig
    boot: PatientBootstrap
    on_step: Callable[[], None]

    def headed(self) -> dict[str, Sequence[StudentReader]]:
        """Arms whose evidence maps mean anything: those with a trained label head."""
        return {arm: seeds for arm, seeds in self.readers.items() if all(r.thresholds is not None for r in seeds)}


def load_readers(students: Mapping[tuple[str, int], Path]) -> dict[str, list[StudentReader]]:
    """Arm -> its trained students in the order of their seeds; reference arms, which have no model, are absent."""
    readers: dict[str, list[StudentReader]] = {}
    for (arm, _), path in sorted(students.items()):
        if (path / MODEL).is_dir():
            readers.setdefault(arm, []).append(load_reader(path))
    return readers


def pointing_part(work: MapWork, studies_dir: Path) -> Iterator[AuditRow]:
    """Pointing game and mask mass of all arms and methods; side flips of the maps."""
    yield from _map_flips(work, studies_dir)
    masks, arm = load_masks(studies_dir), work.config.arm
    found = None if masks is None else map_cases(work.cases, load_images(studies_dir), masks, work.config.num_studies)
    if found is None or not len(found.image):
        yield from (not_run(measure, arm, NO_MASKS) for measure in MEASURES)
        return
    headed = work.headed()
    if not headed:
        yield from (not_run(measure, arm, "no arm has a label head") for measure in MEASURES)
        return
    attention = {name: _attention(name, readers, found, work) for name, readers in headed.items()}
    grid = next(iter(attention.values())).seeds[0][1].shape[-1]
    if found.masks.shape[-1] % grid:
        why = f"masks of {found.masks.shape[-1]} pixels a side do not divide into the students' {grid} patches"
        yield from (not_run(measure, arm, why) for measure in MEASURES)
        return
    others = list(_others(work, headed, found, grid))
    yield from pointing_rows(attention, others, arm, work.boot, work.config.map_baselines, work.config.pointing_grid)
    yield not_run("pointing_game_attention_rollout", arm, "one attention layer: its rollout is the evidence map itself")


def _attention(arm: str, readers: Sequence[StudentReader], cases: MapCases, work: MapWork) -> Method:
    seeds = []
    for reader in readers:
        maps = attention_maps(reader.model, reader.shown(cases.images))
        seeds.append((cases, maps[cases.image, cases.column]))
    work.on_step()
    return Method("attention", arm, seeds)


def _others(
    work: MapWork, headed: Mapping[str, Sequence[StudentReader]], cases: MapCases, grid: int
) -> Iterator[Method]:
    config, num = work.config, len(cases.image)
    source = min(headed, key=lambda arm: (arm != config.saliency_arm, arm == config.arm, arm))
    explained = headed[source]
    note = "" if source == config.saliency_arm else f"computed on {source}: the recipe has no arm {config.saliency_arm}"
    for name, method in (("gradcam", saliency.grad_cam), ("hirescam", saliency.hires_cam)):
        maps = [activation_maps(reader.model, _shown(cases, reader), method) for reader in explained]
        yield Method(name, source, [(cases, one) for one in maps], note)
        work.on_step()
    few = cases.take(min(config.num_gradient_studies, len(cases.images)))
    gradients = gradient_maps(explained[0].model, _shown(few, explained[0]), grid, config.gradient_steps)
    first = f"first seed and {len(few.images)} studies only, for time"
    yield Method("integrated_gradients", source, [(few, gradients)], f"{first}; {note}".rstrip("; "))
    work.on_step()
    yield Method("random", "none", [(cases, saliency.random_maps(num, grid, config.seed))])
    yield Method("centre_gaussian", "none", [(cases, saliency.centre_gaussian(num, grid))])


def _shown(cases: MapCases, reader: StudentReader) -> MapCases:
    """The cases on the images that the student reads: mean grey for the blank-image control."""
    return replace(cases, images=reader.shown(cases.images))


def _map_flips(work: MapWork, studies_dir: Path) -> Iterator[AuditRow]:
    pairs = [p for p in work.cases.pairs if p.kind == "moved" and {p.before_side, p.after_side} == {"left", "right"}]
    images = load_pair_images(studies_dir)
    for arm, readers in work.headed().items():
        if not pairs or images is None:
            yield not_run("side_flip_map", arm, "the data have no pairs in which a finding changes sides")
            continue
        before = np.asarray(images[[p.before_row for p in pairs]])
        after = np.asarray(images[[p.after_row for p in pairs]])
        columns = np.asarray([INDEX[p.observation] for p in pairs])
        left = np.asarray([p.before_side == "left" for p in pairs])
        patients = [p.patient_id for p in pairs]
        parts = [
            _map_flip(reader.model, reader.shown(before), reader.shown(after), columns, left, patients)
            for reader in readers
        ]
        n = round(float(np.mean([part.denominator.sum() for part in parts])))
        reason = "share of maps that lie on the finding's side and follow it to the other; baseline: half by chance"
        found = work.boot.ratio(parts)
        yield measured("side_flip_map", arm, found, n=n, rule=("at_least", FLIP), baseline=0.5, reason=reason)
        work.on_step()


def _map_flip(
    model: KDistillStudent,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    columns: NDArray[np.intp],
    left: NDArray[np.bool_],
    patients: Sequence[str],
) -> Fraction:
    """The patient's left is the image's right half."""
    rows = np.arange(len(columns))
    on_left = [_left_mass(attention_maps(model, images)[rows, columns]) > 0.5 for images in (before, after)]
    right_side_first = on_left[0] == left
    return fraction(patients, right_side_first & (on_left[1] != left), right_side_first)


def _left_mass(maps: NDArray) -> NDArray[np.float64]:
    half = maps.shape[-1] // 2
    return maps[..., -half:].sum(axis=(1, 2)) / (maps[..., :half].sum(axis=(1, 2)) + maps[..., -half:].sum(axis=(1, 2)))


def randomisation_part(work: MapWork, studies_dir: Path) -> Iterator[AuditRow]:
    """Weight randomisation of `config.arm`."""
    masks, arm = load_masks(studies_dir), work.config.arm
    readers = work.headed().get(arm)
    if masks is None or readers is None:
        why = NO_MASKS if masks is None else f"the recipe has no arm {arm} with a label head"
        yield from (not_run(test, arm, why) for test, _ in PARTS)
        return
    found = map_cases(work.cases, load_images(studies_dir), masks, work.config.num_studies)
    models, seen = [reader.model for reader in readers], _shown(found, readers[0])
    yield from randomisation_rows(arm, models, seen, work.boot, work.config.seed)
    work.on_step()


def constant_part(
    work: MapWork, said: Mapping[str, Sequence[Said]], known: Known | None, texts: TextReader
) -> Iterator[AuditRow]:
    """Blank and noise images for every arm (first seed)."""
    for arm, seeds in said.items():
        if arm not in work.readers:
            yield from (not_run(test, arm, "this arm has no model of its own") for test in SWAP_TESTS[1:])
            continue
        yield from constant_rows(
            arm,
            seeds[0],
            work.readers[arm][0],
            known,
            work.cases,
            work.boot,
            texts,
            mean_grey=mean_grey(work.readers[arm][0].model.config),
            num_noise=work.config.num_noise_images,
            seed=work.config.seed,
        )
        work.on_step()
