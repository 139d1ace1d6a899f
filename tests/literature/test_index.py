"""The BM25 index beside other libraries of a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_BUILD = """
import sys
from pathlib import Path
from kdistill.literature.index import query_scores, read_index, write_index

folder = Path(sys.argv[1])
write_index(["left pleural effusion", "enlarged heart"], folder)
scores = query_scores(read_index(folder), "effusion")
assert scores[0] > scores[1] == 0, scores
assert "jax" not in sys.modules
import jax  # as any other part of the process still can
"""


def test_an_installed_jax_is_left_asleep(tmp_path: Path) -> None:
    """bm25s imports it where it is found, and its import takes three quarters of a GPU's memory."""
    package = tmp_path / "path" / "jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('awake')", encoding="utf-8")
    (package / "lax.py").write_text("raise SystemExit('jax was asked to compute')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(tmp_path / "index")],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["awake"]
