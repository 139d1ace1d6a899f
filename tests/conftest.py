"""Shared by all tests: one thread, offline, and the optional real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the checkout (see DATA.md); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("KDISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data sets are absent (../shared/data, or set KDISTILL_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two OpenMP threads on two busy cores collapse; and results are equal byte for byte at equal threads."""
    import torch

    torch.set_num_threads(1)
