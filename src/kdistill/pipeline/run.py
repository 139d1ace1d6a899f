"""Run a recipe: make the stages that are missing or out of date, students side by side, everything else in order."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from kdistill.artifact import MANIFEST, adopt_stage, is_current, lock_run, open_stage
from kdistill.config import dump_yaml
from kdistill.errors import EnvironmentFault, PolicyError
from kdistill.interrupt import Interrupted, SignalWatch
from kdistill.pipeline.recipe import Recipe, load_recipe
from kdistill.pipeline.stages import (
    RunFolder,
    Stage,
    base_stages,
    closing_stages,
    is_reference,
    student_keys,
    student_stage,
)

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"


class Watcher(Protocol):
    """Whoever owns the terminal: told of each stage as it starts, moves and ends."""

    def started(self, stage: str) -> None:
        """A stage begins."""

    def moved(self, stage: str, done: int, total: int) -> None:
        """A stage has done so much of so much."""

    def finished(self, stage: str, *, skipped: bool) -> None:
        """A stage is published, or was up to date."""


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    watcher: Watcher,
    *,
    resume: bool = False,
    fresh: bool = False,
    siblings: Sequence[Path] = (),
) -> RunFolder:
    """Make every stage of a recipe below `run_dir`.

    Args:
        recipe: The resolved recipe.
        run_dir: The run's folder.
        watcher: Told of progress.
        resume: Go on with an existing run of the same recipe.
        fresh: Delete an existing run first.
        siblings: Folders of other runs. A stage that one of them made from the same settings and inputs is taken over:
            settings of a sweep that differ in the students alone train one teacher.

    Returns:
        The run's folder.

    Raises:
        PolicyError: The run exists and neither was asked for, or it was made from another recipe (the keys are named),
            or another process holds it, or a launcher such as torchrun started several.
        Interrupted: A signal asked to stop; `resume` goes on from there.
    """
    _refuse_launcher()
    run = RunFolder(run_dir)
    with lock_run(run_dir), SignalWatch() as signals, _single_threaded(recipe.threads):
        make_base(recipe, run, watcher, signals, resume=resume, fresh=fresh, siblings=siblings)
        for arm, seed in student_keys(recipe):
            _adopt(student_stage(recipe, run, arm, seed), run, siblings)
        _make_students(recipe, run, watcher, signals)
        for stage in closing_stages(recipe, run):
            make_stage(stage, watcher, signals)
    return run


def make_base(
    recipe: Recipe,
    run: RunFolder,
    watcher: Watcher,
    signals: SignalWatch,
    *,
    resume: bool = False,
    fresh: bool = False,
    siblings: Sequence[Path] = (),
) -> None:
    """Take a run's folder for this recipe and make the stages that come before any student.

    The caller holds the run's lock. Arguments and errors as in `run_recipe`.
    """
    _claim(recipe, run.dir, resume=resume, fresh=fresh)
    for stage in base_stages(recipe, run):
        _adopt(stage, run, siblings)
        make_stage(stage, watcher, signals)


def _adopt(stage: Stage, run: RunFolder, siblings: Sequence[Path]) -> None:
    """Take a stage from the first sibling that has it, unless it stands here or its inputs are still to be made."""
    waiting = any(not (folder / MANIFEST).is_file() for folder in stage.inputs.values())
    if not siblings or waiting or is_current(stage.path, config=stage.config, inputs=stage.inputs):
        return
    place = stage.path.relative_to(run.dir)
    for sibling in siblings:
        if adopt_stage(stage.path, sibling / place, config=stage.config, inputs=stage.inputs):
            return


def make_selected(recipe: Recipe, run: RunFolder, stages: list[Stage], watcher: Watcher) -> None:
    """Make some stages of a run in order; those that stand there from the same settings are kept.

    Raises:
        PolicyError: Another process holds the run, or it was made from another recipe, or a launcher such as torchrun
            started several.
    """
    _refuse_launcher()
    with lock_run(run.dir), SignalWatch() as signals, _single_threaded(recipe.threads):
        _claim(recipe, run.dir, resume=True, fresh=False)
        for stage in stages:
            make_stage(stage, watcher, signals)


def _refuse_launcher() -> None:
    """A run belongs to one process, which starts others itself; a second one would only find the run in use."""
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number > 1:
        raise PolicyError(
            f"a launcher (torchrun, accelerate) started {number} processes on one run",
            where="WORLD_SIZE",
            remedy=f"Start it once, without the launcher: `processes: {number}` in the recipe trains so many students "
            "side by side. How several processes train one student: docs/objective.md, 'Several processes'.",
        )


def make_stage(stage: Stage, watcher: Watcher, signals: SignalWatch) -> None:
    """Make one stage, unless it stands there, verified, from the same configuration and inputs."""
    if is_current(stage.path, config=stage.config, inputs=stage.inputs):
        watcher.finished(stage.name, skipped=True)
        return
    watcher.started(stage.name)
    on_progress = signals.watched(lambda done, total: watcher.moved(stage.name, done, total))
    publish_stage(stage, on_progress)
    signals.check()
    watcher.finished(stage.name, skipped=False)


def publish_stage(stage: Stage, on_progress: object) -> None:
    """Build a stage's folder and publish it."""
    with open_stage(
        stage.path,
        stage=stage.name,
        config=stage.config,
        inputs=stage.inputs,
        seed=stage.seed,
        resumable=stage.resumable,
    ) as writer:
        stage.build(writer, on_progress)  # type: ignore[arg-type]


