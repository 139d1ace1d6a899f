"""Weight folders are checked before any library opens them: safetensors only, complete, finite.

The header is read here, byte by byte, because a damaged or hostile header (a length of 2^63, tensors that overlap or
reach past the end) has to be refused by name before anything allocates. Format: 8 bytes little-endian header length, a
JSON header, the tensors' bytes (the safetensors format, https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kdistill.errors import WeightsError

#: Suffixes of formats that can execute code when they are opened.
PICKLED_SUFFIXES: Final = frozenset({".bin", ".pt", ".pt2", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy"})
#: The safetensors library's own limit.
MAX_HEADER_BYTES: Final = 100_000_000
INDEX_NAME: Final = "model.safetensors.index.json"
ITEM_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_FLOAT_TYPES: Final[Mapping[str, type[np.generic]]] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_CHUNK: Final = 1 << 22
_CONVERT: Final = (
    "Convert it where you trust its origin: load it there and call model.save_pretrained(folder), "
    "or safetensors.torch.save_file(state_dict, 'model.safetensors')."
)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file: its type, shape and byte range in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def check_weights_dir(path: Path) -> None:
    """Check a folder of weights: safetensors, complete, every tensor inside the file, every number finite.

    Args:
        path: A folder as `save_pretrained` writes it, in one file or in shards with an index.

    Raises:
        WeightsError: No safetensors file (a pickled one is never opened), a shard is missing, a header or tensor is
            damaged, or a tensor holds NaN or infinity; the tensor is named.
    """
    files = weight_files(path)
    for file in files:
        check_weights_file(file)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, in order; raises WeightsError if there is none or a shard is missing."""
    if not path.is_dir():
        raise WeightsError("is not a folder", where=str(path), remedy="Give a folder that save_pretrained wrote.")
    if (path / INDEX_NAME).is_file():
        return _shards(path)
    if files := sorted(path.glob("*.safetensors")):
        return files
    pickled = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLED_SUFFIXES)
    if pickled:
        raise WeightsError(
            f"{pickled[0]} is a pickled weight file, which can run code", where=str(path), remedy=_CONVERT
        )
    raise WeightsError("holds no safetensors file", where=str(path), remedy="Give a folder that save_pretrained wrote.")


def refuse_pickled(file: Path) -> None:
    """Refuse a single weight file in a format that can execute code (the suffix or the content says so).

    Raises:
        WeightsError: A pickle, a torch zip archive or a joblib file; the remedy says how to convert it.
    """
    with file.open("rb") as handle:
        start = handle.read(4)
    is_archive = start[:2] == b"\x80\x02" or start[:2] == b"\x80\x04" or start == b"PK\x03\x04"
    if file.suffix.lower() in PICKLED_SUFFIXES or is_archive:
        raise WeightsError("is a pickled weight file, which can run code", where=str(file), remedy=_CONVERT)


def _shards(path: Path) -> list[Path]:
    try:
        weight_map = json.loads((path / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError("the shard index is damaged", where=str(path / INDEX_NAME)) from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"the shard index names {name!r}, no plain .safetensors name", where=str(path))
        if not (path / name).is_file():
            raise WeightsError(f"shard {name} is missing", where=str(path), remedy="Copy the folder again, in full.")
    found = {entry.name for name in names for entry in read_header(path / name)}
    if missing := sorted(set(weight_map) - found):
        raise WeightsError(f"tensor {missing[0]!r} is in the shard index and in no shard", where=str(path))
    return [path / name for name in names]


def read_header(file: Path) -> list[TensorEntry]:
    """Read and check the header of one safetensors file, without reading a tensor.

    Raises:
        WeightsError: Cut or damaged; what was expected and what was found is said.
    """
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise WeightsError(
                f"the header says {length} bytes, the file has {size}",
                where=str(file),
                remedy="The file is cut or is no safetensors file: copy or write it again.",
            )
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        items = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, AttributeError, RecursionError) as error:
        raise WeightsError("the header is no JSON object", where=str(file)) from error
    entries = [_entry(file, name, entry, 8 + length) for name, entry in items]
    _check_layout(file, entries, 8 + length, size)
    return entries


def _entry(file: Path, name: str, entry: object, base: int) -> TensorEntry:
    try:
        assert isinstance(entry, dict)
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        num_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        valid = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"tensor {name!r} has a damaged header entry", where=str(file)) from error
    if not valid or stop - start != num_bytes:
        raise WeightsError(
            f"tensor {name!r} of shape {list(shape)} and type {dtype} does not fit its {stop - start} bytes",
            where=str(file),
        )
    return TensorEntry(name, dtype, shape, base + start, base + stop)


def _check_layout(file: Path, entries: list[TensorEntry], base: int, size: int) -> None:
    """Tensors must fill the file without a gap or an overlap, as the format demands."""
    position = base
    for entry in sorted(entries, key=lambda e: (e.start, e.stop)):
        if entry.start != position:
            raise WeightsError(f"tensor {entry.name!r} overlaps another or leaves a gap", where=str(file))
        if entry.stop > size:
            raise WeightsError(
                f"tensor {entry.name!r} ends at byte {entry.stop}, the file at {size}",
                where=str(file),
                remedy="The file is cut: copy or write it again.",
            )
        position = entry.stop
    if position != size:
        raise WeightsError(f"{size - position} bytes follow the last tensor", where=str(file))


def check_weights_file(file: Path) -> None:
    """Check one safetensors file: header, layout, finite numbers (see `check_weights_dir`)."""
    refuse_pickled(file)
    for entry in read_header(file):
        if not all(_chunk_is_finite(chunk, entry.dtype) for chunk in _chunks(file, entry)):
            raise WeightsError(
                f"tensor {entry.name!r} holds NaN or infinity",
                where=str(file),
                remedy="Take an earlier checkpoint; the training that wrote this one diverged.",
            )


def _chunks(file: Path, entry: TensorEntry) -> Iterator[bytes]:
    if entry.dtype not in _FLOAT_TYPES and entry.dtype != "BF16":
        return
    with file.open("rb") as handle:
        handle.seek(entry.start)
        left = entry.stop - entry.start
        while left:
            chunk = handle.read(min(_CHUNK, left))
            left -= len(chunk)
            yield chunk


def _chunk_is_finite(chunk: bytes, dtype: str) -> bool:
    if dtype == "BF16":  # numpy has no bfloat16: all exponent bits set means NaN or infinity
        return not bool(((np.frombuffer(chunk, np.uint16) & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(np.frombuffer(chunk, _FLOAT_TYPES[dtype])).all())


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a checked weight folder, read from the headers alone."""
    return {entry.name: entry.shape for file in weight_files(path) for entry in read_header(file)}


def check_shapes(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a weight folder with the shapes that a model wants.

    Args:
        path: The weight folder.
        expected: Tensor name -> shape; tensors that the folder lacks are not judged here (weights may be tied).

    Raises:
        WeightsError: A tensor has another shape; it is named with both shapes.
    """
    for name, shape in read_shapes(path).items():
        if name in expected and shape != tuple(expected[name]):
            raise WeightsError(
                f"tensor {name!r} has shape {list(shape)}, the model's config wants {list(expected[name])}",
                where=str(path),
                remedy="Weights and config.json belong to different models: give the folder as it was saved.",
            )
