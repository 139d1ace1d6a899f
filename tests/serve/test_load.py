"""Twice the load that the server can take, over real sockets, by benchmarks/serve_load.py."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdistill.serve.config import ServeConfig

from .serving import app_of, benchmark, distinct_png, listening, tiny_reader

#: What a kept result may take: its film at 512 px is 0.26 MB, with the reading and the exports' share about 0.4.
RESULT_MB = 0.6
ROOT = Path(__file__).parents[2]


def check(figures: Any, able: float) -> None:
    told = {**figures.summary(), "capacity_per_s": round(able, 1)}
    assert figures.wrong_image == figures.seen_by_others == figures.without_retry_after == 0, told
    assert figures.sent == figures.accepted + figures.refused and figures.done == figures.accepted, told
    assert not figures.others and figures.done > 0 and figures.refused > 0, told


def test_burst_of_a_hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine: a hundred images in a fifth of a second cannot all find room in a queue of four."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = ServeConfig(port=0, max_waiting=4, max_results=50, deadline_s=600)  # on a busy machine too
    with listening(app_of(tiny_reader(), config), config) as (_, port):
        able, figures = benchmark().twice(
            f"http://127.0.0.1:{port}", os.getpid(), distinct_png, seconds=0.2, clients=50, warm_up_s=1, at_least=500
        )
    check(figures, able)  # not health: 50 clients and the server share one interpreter here
    assert figures.sent >= 100, figures.summary()
    assert max(figures.rss_mb) - figures.rss_mb[0] < 50 * RESULT_MB + 60, figures.summary()
    assert benchmark().files_in(tmp_path) == []


@pytest.mark.slow
def test_load_fifty_clients_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    command = [sys.executable, "-m", "tests.serve.serving"]
    with benchmark().serving(command, tmp_path) as (url, pid):
        able, figures = benchmark().twice(url, pid, distinct_png, seconds=60, clients=50)
    print(figures.summary(), f"capacity {able:.1f}/s")
    check(figures, able)
    # Health waits behind no image, however slow the machine: at loads of 3 to 5 its median was a 19th to a 26th of an
    # image's, its 99th percentile a third to a fifth, with clients that were themselves up to 1.7 s late.
    waited, health = np.median(figures.latencies_s), np.percentile(figures.health_s, [50, 99])
    assert health[0] < waited / 10 and health[1] < waited, figures.summary()
    assert max(figures.rss_mb) - figures.rss_mb[0] < 500 * RESULT_MB, figures.summary()
    assert benchmark().files_in(tmp_path) == []
