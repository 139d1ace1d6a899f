"""Fault rows 30 and 31: unsafe and damaged weight files are refused by name, before anything opens them."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdistill.errors import WeightsError
from kdistill.weights import check_shapes, check_weights_dir, read_shapes, refuse_pickled


def write(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    file = folder / "model.safetensors"
    save_file(tensors or {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, file)
    return file


def header(file: Path, entries: object, data: bytes = b"") -> None:
    raw = json.dumps(entries).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def test_good_folder_passes_and_shapes_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    check_weights_dir(tmp_path)
    assert read_shapes(tmp_path) == {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "m.pt", "m.pt2", "m.pth", "w.joblib", "w.pkl", "w.npy"])
def test_pickled_weights_are_refused_with_the_conversion(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="pickled") as caught:
        check_weights_dir(tmp_path)
    assert "save_pretrained" in str(caught.value)


@pytest.mark.parametrize("content", ["pickle", "zip"])
def test_a_pickle_renamed_to_safetensors_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "model.safetensors"
    if content == "pickle":
        file.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("data.pkl", b"x")
    with pytest.raises(WeightsError, match="pickled"):
        check_weights_dir(tmp_path)
    with pytest.raises(WeightsError):
        refuse_pickled(file)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_cut_file_is_refused_at_any_point(tmp_path: Path, share: float) -> None:
    file = write(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError):
        check_weights_dir(tmp_path)


def test_header_of_two_to_the_63_is_refused_before_allocation(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match=str(1 << 63)):
        check_weights_dir(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2]},
        7,
    ],
)
def test_damaged_entry_names_the_tensor(tmp_path: Path, entry: object) -> None:
    header(tmp_path / "model.safetensors", {"decoder.weight": entry}, bytes(8))
    with pytest.raises(WeightsError, match="decoder.weight"):
        check_weights_dir(tmp_path)


@pytest.mark.parametrize("kind", ["overlap", "gap", "tail", "list"])
def test_layout_must_fill_the_file(tmp_path: Path, kind: str) -> None:
    def entry(start: int, stop: int) -> dict[str, object]:
        return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}

    entries: dict[str, object] = {
        "overlap": {"a": entry(0, 8), "b": entry(4, 12)},
        "gap": {"a": entry(0, 4), "b": entry(8, 12)},
        "tail": {"a": entry(0, 8)},
        "list": [],
    }
    header(tmp_path / "model.safetensors", entries[kind], bytes(12))
    with pytest.raises(WeightsError):
        check_weights_dir(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_weights_name_the_tensor(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    bad = torch.zeros(3, 5, dtype=dtype)
    bad[2, 4] = value
    write(tmp_path, {"fine": torch.ones(2), "layers.0.bad": bad})
    with pytest.raises(WeightsError, match=r"layers\.0\.bad"):
        check_weights_dir(tmp_path)


def test_wrong_shape_is_named_with_both(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(WeightsError, match=r"'a'.*\[2, 3\].*\[3, 3\]"):
        check_shapes(tmp_path, {"a": (3, 3)})
    check_shapes(tmp_path, {"a": (2, 3), "tied": (9,)})


@pytest.mark.parametrize("fault", ["missing shard", "path", "missing tensor", "no json"])
def test_shard_index_faults(tmp_path: Path, fault: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    names = {
        "missing shard": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
        "path": {"a": "../model-1.safetensors"},
        "missing tensor": {"a": "model-1.safetensors", "b": "model-1.safetensors"},
        "no json": None,
    }[fault]
    text = "{" if names is None else json.dumps({"weight_map": names})
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(WeightsError):
        check_weights_dir(tmp_path)


def test_sound_shards_pass(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_weights_dir(tmp_path)


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    file = write(tmp_path)
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(data)
        mutated[int(rng.integers(len(data)))] = int(rng.integers(256))
        file.write_bytes(bytes(mutated))
        try:
            check_weights_dir(tmp_path)
        except WeightsError:
            refused += 1
    assert refused > 100  # most of this file is header
