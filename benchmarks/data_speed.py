"""How fast training images leave the cache: one memory-mapped uint8 array, read in random order.

    python benchmarks/data_speed.py [--images 5000] [--size-px 224] [--batch 32] [--rounds 5] [--dir DIR]

Writes images.npy of random bytes (what they show changes no time), so that it lies in the page cache, and reads it as
training does: `collate.Collator` on visits in random order. Steps: rows of the array alone, with normalisation (the
collator's whole path), with augmentation as well. Each is timed in one process, in two at once, and through torch's
DataLoader with two workers, as `distillation.data_workers: 2` has it. A round reads every image once; figures are
medians over rounds. "cold" drops the file from the page cache before each round. "per core second" divides by the
processes' own CPU time, which other programs change little; the wall's clock is the machine's as it was. For contrast:
phantom films of that size as PNG files through `studies.images.read_image`, and other ways to move an image.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from kdistill.distillation.augment import Augmenter, affine, move
from kdistill.distillation.collate import Collator, Visit, VisitOrder, Visits
from kdistill.distillation.config import GeometricPhotometric
from kdistill.distillation.regions import RegionTable
from kdistill.distillation.targets import TrainingTargets
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.records import Study, StudyImage
from kdistill.student.configuration import KDistillConfig
from kdistill.studies.images import read_image
from kdistill.studies.phantom.render import render_many
from kdistill.studies.phantom.stage import to_bytes
from kdistill.studies.phantom.world import sample_plans
from kdistill.studies.phantom.write import config_for
from kdistill.studies.store import IMAGES, load_images

DEFAULTS: Final = GeometricPhotometric(kind="geometric_photometric")
PNG_FILMS: Final = 16


class Speed(NamedTuple):
    """Images a second by the wall's clock, and a second of CPU time."""

    wall: float
    core: float


def write_cache(folder: Path, number: int, size_px: int) -> None:
    """images.npy of random bytes, written in pieces."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(folder / IMAGES, "w+", np.uint8, (number, size_px, size_px))
    for start in range(0, number, 256):
        part = array[start : start + 256]
        part[:] = np.frombuffer(random.bytes(part.size), dtype=np.uint8).reshape(part.shape)
    array.flush()


def bare_targets(number: int) -> TrainingTargets:
    """Studies of which nothing but the image is known: the time is that of images alone."""
    film = StudyImage(image_path="x", row=0)
    rows = np.full((number, NUM_OBSERVATIONS), -1, dtype=np.int64)
    nothing = (None,) * number
    return TrainingTargets(
        studies=(Study(study_id="s", patient_id="p", split="train", images=(film,)),) * number,
        image_rows=np.arange(number),
        labels=np.full(rows.shape, np.nan, dtype=np.float32),
        blanks=np.zeros(rows.shape, dtype=bool),
        sides=rows,
        reports=nothing,
        rationales=nothing,
        spans=nothing,
        regions=rows,
        region_table=RegionTable([]),
        statements=rows,
        joined=nothing,
        teacher=None,
    )


def collator_of(folder: Path, augmented: bool) -> Collator:
    """A training's collator on the cache, at the cache's own size."""
    images = load_images(folder)
    config = KDistillConfig(image_size_px=images.shape[-1])
    augment = Augmenter(DEFAULTS, 0) if augmented else None
    return Collator(images, bare_targets(len(images)), config, texts_per_chunk=16, augment=augment)


def batches_of(number: int, size: int, seed: int) -> Iterator[list[Visit]]:
    """One pass over the cache in training's order."""
    visits = list(VisitOrder(number, number, seed))
    yield from (visits[start : start + size] for start in range(0, number, size))


def read_pass(step: str, folder: Path, batch: int, seed: int, share: int) -> tuple[int, float]:
    """One process reads its share (1 / share) of a pass; returns images and CPU seconds."""
    torch.set_num_threads(1)
    collator = collator_of(folder, step == "augmented")
    number = len(collator.images) // share
    start, done = time.process_time(), 0
    for visits in batches_of(number, batch, seed):
        if step == "rows":
            done += len(collator.images[[visit.study for visit in visits]])
        else:
            done += len(collator(visits)["pixel_values"])
    return done, time.process_time() - start


def in_processes(step: str, folder: Path, batch: int, rounds: int, pool: Pool, processes: int, cold: bool) -> Speed:
    """Medians over rounds of so many processes at once, started before the clock."""
    speeds = []
    for seed in range(rounds):
        if cold:
            forget(folder / IMAGES)
        start = time.perf_counter()
        parts = pool.starmap(read_pass, [(step, folder, batch, seed, processes)] * processes, chunksize=1)
        wall = time.perf_counter() - start
        number = sum(done for done, _ in parts)
        speeds.append(Speed(number / wall, number / sum(cpu for _, cpu in parts)))
    return _medians(speeds)


