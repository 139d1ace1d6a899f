"""Run settings of a sweep on one large machine: every student of every setting in one pool of processes.

`kdistill run SWEEP` takes setting after setting, and inside one the students side by side. Where there are sixteen
cores and a GPU that no single small student fills, this keeps all of them busy: base stages of all settings first (side
by side, each a process), then all students, then evaluations and audits. The folders are those of `kdistill run`, so
the run can go on there, and a second call goes on where the first was stopped.

    python benchmarks/sweep_pool.py SWEEP OUT --processes 15 --minutes 9 --only NAME,NAME key=value ...
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdistill.pipeline.recipe import Recipe


class _Seconds:
    """A watcher that prints what a stage took."""

    def __init__(self, run: str) -> None:
        self.run, self.before = run, time.monotonic()

    def started(self, stage: str) -> None:
        """See `run.Watcher`."""
        self.before = time.monotonic()

    def moved(self, stage: str, done: int, total: int) -> None:
        """See `run.Watcher`."""

    def finished(self, stage: str, *, skipped: bool) -> None:
        """See `run.Watcher`."""
        if not skipped:
            print(f"    {self.run}/{stage}: {time.monotonic() - self.before:.0f} s", flush=True)


def _single_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that these start
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)


def make_base(recipe_json: str, run_dir: str, siblings: Sequence[str]) -> float:
    """The stages before any student; returns seconds."""
    from kdistill.artifact import lock_run
    from kdistill.interrupt import SignalWatch
    from kdistill.pipeline import run as pipeline_run
    from kdistill.pipeline.recipe import Recipe
    from kdistill.pipeline.stages import RunFolder

    began = time.monotonic()
    recipe, run = Recipe.model_validate_json(recipe_json), RunFolder(Path(run_dir))
    watcher = _Seconds(run.dir.name)
    with lock_run(run.dir), SignalWatch() as signals:
        pipeline_run.make_base(
            recipe, run, watcher, signals, resume=True, siblings=[Path(sibling) for sibling in siblings]
        )
    return time.monotonic() - began


def make_student(recipe_json: str, run_dir: str, arm: str, seed: int) -> float:
    """One student; returns seconds."""
    from kdistill.pipeline.recipe import Recipe
    from kdistill.pipeline.run import publish_stage
    from kdistill.pipeline.stages import RunFolder, student_stage

    began = time.monotonic()
    recipe = Recipe.model_validate_json(recipe_json)
    publish_stage(student_stage(recipe, RunFolder(Path(run_dir)), arm, seed), lambda done, total: None)
    return time.monotonic() - began


def make_closing(recipe_json: str, run_dir: str, wanted: str) -> float:
    """Evaluation, audit or page; returns seconds."""
    from kdistill.interrupt import SignalWatch
    from kdistill.pipeline.recipe import Recipe
    from kdistill.pipeline.run import make_stage
    from kdistill.pipeline.stages import RunFolder, closing_stages

    began = time.monotonic()
    recipe = Recipe.model_validate_json(recipe_json)
    for stage in closing_stages(recipe, RunFolder(Path(run_dir))):
        if stage.name == wanted:
            with SignalWatch() as signals:
                make_stage(stage, _Seconds(Path(run_dir).name), signals)
    return time.monotonic() - began


Job = tuple[str, Callable[..., float], tuple[object, ...]]


class _Pool:
    """Processes that take jobs until the deadline; what has begun is let finish."""

    def __init__(self, processes: int, deadline: float) -> None:
        self.pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_single_thread
        )
        self.processes, self.deadline = processes, deadline
        self.began = time.monotonic()

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run jobs in order; returns the names of those that failed or were not begun."""
        waiting, running, left = list(jobs), dict[Future[float], str](), list[str]()
        while waiting or running:
            while waiting and len(running) < self.processes and time.monotonic() < self.deadline:
                name, function, arguments = waiting.pop(0)
                running[self.pool.submit(function, *arguments)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                left += self._settle(future, running.pop(future))
        return left + [name for name, *_ in waiting]

    def _settle(self, future: Future[float], name: str) -> list[str]:
        now = time.monotonic() - self.began
        try:
            print(f"{now:6.0f} s  {name}: {future.result():.0f} s", flush=True)
        except Exception as error:  # a student that fails must not cost the others
            print(f"{now:6.0f} s  {name}: FAILED {type(error).__name__}: {str(error)[:1500]}", flush=True)
            return [name]
        return []


def _recipes(path: Path, overrides: Sequence[str]) -> dict[str, Recipe]:
    """The settings of a sweep, or the one recipe that the file is."""
    from kdistill.pipeline.recipe import load_recipe
    from kdistill.pipeline.sweep_settings import find_sweep, load_sweep

    if find_sweep(str(path)) is None:
        recipe = load_recipe(str(path), list(overrides))
        return {recipe.name: recipe}
    return load_sweep(path, list(overrides))[1]


def main() -> int:
    """See the module."""
    from kdistill.artifact import is_current
    from kdistill.pipeline.stages import RunFolder, is_reference, student_keys, student_stage

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", help="dotted key=value for every setting")
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--base-processes", type=int, help="of the phase before the students (default: a setting each)")
    parser.add_argument("--minutes", type=float, default=9.0, help="no student begins later than this")
    parser.add_argument("--only", help="settings, with commas between")
    parser.add_argument("--base-only", action="store_true", help="nothing but the stages before the students")
    options = parser.parse_intermixed_args()
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    recipes = _recipes(options.sweep, options.overrides)
    names = options.only.split(",") if options.only else list(recipes)
    texts = {name: recipes[name].model_dump_json() for name in names}
    runs = {name: options.out / name for name in names}
    # A setting that shares its base with an earlier one must wait for it: one after the other, they take it over.
    alone = options.base_processes or len(names)
    base = _Pool(alone, deadline)
    first = [(name, make_base, (texts[name], str(runs[name]), [str(runs[n]) for n in names[:i]] if alone == 1 else []))
             for i, name in enumerate(names)]  # fmt: skip
    missing = base.run(first)
    base.pool.shutdown()
    print(f"base: {time.monotonic() - began:.0f} s; not made: {missing}", flush=True)
    names = [name for name in names if name not in missing]
    if options.base_only:
        return 1 if missing else 0
    pool = _Pool(options.processes, deadline)
    left = list(missing)
    for references in (False, True):
        jobs: list[Job] = []
        for name in names:
            for arm, seed in student_keys(recipes[name]):
                stage = student_stage(recipes[name], RunFolder(runs[name]), arm, seed)
                if is_reference(arm) == references and not is_current(
                    stage.path, config=stage.config, inputs=stage.inputs
                ):
                    jobs.append((f"{name}/{arm}/{seed}", make_student, (texts[name], str(runs[name]), arm, seed)))
        jobs.sort(key=lambda job: int(job[0].rsplit("/", 1)[1]))  # a seed of all arms before the next seed
        left += pool.run(jobs)
        print(f"students ({'references' if references else 'trained'}): {time.monotonic() - began:.0f} s", flush=True)
    done = [name for name in names if not any(item.startswith(f"{name}/") for item in left)]
    for stages in (("audit", "evaluation"), ("report",)):
        pool.deadline = float("inf")
        closing = [(f"{n}/{stage}", make_closing, (texts[n], str(runs[n]), stage)) for n in done for stage in stages]
        left += pool.run(closing)
    pool.pool.shutdown()
    print(f"all: {time.monotonic() - began:.0f} s; left: {left}", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
