"""What `kdistill doctor` looks at. Versions are read from metadata: a broken import cannot break the check."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

_NEEDED = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy", "scikit-learn", "pyarrow")
_OPTIONAL = {
    "peft": "LoRA teachers: pip install 'kdistill[llm]'",
    "python-gdcm": "JPEG lossless in DICOM: pip install 'kdistill[dicom]'",
    "pyjpegls": "JPEG-LS in DICOM: pip install 'kdistill[dicom]'",
    "pylibjpeg-openjpeg": "HTJ2K in DICOM: pip install 'kdistill[dicom]'",
}
#: `make demo` stays below this (LOG.md).
_MEMORY_GB = 4.0
_DISK_GB = 2.0


def checks() -> list[dict[str, object]]:
    """One row a check: name, ok, needed, text."""
    rows = [_row("python", sys.version_info >= (3, 11), True, sys.version.split()[0])]
    rows += [_package(name, needed=True) for name in _NEEDED]
    rows += [_package(name, needed=False, hint=hint) for name, hint in _OPTIONAL.items()]
    rows += [_cores(), _memory(), _disk(), _accelerator()]
    return rows


def _row(name: str, ok: bool, needed: bool, text: str) -> dict[str, object]:
    return {"name": name, "ok": ok, "needed": needed, "text": text}


def _package(name: str, *, needed: bool, hint: str = "pip install kdistill") -> dict[str, object]:
    try:
        return _row(name, True, needed, metadata.version(name))
    except metadata.PackageNotFoundError:
        return _row(name, False, needed, f"not installed ({hint})")


def _cores() -> dict[str, object]:
    count = len(os.sched_getaffinity(0))
    return _row("cores", count >= 2, False, f"{count} (two give the times in the README)")


def _memory() -> dict[str, object]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return _row("memory", total >= _MEMORY_GB, True, f"{total:.1f} GB (at least {_MEMORY_GB:.0f})")


def _disk() -> dict[str, object]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return _row("disk", free >= _DISK_GB, True, f"{free:.1f} GB free here (at least {_DISK_GB:.0f})")


def _accelerator() -> dict[str, object]:
    import torch

    found = torch.cuda.is_available()
    return _row("gpu", found, False, torch.cuda.get_device_name() if found else "none: everything runs on the CPU")
