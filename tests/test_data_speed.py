"""benchmarks/data_speed.py reads every image once, and the ways to move an image that it compares do the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "data_speed.py"
    spec = importlib.util.spec_from_file_location("data_speed", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["data_speed"] = module
    spec.loader.exec_module(module)
    return module


def test_a_pass_reads_every_image_once(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_cache(tmp_path, 7, 32)
    assert len(np.unique(np.load(tmp_path / "images.npy").reshape(7, -1), axis=0)) == 7
    visits = [visit.study for batch in benchmark.batches_of(7, 3, seed=1) for visit in batch]
    assert sorted(visits) == list(range(7)) and visits != list(range(7))
    for step in ("rows", "collator", "augmented"):
        assert benchmark.read_pass(step, tmp_path, 3, 0, 1)[0] == 7
    plain, augmented = (benchmark.collator_of(tmp_path, value) for value in (False, True))
    batch = next(benchmark.batches_of(7, 3, seed=1))
    assert not np.array_equal(plain(batch)["pixel_values"], augmented(batch)["pixel_values"])


def test_the_movers_that_are_compared_agree(benchmark: ModuleType) -> None:
    small = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    film = np.array(Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC))[None]
    forward = benchmark.affine(benchmark.DEFAULTS, np.array([0.9, 0.5, 0.4, -0.4]))
    first, *others = (move(0).astype(int) for move in benchmark.movers(film, forward).values())
    assert abs(first - film[0])[20:76, 20:76].mean() > 5, "it moves"
    for other in others:
        assert abs(first - other)[20:76, 20:76].max() <= 1  # roundings
