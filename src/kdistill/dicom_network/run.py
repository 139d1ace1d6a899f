"""`dicom listen` and `dicom send`: settings checked, a run's student loaded, and the loop that waits for a signal."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kdistill.config import validate
from kdistill.dicom_network.config import (
    FolderTarget,
    ListenConfig,
    SendConfig,
    StoreTarget,
    Target,
    TlsFiles,
    WebTarget,
    parse_target,
)
from kdistill.dicom_network.tls import server_context
from kdistill.errors import ConfigError, EnvironmentFault, InputError, PolicyError
from kdistill.explain.run import check_policy, load_context, student_dir_of
from kdistill.interrupt import SignalWatch
from kdistill.serve.config import is_loopback

if TYPE_CHECKING:
    from kdistill.dicom_network.commitment import Confirmer
    from kdistill.dicom_network.listener import Listener
    from kdistill.dicom_network.parts import Outcome, Part

Status = dict[str, object]
_LOOK_S: Final = 0.2
#: Objects in one association or request.
_BATCH: Final = 32


@dataclass(frozen=True)
class Way:
    """Where results go: `to` is a destination as typed, `folder` a folder; exactly one of them."""

    to: str | None = None
    folder: Path | None = None
    outbox: Path | None = None

    def target(self) -> Target:
        """The destination.

        Raises:
            ConfigError: None or two are given, or it is no destination.
        """
        if (self.to is None) == (self.folder is None):
            raise ConfigError(
                "needs one place for the results", where="--to, --out", remedy="Give --to AET@host:port, or --out DIR."
            )
        return FolderTarget(path=self.folder) if self.folder is not None else parse_target(str(self.to))


def listen_run(
    run_dir: Path,
    settings: Mapping[str, object],
    way: Way,
    *,
    sending: Mapping[str, object] = MappingProxyType({}),
    arm: str = "full",
    seed: int | None = None,
    quality: str = "refuse",
    announce: Callable[[Status], None],
    every_s: float = 60.0,
) -> Status:
    """Explain images as they arrive, until SIGINT or SIGTERM; then finish what was accepted.

    Args:
        run_dir: The run.
        settings: Fields of `ListenConfig`.
        way: Where results go.
        sending: Fields of `SendConfig`: whether they go over TLS, and whether the archive is asked to commit to them.
        arm: Which student.
        seed: Which seed; None: the first.
        quality: What follows when an image does not look like a frontal chest film: "refuse", "warn" or "off".
        announce: Told once where it listens, and then of every change of the counts.
        every_s: Seconds between two looks at the counts.

    Returns:
        The counts at the end.

    Raises:
        PolicyError: An address that others can reach, without a list of who may connect; a key that others can read.
        ConfigError: An unknown policy or destination, or TLS options that do not fit one another.
        InputError: No such student.
        EnvironmentFault: The DICOM network library is not installed, the port is taken, or a folder cannot be written.
    """
    config = _checked(settings)
    target, policy = way.target(), check_policy(quality)
    sender = _sending({"aet": config.aet, "tls_files": config.tls_files, **sending}, target, listens=True)
    if sender.commit and way.outbox is None:
        raise ConfigError(
            "needs a place for what the archive does not commit to", where="--commit", remedy="Give --outbox DIR."
        )
    for option, folder in (("--out", way.folder), ("--outbox", way.outbox)):
        if folder is not None:
            _require_writable(folder, option)
    student_dir = student_dir_of(run_dir, arm, seed)
    _require_network()
    from kdistill.dicom_network.destinations import FolderDestination, destination_of
    from kdistill.dicom_network.listener import Listener
    from kdistill.dicom_network.quiet import quiet_network

    destination = destination_of(target, sender)
    outbox = FolderDestination(FolderTarget(path=way.outbox)) if way.outbox is not None else None
    from kdistill.explain.student_reader import load_reader
    from kdistill.studies.decoding import DecoderPool

    reader = load_reader(student_dir)
    context = load_context(run_dir, reader.name, reader.thresholds, quality=policy)
    pool = DecoderPool(config.decoders, require_chest=False)
    archive = target if isinstance(target, StoreTarget) else None
    with SignalWatch() as watch, quiet_network(), pool:
        with Listener(reader, context, pool, config, sender, destination, outbox, archive) as listener:
            start: Status = {"aet": config.aet, "host": config.host, "port": listener.port, "model": reader.name}
            announce({"state": "listening", **start, "tls": config.tls_files.cert is not None})
            _wait(listener, watch, announce, every_s)
            announce({"state": "ending", "open": listener.num_open})
        return {"state": "ended", "open": listener.num_unanswered, **dict(listener.counts)}


def _wait(listener: Listener, watch: SignalWatch, announce: Callable[[Status], None], every_s: float) -> None:
    told, last = dict(listener.counts), time.monotonic()
    while watch.received is None:
        time.sleep(_LOOK_S)
        if time.monotonic() - last >= every_s and dict(listener.counts) != told:
            told, last = dict(listener.counts), time.monotonic()
            announce({"state": "listening", "open": listener.num_open, **told})


def send_files(
    sources: Sequence[Path],
    to: str,
    *,
    aet: str,
    attempts: int = 1,
    sending: Mapping[str, object] = MappingProxyType({}),
    receiving: Mapping[str, object] = MappingProxyType({}),
    on_outcome: Callable[[str, str, str], None],
) -> dict[str, int]:
    """Send DICOM files to a destination.

    Args:
        sources: Files, and folders of them.
        to: `AET@host:port` (C-STORE) or the address of a DICOMweb service (STOW-RS).
        aet: Our AE title.
        attempts: Times that each object is sent at most while the destination is away.
        sending: Other fields of `SendConfig`: whether they go over TLS, and whether the archive is asked to commit.
        receiving: Fields of `ListenConfig`: where its reports on that are waited for.
        on_outcome: Told of each file: its name, "delivered", "refused", "again", "uncommitted" or "unreadable", and
            why.

    Returns:
        How many files had each of these outcomes.

    Raises:
        ConfigError: No such destination or AE title, or options that do not fit one another.
        InputError: A source does not exist, or there is no file in it.
        PolicyError: Credentials would travel unencrypted to another machine.
        EnvironmentFault: The DICOM network library is not installed, or the port for reports is taken.
    """
    target = parse_target(to)
    config = _sending({"aet": aet, "attempts": attempts, **sending}, target)
    files = list(_files(sources))
    if not files:
        raise InputError(
            "there is no file to send",
            where=", ".join(str(path) for path in sources),
            remedy="Give DICOM files, or a folder that holds some (hidden files are passed over).",
        )
    _require_network()
    from kdistill.dicom_network.counts import Counts
    from kdistill.dicom_network.courier import Courier
    from kdistill.dicom_network.destinations import destination_of
    from kdistill.dicom_network.parts import read_part
    from kdistill.dicom_network.quiet import quiet_network

    courier = Courier(destination_of(target, config), config, Counts(), loses=False)
    found = {"delivered": 0, "refused": 0, "again": 0, "uncommitted": 0, "unreadable": 0}

    def told(name: str, fate: str, reason: str) -> None:
        found[fate] += 1
        on_outcome(name, fate, reason)

    with quiet_network(), _asking(target, config, receiving) as confirmer:
        for start in range(0, len(files), _BATCH):
            parts: list[Part] = []
            for path in files[start : start + _BATCH]:
                try:
                    parts.append(read_part(path))
                except InputError as error:
                    told(path.name, "unreadable", error.what)
            outcomes = courier.deliver(parts) if parts else []
            if confirmer is not None:
                outcomes = _confirmed(confirmer, parts, outcomes)
            for part, outcome in zip(parts, outcomes, strict=True):
                told(part.name, outcome.fate, outcome.reason)
    return found


@contextmanager
def _asking(target: Target, config: SendConfig, receiving: Mapping[str, object]) -> Iterator[Confirmer | None]:
    """Who asks the destination to commit, with a receiver for its reports; None where that is not wished."""
    if not (config.commit and isinstance(target, StoreTarget)):
        yield None
        return
    from kdistill.dicom_network.commitment import Confirmer, Transactions
    from kdistill.dicom_network.counts import Counts
    from kdistill.dicom_network.receiver import Receiver

    settings = _checked({"aet": config.aet, "tls_files": config.tls_files, **receiving})
    if is_loopback(settings.host) and not is_loopback(target.host):
        raise ConfigError(
            f"the archive's report cannot come to {settings.host}",
            where="--commit",
            remedy="Give --host and --port as the archive knows them for our title, and --allow with its address.",
        )
    transactions = Transactions(counts := Counts())
    receiver = Receiver(settings, counts, transactions=transactions)
    try:
        yield Confirmer(target, config, transactions)
    finally:
        receiver.close()


def _confirmed(confirmer: Confirmer, parts: Sequence[Part], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, where what was delivered is so only if the archive has committed to it."""
    there = [part for part, outcome in zip(parts, outcomes, strict=True) if outcome.fate == "delivered"]
    told = iter(confirmer.confirm(there) if there else [])
    return [next(told) if outcome.fate == "delivered" else outcome for outcome in outcomes]


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        if source.is_dir():
            yield from sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif source.is_file():
            yield source
        else:
            raise InputError("no such file or folder", where=str(source), remedy="Look for a slip in the path.")


