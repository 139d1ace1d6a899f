"""SIGHUP: a server follows its run, and ends with its terminal."""

from __future__ import annotations

import logging
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdistill.explain.student_reader import load_reader
from kdistill.serve.models import Models, reload_on_hangup

from .students import add_student, make_run, poison
from .swapping import Room


@pytest.fixture
def room(run: Path) -> Room:
    return Room(run)


def test_hangup_follows_a_link_to_another_run(
    room: Room, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_run(tmp_path / "other", report="Another report.", weights=7)
    link = tmp_path / "link"
    link.symlink_to(run)
    models = Models(link, "full", None, room.jobs, room.models.samples)
    told: list[str] = []
    before = signal.getsignal(signal.SIGHUP)

    def hang_up(done: Callable[[], bool]) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        deadline = time.monotonic() + 60
        while not done() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert done()

    try:
        reload_on_hangup(models, told.append, lambda: room.jobs.reader.name)
        link.unlink()
        link.symlink_to(other)
        hang_up(lambda: bool(told))
        assert room.jobs.reader.name == load_reader(other / "student" / "full" / "seed-0").name in told[0]
        assert models.samples is not None and models.samples.truth(0).report == "Another report."
        poison(other / "student" / "full" / "seed-0")
        with caplog.at_level(logging.ERROR):
            hang_up(lambda: "NaN or infinity" in caplog.text)
        assert room.jobs.num_swaps == 1
        shutil.rmtree(other / "student" / "full")
        add_student(other, weights=8)  # mended: the thread that was refused still listens
        hang_up(lambda: len(told) == 2)
    finally:
        signal.signal(signal.SIGHUP, before)
        room.jobs.close()


TERMINAL = """
import fcntl, os, signal, sys, termios, time
from kdistill.serve.models import reload_on_hangup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
reload_on_hangup(None, print, str)
os.write(2, b"ready")
time.sleep(60)
"""


def test_a_server_ends_with_the_terminal_that_it_was_started_from() -> None:
    terminal, inside = pty.openpty()
    server = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=inside, stderr=subprocess.PIPE, start_new_session=True
    )
    with server:
        os.close(inside)
        assert server.stderr and server.stderr.read(5) == b"ready"
        os.close(terminal)
        assert server.wait(30) == 7
