"""A stage's folder: manifest with hashes, atomic publish, verify, up-to-date check, run lock.

A folder without a valid manifest does not exist. It is written as a hidden sibling (`.<name>.partial`), every file is
synced, the manifest comes last, then one rename publishes it. A killed process leaves only the sibling: a resumable
stage finds its checkpoints there again, any other stage starts that folder afresh.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from kdistill import __version__
from kdistill.config import config_hash, dump_yaml
from kdistill.errors import EnvironmentFault, InputError, PolicyError
from kdistill.records import Record

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
#: Not part of a stage's identity: they hold times.
UNHASHED = frozenset({MANIFEST, "log.jsonl"})
CHECKPOINTS = "checkpoints"


class FileEntry(Record):
    """Size in bytes and SHA-256 of one published file."""

    sha256: str
    size: int


class Manifest(Record):
    """What a published folder says of itself. `identity` hashes stage, config, inputs and files, but no times."""

    stage: str
    identity: str
    config_hash: str
    inputs: dict[str, str]
    files: dict[str, FileEntry]
    counts: dict[str, int]
    seed: int | None
    device: str
    started: str
    finished: str
    kdistill_version: str
    git_commit: str | None
    libraries: dict[str, str]


@dataclass
class StageWriter:
    """Handed to a stage's builder: write files into `dir`, count every item that is dropped, log what happened."""

    dir: Path
    counts: Counter[str] = field(default_factory=Counter)
    device: str = "cpu"

    def count(self, name: str, n: int = 1) -> None:
        """Add n to a named count (of drops and of what was kept); it ends in the manifest."""
        self.counts[name] += n

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to log.jsonl: never a patient identifier."""
        line = {"time": _now(), "event": event, **fields}
        with (self.dir / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def current_commit() -> str | None:
    """The commit of the checkout that this package lies in; None outside one."""
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
        return done.stdout.strip() or None
    return None


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "bm25s", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def partial_dir(stage_dir: Path) -> Path:
    """Where a stage is written before it is published."""
    return stage_dir.parent / f".{stage_dir.name}.partial"


def _identity(stage: str, settings_hash: str, inputs: Mapping[str, str], files: Mapping[str, FileEntry]) -> str:
    return config_hash(
        {
            "stage": stage,
            "config": settings_hash,
            "inputs": dict(inputs),
            "files": {name: entry.sha256 for name, entry in files.items()},
        }
    )


@contextlib.contextmanager
def open_stage(
    stage_dir: Path,
    *,
    stage: str,
    config: Any,
    inputs: Mapping[str, Path] | None = None,
    seed: int | None = None,
    resumable: bool = False,
) -> Iterator[StageWriter]:
    """Write a stage's folder and publish it when the block ends without an exception.

    Args:
        stage_dir: The folder to publish; an older one with this name is replaced in one rename.
        stage: Its name in the manifest.
        config: The stage's own configuration (a model or a mapping); saved as config.yaml and hashed.
        inputs: Name -> published folder of each input stage; their identities go into the manifest.
        seed: The seed of the stage, if it has one.
        resumable: Keep what a killed process left in the partial folder, if it was made from the same configuration
            and inputs (the builder finds its checkpoints there).

    Raises:
        InputError: An input folder is missing or damaged.
        EnvironmentFault: The disk refuses a write.
    """
    origin = _Origin(
        stage=stage,
        config_hash=config_hash(config),
        inputs={name: read_manifest(folder).identity for name, folder in (inputs or {}).items()},
        seed=seed,
    )
    work = partial_dir(stage_dir)
    try:
        _prepare(work, origin.hash(), keep=resumable)
        writer, started = StageWriter(work), _now()
        yield writer
        _complete(work, config)
        _write_synced(work / MANIFEST, _manifest(origin, writer, started).model_dump_json(indent=1))
        _publish(work, stage_dir)
    except OSError as error:
        raise _refused(error, stage_dir) from error
    logger.info("published %s", stage_dir)


class _Origin(NamedTuple):
    """What a stage is made from, known before it is made."""

    stage: str
    config_hash: str
    inputs: dict[str, str]
    seed: int | None

    def hash(self) -> str:
        """Equal for the same configuration and inputs."""
        return config_hash({"config": self.config_hash, "inputs": self.inputs})


def _complete(work: Path, config: Any) -> None:
    """Add the configuration; take away what only an unfinished stage has."""
    (work / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
    (work / "origin").unlink()


def _manifest(origin: _Origin, writer: StageWriter, started: str) -> Manifest:
    """Hash and sync every file of a finished stage, and say what it is."""
    files = _hash_and_sync(writer.dir)
    return Manifest(
        stage=origin.stage,
        identity=_identity(origin.stage, origin.config_hash, origin.inputs, files),
        config_hash=origin.config_hash,
        inputs=origin.inputs,
        files=files,
        counts=dict(sorted(writer.counts.items())),
        seed=origin.seed,
        device=writer.device,
        started=started,
        finished=_now(),
        kdistill_version=__version__,
        git_commit=current_commit(),
        libraries=_libraries(),
    )


def _refused(error: OSError, stage_dir: Path) -> EnvironmentFault:
    """The builder's files and the stage's own fail alike here: only some errors mean that the disk takes no more."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENOMEM):
        return EnvironmentFault(
            f"could not be made: the system refused a file ({error.strerror or error})",
            where=str(stage_dir),
            remedy="Look whether a file that it reads was moved or deleted meanwhile, then run again with --resume.",
        )
    return EnvironmentFault(
        f"cannot be written ({error.strerror or error})",
        where=str(stage_dir),
        remedy="Free space or choose another --out, then run again with --resume; what was published is intact.",
    )