def in_workers(folder: Path, batch: int, rounds: int, workers: int, augmented: bool) -> Speed:
    """Through DataLoader, as Trainer does it; the CPU time is that of this process and of the workers."""
    collator = collator_of(folder, augmented)
    number = len(collator.images)
    speeds = []
    for seed in range(rounds):
        cpu, start = _cpu_of_all(), time.perf_counter()
        loader = DataLoader(
            Visits(number),
            batch_size=batch,
            sampler=VisitOrder(number, number, seed),
            collate_fn=collator,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        done = sum(len(found["pixel_values"]) for found in loader)
        wall = time.perf_counter() - start
        del loader
        speeds.append(Speed(done / wall, done / (_cpu_of_all() - cpu)))
    return _medians(speeds)


def _cpu_of_all() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _medians(speeds: Sequence[Speed]) -> Speed:
    return Speed(*(statistics.median(values) for values in zip(*speeds, strict=True)))


def forget(path: Path) -> None:
    """Drop a file from the page cache, as if it had not been read."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def per_core_second(read: Callable[[int], object], number: int, rounds: int) -> float:
    """Calls of `read` a CPU second, the median over rounds."""
    speeds = []
    for _ in range(rounds):
        start = time.process_time()
        for row in range(number):
            read(row)
        speeds.append(number / (time.process_time() - start))
    return statistics.median(speeds)


def png_speed(folder: Path, size_px: int, rounds: int) -> float:
    """Phantom films as PNG, read one by one."""
    plans = sample_plans(config_for(PNG_FILMS * 2, size_px=size_px))["train"][:PNG_FILMS]
    for row, drawn in enumerate(render_many(plans, size_px)):
        Image.fromarray(to_bytes(drawn.image)).save(folder / f"{row}.png")
    return per_core_second(lambda row: read_image(folder / f"{row}.png", size_px), len(plans), rounds)


def movers(films: np.ndarray, forward: np.ndarray) -> dict[str, Callable[[int], np.ndarray]]:
    """Ways to move one of these images."""
    size_px = films.shape[-1]
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))[:2]

    def with_torch(row: int) -> np.ndarray:
        theta = np.column_stack([back[:, :2], 2 * back @ [0.5, 0.5, 1] - 1]).astype(np.float32)
        grid = functional.affine_grid(torch.from_numpy(theta)[None], [1, 1, size_px, size_px], align_corners=False)
        image = torch.from_numpy(films[row])[None, None].float()
        return functional.grid_sample(image, grid, align_corners=False).round_().to(torch.uint8)[0, 0].numpy()

    def with_numpy(row: int) -> np.ndarray:
        points = (np.arange(size_px) + 0.5) / size_px
        x, y = (
            np.clip((r[0] * points + (r[1] * points[:, None] + r[2])) * size_px + 0.5, 0, size_px + 0.99)
            for r in back.astype(np.float32)
        )
        left, top = x.astype(np.int32), y.astype(np.int32)
        across, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
        corner, flat, width = top * (size_px + 2) + left, np.pad(films[row], 1).astype(np.float32).ravel(), size_px + 2
        a, b, c, d = (flat[offset:].take(corner) for offset in (0, 1, width, width + 1))
        upper, lower = a + (b - a) * across, c + (d - c) * across
        return (upper + (lower - upper) * down + np.float32(0.5)).astype(np.uint8)

    return {
        "Pillow, float32 (in use)": lambda row: move(films[row], forward),
        "torch affine_grid and grid_sample": with_torch,
        "numpy gathers": with_numpy,
    }


def parts_of_augmentation(size_px: int, rounds: int) -> Iterator[tuple[str, float]]:
    """The same bounds with one part at zero after the other."""
    films = np.random.default_rng(0).integers(0, 256, (32, size_px, size_px), dtype=np.uint8)
    none = {"max_rotation_degrees": 0.0, "max_shift": 0.0, "max_scale": 0.0}
    for name, changes in (("all", {}), ("no noise", {"max_noise": 0.0}), ("tones and noise alone", none)):
        augment = replace(Augmenter(DEFAULTS, 0), settings=DEFAULTS.model_copy(update=changes))
        yield name, per_core_second(lambda row, a=augment: a(films[row : row + 1], [row], [row]), 32, rounds)


def measure(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the report."""
    number, size, batch, rounds = arguments.images, arguments.size_px, arguments.batch, arguments.rounds
    gigabytes = (folder / IMAGES).stat().st_size / 1e9
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    yield f"n = {number} images a round, {size} px, {gigabytes:.2f} GB, batches of {batch}, {rounds} rounds"
    yield f"{os.cpu_count()} cores, one thread a process, load {load:.1f} a core before the start"
    yield "| step | how | images/s | images per core second |"
    yield "|---|---|---|---|"
    steps = {"rows": "rows of the array", "collator": "collator", "augmented": "collator with augmentation"}
    for processes in (1, 2):
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            for step, name in steps.items():
                found = in_processes(step, folder, batch, rounds, pool, processes, cold=False)
                yield f"| {name} | {processes} process(es) | {found.wall:.0f} | {found.core:.0f} |"
            if processes == 2:
                found = in_processes("collator", folder, batch, rounds, pool, processes, cold=True)
                yield f"| collator, cold | 2 process(es) | {found.wall:.0f} | {found.core:.0f} |"
    for augmented, name in ((False, "collator"), (True, "collator with augmentation")):
        found = in_workers(folder, batch, rounds, 2, augmented)
        yield f"| {name} | DataLoader, 2 workers | {found.wall:.0f} | {found.core:.0f} |"
    yield f"| {PNG_FILMS} phantom films as PNG | 1 process | - | {png_speed(folder, size, rounds):.0f} |"
    films = np.random.default_rng(0).integers(0, 256, (32, size, size), dtype=np.uint8)
    for name, moved in movers(films, affine(DEFAULTS, np.array([0.9, 0.5, 0.4, -0.4]))).items():
        yield f"| moving: {name} | 1 process | - | {per_core_second(moved, len(films), rounds):.0f} |"
    for name, speed in parts_of_augmentation(size, rounds):
        yield f"| augmentation: {name} | 1 process | - | {speed:.0f} |"
    yield f"MIMIC-CXR's 377,110 images: {math.ceil(377_110 * size**2 / 1e8) / 10} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the cache is written; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        write_cache(Path(folder), arguments.images, arguments.size_px)
        for line in measure(Path(folder), arguments):
            print(line, flush=True)


if __name__ == "__main__":
    main()