def _claim(recipe: Recipe, run_dir: Path, *, resume: bool, fresh: bool) -> None:
    saved = run_dir / RECIPE
    if saved.is_file():
        if fresh:
            _empty(run_dir)
        elif not resume:
            raise PolicyError(
                "a run stands there already",
                where=str(run_dir),
                remedy="Go on with it: --resume. Delete it and start again: --fresh. Keep it: another --out.",
            )
        else:
            _refuse_other_recipe(recipe, saved)
    text = dump_yaml(recipe)
    partial = run_dir / f".{RECIPE}"
    partial.write_text(text, encoding="utf-8")
    partial.replace(saved)


def _empty(run_dir: Path) -> None:
    for path in run_dir.iterdir():
        if path.name == ".lock":
            continue  # we hold it
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refuse_other_recipe(recipe: Recipe, saved: Path) -> None:
    """A resumed run must not mix two recipes. Numbers of processes and workers may differ: they change no result.

    Arms and seeds may be added: no student depends on which others there are; and comparisons, which a newer version
    may have more of. A setting that did not exist when the run was made has its default: a saved recipe holds every
    other one.
    """
    old = json.loads(load_recipe(str(saved)).model_dump_json())
    new = json.loads(recipe.model_dump_json())
    free = {"processes", "decode_processes", "distillation.data_workers"}
    changed = sorted(set(_differences(old, new)) - free - _extended(old, new))
    if changed:
        raise PolicyError(
            f"the run was made from another recipe; different: {', '.join(changed[:20])}",
            where=str(saved.parent),
            remedy="Give the old values, or start afresh with --fresh or another --out.",
        )


