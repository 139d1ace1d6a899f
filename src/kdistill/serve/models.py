"""Another student in the place of the one that answers: loaded beside it, checked, then swapped between two batches."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdistill.errors import InputError, KDistillError, PolicyError, WeightsError
from kdistill.explain.reading import ImageReader
from kdistill.explain.run import load_context, student_dir_of
from kdistill.serve.jobs import Jobs, Model
from kdistill.serve.samples import Samples

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A student of a run with the run's library, and the run's samples (None: it has no studies)."""

    model: Model
    samples: Samples | None


class Choice(NamedTuple):
    """A student of a run by name; without a seed: the arm's first."""

    arm: str
    seed: int | None = None


def choice_of(text: str, *, where: str) -> Choice:
    """A student as it is named on the command line: ARM or ARM:SEED.

    >>> choice_of("template:3", where="--against")
    Choice(arm='template', seed=3)

    Raises:
        InputError: It is named in no such way.
    """
    found = re.fullmatch(r"([A-Za-z0-9_]+)(?::([0-9]{1,9}))?", text)
    if found is None:
        raise InputError(f"names no student: {text!r}", where=where, remedy="Write ARM or ARM:SEED, e.g. template:0.")
    return Choice(found[1], None if found[2] is None else int(found[2]))


def load_model(run_dir: Path, arm: str, seed: int | None, *, beside: Loaded | None = None) -> Loaded:
    """Load a student and what its explanations need, and let it read one blank image.

    Args:
        run_dir: The run, or a link to it (followed once, so that two runs are never mixed).
        arm: Which student.
        seed: Which seed; None: the first.
        beside: Another student of the run that is loaded; its library and samples are shared, not read again.

    Raises:
        InputError: No such student, files are missing or damaged, or they were written anew meanwhile; or it cannot be
            compared with `beside`: the same student, or one of another input size.
        WeightsError: Unsafe, damaged or NaN weights, or thresholds of another model.
    """
    from kdistill.explain.student_reader import load_reader

    run = run_dir.resolve()
    student_dir = student_dir_of(run, arm, seed)
    where = f"{arm}/{student_dir.name}"
    before = _files_of(student_dir)
    try:
        reader = load_reader(student_dir)
        if beside is None:
            context = load_context(run, reader.name, reader.thresholds)
            samples = Samples(run / "studies") if (run / "studies").is_dir() else None
        else:
            _check_pair(reader, beside.model.reader, where)
            context = replace(beside.model.context, model=reader.name, thresholds=reader.thresholds)
            samples = beside.samples
        _try(reader, where)
    except (KDistillError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # loaders raise what they like, and a panic of a Rust library is no Exception
        raise InputError(
            f"cannot be loaded ({type(error).__name__})",
            where=where,
            remedy="kdistill verify RUN says what is damaged.",
        ) from error
    if _files_of(student_dir) != before:
        raise InputError("was written anew while it was read", where=where, remedy="Ask again.")
    return Loaded(Model(reader, context), samples)


def _check_pair(reader: ImageReader, other: ImageReader, where: str) -> None:
    if reader.name == other.name:
        raise InputError("is the student that answers", where=where, remedy="Compare it with another one.")
    if reader.size_px != other.size_px:  # an image is kept as it was decoded for one of them
        raise InputError(
            f"reads {reader.size_px} pixels, and the student that answers reads {other.size_px}",
            where=where,
            remedy="Compare students of the same input size.",
        )


def _files_of(student_dir: Path) -> list[tuple[str, int, int, int]]:
    """Name, inode, size and time of every file: a student that is published again differs in all of them."""
    files = [path for path in sorted(student_dir.rglob("*")) if path.is_file()]
    return [(path.name, (s := path.stat()).st_ino, s.st_size, s.st_mtime_ns) for path in files]


def _try(reader: ImageReader, where: str) -> None:
    (reading,) = reader.read(np.zeros((1, reader.size_px, reader.size_px), dtype=np.uint8))
    if reading.probabilities is not None and not np.isfinite(reading.probabilities).all():
        raise WeightsError("gives probabilities that are no numbers", where=where, remedy="Train it again.")


class Models:
    """The students of a run, of which one answers.

    Args:
        run_dir: The run, or a link to it.
        arm: The student that answers now.
        seed: Its seed; None: the first.
        jobs: Where it answers.
        samples: The run's samples.
        against: The student that it is compared with; None: none.
    """

    def __init__(
        self,
        run_dir: Path,
        arm: str,
        seed: int | None,
        jobs: Jobs,
        samples: Samples | None,
        *,
        against: Choice | None = None,
    ) -> None:
        self.arm, self.seed, self.samples, self.against = arm, seed, samples, against
        #: Told of each change that was refused.
        self.on_refusal: Callable[[], None] = lambda: None
        self._run_dir, self._jobs, self._one = run_dir, jobs, threading.Lock()

    def swap(self, arm: str | None = None, seed: int | None = None, *, wait: bool = False) -> None:
        """Load a student and let it answer from the next batch on. The one that answers now goes on until then.

        Args:
            arm: Which student; None: the present one again, as it stands on disk now, and with it the one that it is
                compared with.
            seed: Which seed; None: the present one where no arm is named, else the first.
            wait: Whether to wait while another change is under way.

        Raises:
            PolicyError: Another change is under way.
            InputError: As for `load_model`; the present student stays.
        """
        if not self._one.acquire(blocking=wait):
            raise PolicyError("another model is being loaded", remedy="Ask again when it is done.")
        try:
            chosen = arm or self.arm
            number = self.seed if arm is None and seed is None else seed
            run_dir = self._run_dir.resolve()  # once: both are of the same run, wherever a link points by then
            loaded = load_model(run_dir, chosen, number)
            again = self._again(run_dir, chosen, number) if arm is None and seed is None else None
            other = None if again is None else load_model(run_dir, *again, beside=loaded).model
            self._jobs.swap(loaded.model, other)  # first: samples of another size would find nobody to read them
            self.arm, self.seed, self.samples = chosen, number, loaded.samples
        except Exception:
            self.on_refusal()
            raise
        finally:
            self._one.release()

    def _again(self, run_dir: Path, arm: str, seed: int | None) -> Choice | None:
        """The student to compare with, to be loaded again too; None: none, or it is the one that answers."""
        if self.against is None or student_dir_of(run_dir, *self.against) == student_dir_of(run_dir, arm, seed):
            return None
        return self.against


def reload_on_hangup(models: Models, announce: Callable[[str], None], name: Callable[[], str]) -> None:
    """Load the present student again at each SIGHUP, in a thread of its own.

    A hangup because the terminal was closed ends the server instead, as it always did. In any other than the main
    thread, which alone gets signals, nothing is done.

    Args:
        models: The students.
        announce: Told of each change in a sentence; a refusal goes to the log.
        name: The name of the student that answers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    wanted, has_terminal = threading.Event(), os.isatty(0)

    def work() -> None:
        while True:
            wanted.wait()
            wanted.clear()
            try:
                models.swap(wait=True)
                announce(f"SIGHUP: now {name()} answers")
            except KDistillError as error:
                logger.error("SIGHUP: the model was not changed: %s", error)
            except Exception as error:  # the next signal must find this thread alive
                logger.error("SIGHUP: the model was not changed (%s)", type(error).__name__)

    def heard(*_: object) -> None:
        if has_terminal and not os.isatty(0):
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            wanted.set()

    threading.Thread(target=work, name="kdistill-reload", daemon=True).start()
    signal.signal(signal.SIGHUP, heard)