def _checked(settings: Mapping[str, object]) -> ListenConfig:
    host = str(settings.get("host", "127.0.0.1"))
    if not settings.get("allow") and not is_loopback(host):
        raise PolicyError(
            f"{host} can be reached from other machines, and nobody is said to be allowed",
            where="--host",
            remedy="Give --allow ADDRESS (or a network) of the archive that may connect, or listen on 127.0.0.1.",
        )
    config = validate(ListenConfig, dict(settings), where="dicom listen")
    if config.tls_files.cert is not None or config.tls_files.key is not None:
        server_context(config.tls_files, config.tls_peer)  # a fault of it is told before the model is loaded
    return config


def _sending(settings: Mapping[str, object], target: Target, *, listens: bool = False) -> SendConfig:
    """How to send, checked: an option that has no effect could make somebody believe that the way is encrypted.

    Args:
        settings: Fields of `SendConfig`.
        target: Where to.
        listens: The certificate is also the receiver's own, and may serve nothing else.

    Raises:
        ConfigError: Options do not fit the destination, or one another.
    """
    config = validate(SendConfig, dict(settings), where="dicom")
    if config.tls and not isinstance(target, StoreTarget):
        raise ConfigError(
            "is for AET@host:port alone",
            where="--to-tls",
            remedy="A DICOMweb service has TLS where its address is https.",
        )
    if config.commit and not isinstance(target, StoreTarget):
        raise ConfigError("is for AET@host:port alone", where="--commit")
    if config.commit and config.tls and not listens and None in (config.tls_files.cert, config.tls_files.ca):
        raise ConfigError(
            "needs a certificate of ours: the archive's report comes over TLS too",
            where="--commit",
            remedy="Give --tls-cert, --tls-key and --tls-ca.",
        )
    if config.tls_name is not None and not config.tls:
        raise ConfigError("has no effect without --to-tls", where="--to-tls-name")
    is_web = isinstance(target, WebTarget) and target.url.startswith("https:")
    has_own = listens and config.tls_files.cert is not None
    if config.tls_files != TlsFiles() and not (config.tls or is_web or has_own):
        raise ConfigError(
            "has no effect: nothing would be encrypted",
            where="--tls-cert, --tls-key, --tls-ca",
            remedy="Give --to-tls, or an https address; the receiver itself speaks TLS where --tls-cert is given.",
        )
    return config


def _require_writable(folder: Path, option: str) -> None:
    """Told at the start: later every result would be lost.

    Raises:
        EnvironmentFault: The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise EnvironmentFault(
            f"is no folder that can be written ({reason})",
            where=f"{option} {folder}",
            remedy="Name a folder that this user may write to; a missing one is made.",
        ) from error


def _require_network() -> None:
    try:
        import highdicom  # noqa: F401
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"{error.name} is not installed, which the DICOM network needs", remedy="pip install 'kdistill[hospital]'"
        ) from error