def _extended(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Lists that hold all that they held before."""
    lists = (("distillation", "arms"), ("distillation", "seeds"), ("evaluation", "comparisons"))
    return {
        f"{section}.{key}"
        for section, key in lists
        if all(item in new[section][key] for item in old[section][key])
    }  # fmt: skip


def _differences(old: object, new: object, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield prefix.rstrip(".")


@contextmanager
def _single_threaded(threads: int) -> Iterator[None]:
    """Set the thread count of this process and of the workers that it starts."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Texts come in many lengths, and oneDNN keeps a compiled kernel for each of the last 1024 shapes: a training
    # process grew to 2.0 GB after 100 steps; with 64 it was 1.4 GB at the same speed. Read at the first operation.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_students(recipe: Recipe, run: RunFolder, watcher: Watcher, signals: SignalWatch) -> None:
    """Trained arms first, side by side; then the references that read the `label` student."""
    keys = student_keys(recipe)
    for wave in (
        [key for key in keys if not is_reference(key[0])],
        [key for key in keys if is_reference(key[0])],
    ):
        missing = []
        for arm, seed in wave:
            stage = student_stage(recipe, run, arm, seed)
            if is_current(stage.path, config=stage.config, inputs=stage.inputs):
                watcher.finished(stage.name, skipped=True)
            else:
                missing.append((arm, seed))
        if len(missing) <= 1 or recipe.processes == 1:
            for arm, seed in missing:
                make_stage(student_stage(recipe, run, arm, seed), watcher, signals)
        else:
            _make_side_by_side(recipe, run, missing, watcher, signals)


def _make_side_by_side(
    recipe: Recipe, run: RunFolder, keys: list[tuple[str, int]], watcher: Watcher, signals: SignalWatch
) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _pool(recipe.processes) as pool:
        messages, stopping = manager.Queue(), manager.Event()
        text = recipe.model_dump_json()
        futures: dict[Future[None], str] = {}
        for arm, seed in keys:
            futures[pool.submit(_student_in_worker, text, str(run.dir), arm, seed, messages, stopping)] = (
                f"student/{arm}/seed-{seed}"
            )
        try:
            _wait(futures, messages, stopping, watcher, signals)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_signals_to_parent
    )


def _leave_signals_to_parent() -> None:
    """A terminal's ctrl-C reaches the workers too: they stop when the parent says so (SIGTERM), once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _wait(
    futures: dict[Future[None], str], messages: object, stopping: Event, watcher: Watcher, signals: SignalWatch
) -> None:
    import queue

    pending = set(futures)
    told = False
    while pending:
        try:
            event, name, done, total = messages.get(timeout=0.5)  # type: ignore[attr-defined]
            watcher.started(name) if event == "started" else watcher.moved(name, done, total)
        except queue.Empty:
            pass
        if signals.received is not None and not told:
            told = True
            stopping.set()  # before the signal: a worker between two students ignores it, and looks here next
            _tell_workers()
        for future in [f for f in pending if f.done()]:
            pending.discard(future)
            try:
                _settle(future, futures[future], watcher)
            except Interrupted:
                signals.check()  # with our own signal's exit code, which may be another than the worker's
                raise
    signals.check()


def _tell_workers() -> None:
    """Ask the workers to save and stop: a signal sent to this process alone does not reach them."""
    for child in multiprocessing.active_children():
        if child.pid and child.name.startswith("SpawnProcess"):
            os.kill(child.pid, signal.SIGTERM)


def _settle(future: Future[None], name: str, watcher: Watcher) -> None:
    try:
        future.result()
    except BrokenProcessPool as error:
        raise EnvironmentFault(
            f"the process that made {name} died",
            remedy="It may have run out of memory: lower `processes`, then go on with --resume.",
        ) from error
    watcher.finished(name, skipped=False)


def _student_in_worker(recipe_json: str, run_dir: str, arm: str, seed: int, messages: object, stopping: Event) -> None:
    """Make one student in a process of its own (the run's lock is held by the parent)."""
    import torch

    recipe = Recipe.model_validate_json(recipe_json)
    torch.set_num_threads(recipe.threads)
    stage = student_stage(recipe, RunFolder(Path(run_dir)), arm, seed)
    last = -1

    def moved(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // max(total, 1)
        if percent != last:  # a message a percent, not a step: the queue is a pipe
            last = percent
            messages.put(("moved", stage.name, done, total))  # type: ignore[attr-defined]

    with SignalWatch((signal.SIGTERM,)) as signals:
        if stopping.is_set():
            raise Interrupted(signal.SIGTERM)
        messages.put(("started", stage.name, 0, 0))  # type: ignore[attr-defined]
        publish_stage(stage, signals.watched(moved))
