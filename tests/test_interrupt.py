"""FAULTS 34: the first signal saves and stops, the second exits at once. FAULTS 33, 35: damaged checkpoints."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pytest

from kdistill.checkpoints import is_sealed, newest_verified, seal
from kdistill.interrupt import Interrupted, SignalWatch


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_raised_at_the_next_report(number, code):
    seen = []
    with SignalWatch() as signals:
        report = signals.watched(lambda done, total: seen.append(done))
        report(1, 3)
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as caught:
            report(2, 3)
    assert seen == [1, 2]
    assert caught.value.exit_code == code
    assert pickle.loads(pickle.dumps(caught.value)).exit_code == code


def test_the_second_signal_exits_at_once():
    code = textwrap.dedent(
        """
        import os, signal, time
        from kdistill.interrupt import SignalWatch
        with SignalWatch():
            os.kill(os.getpid(), signal.SIGTERM)
            print("still here", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("never", flush=True)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (130, "still here\n")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with SignalWatch():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes([step % 256]) * 100)
    (path / "optimizer.pt").write_bytes(b"state")
    seal(path)
    return path


def test_the_newest_sealed_checkpoint_is_taken(tmp_path):
    assert newest_verified(tmp_path) is None
    checkpoint(tmp_path, 90)
    newest = checkpoint(tmp_path, 100)
    assert newest_verified(tmp_path) == newest


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "seal.json").unlink(),
        lambda path: (path / "seal.json").write_text("{"),
        lambda path: (path / "optimizer.pt").unlink(),
        lambda path: (path / "model.safetensors").write_bytes(b"torn"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, damage, caplog):
    older, newest = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    damage(newest)
    assert not is_sealed(newest)
    assert newest_verified(tmp_path) == older
    assert "checkpoint-10" in caplog.text and not newest.exists()