def _prepare(work: Path, origin: str, *, keep: bool) -> None:
    marker = work / "origin"
    if work.exists() and not (keep and marker.exists() and marker.read_text() == origin):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "log.jsonl").unlink(missing_ok=True)
    (work / MANIFEST).unlink(missing_ok=True)
    _write_synced(marker, origin)


def _hash_and_sync(folder: Path) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        if name not in UNHASHED:
            files[name] = FileEntry(sha256=sha256_file(path), size=path.stat().st_size)
    return files


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_dir(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(work: Path, stage_dir: Path) -> None:
    _sync_dir(work)
    old = stage_dir.parent / f".{stage_dir.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if stage_dir.exists():
        stage_dir.rename(old)
    work.rename(stage_dir)
    _sync_dir(stage_dir.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_manifest(stage_dir: Path) -> Manifest:
    """Read a published folder's manifest.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = stage_dir / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            "is not a published stage (no manifest.json)",
            where=str(stage_dir),
            remedy="Run the recipe first: kdistill run RECIPE",
        ) from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(
            "its manifest.json is damaged",
            where=str(stage_dir),
            remedy="Delete this folder and run the recipe with --resume.",
        ) from error


def verify_stage(stage_dir: Path) -> list[str]:
    """Compare every file with the manifest; returns one sentence for each problem (empty: all is well)."""
    try:
        manifest = read_manifest(stage_dir)
    except InputError as error:
        return [str(error)]
    problems = []
    for name, entry in manifest.files.items():
        path = stage_dir / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != entry.size:
            problems.append(f"{name}: {path.stat().st_size} bytes, the manifest says {entry.size}")
        elif sha256_file(path) != entry.sha256:
            problems.append(f"{name}: content differs from the manifest")
    if manifest.identity != _identity(manifest.stage, manifest.config_hash, manifest.inputs, manifest.files):
        problems.append(f"{MANIFEST}: its identity does not match its content")
    return problems


def is_current(stage_dir: Path, *, config: Any, inputs: Mapping[str, Path] | None = None) -> bool:
    """Whether a verified folder stands there that was made from this configuration and these inputs."""
    if not (stage_dir / MANIFEST).is_file() or verify_stage(stage_dir):
        return False
    manifest = read_manifest(stage_dir)
    identities = {name: read_manifest(folder).identity for name, folder in (inputs or {}).items()}
    return manifest.config_hash == config_hash(config) and manifest.inputs == identities


def adopt_stage(
    stage_dir: Path, made_elsewhere: Path, *, config: Any, inputs: Mapping[str, Path] | None = None
) -> bool:
    """Take over a folder that another run published from the same configuration and inputs, in place of making it.

    Files are hard links where the disk allows it (published files are never written again), else copies.

    Args:
        stage_dir: The folder to publish.
        made_elsewhere: The other run's folder; it need not exist.
        config: As in `open_stage`.
        inputs: As in `open_stage`: this run's own input folders.

    Returns:
        Whether it was taken over; False where the other folder is absent, damaged or made from something else.

    Raises:
        EnvironmentFault: The disk refuses a write.
    """
    if not is_current(made_elsewhere, config=config, inputs=inputs):
        return False
    work = partial_dir(stage_dir)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made_elsewhere, work, copy_function=_link_or_copy)
        _publish(work, stage_dir)
    except OSError as error:
        raise _refused(error, stage_dir) from error
    logger.info("took over %s", stage_dir)
    return True


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def find_stages(run_dir: Path) -> list[Path]:
    """All published stage folders below a run, sorted."""
    return sorted(path.parent for path in run_dir.rglob(MANIFEST) if ".partial" not in str(path))


@contextlib.contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the run folder for this process (released by the kernel even after kill -9).

    Raises:
        PolicyError: Another process holds it; its pid is named.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise PolicyError(
                f"is in use by process {pid}", where=str(run_dir), remedy="Wait for it, or give this run another --out."
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
