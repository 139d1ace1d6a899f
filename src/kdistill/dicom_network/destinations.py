"""Places that results go to: an application entity (C-STORE), a DICOMweb service (STOW-RS), a folder.

Each says of every object what became of it: it is there, it is refused for good, or it may be sent again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from kdistill.dicom_network.config import FolderTarget, SendConfig, StoreTarget, Target, WebTarget
from kdistill.dicom_network.parts import SLOWEST_BYTES_PER_S, Outcome, Part, fate_of
from kdistill.dicom_network.peer import Peer, UnreachedError
from kdistill.dicom_network.stow import WebDestination

#: PS3.8 7.1.1.7: an association has at most 128 presentation contexts.
_MAX_CONTEXTS: Final = 128
_UNNAMEABLE: Final = Outcome("refused", "its class, instance or transfer syntax is no UID")


class Destination(Protocol):
    """Takes objects."""

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        """Send objects; one outcome each, in order. Never raises for what the other side does."""


def destination_of(target: Target, config: SendConfig) -> Destination:
    """The destination that a target describes.

    Raises:
        PolicyError: Credentials would travel unencrypted to another machine.
        ConfigError: Half of the credentials is set.
    """
    match target:
        case StoreTarget():
            return StoreDestination(target, config)
        case WebTarget():
            return WebDestination(target, config)
        case FolderTarget():
            return FolderDestination(target)


class StoreDestination:
    """An application entity; one association for each delivery.

    Args:
        target: Which.
        config: Times, and certificates where it is spoken to over TLS.

    Raises:
        ConfigError, InputError, PolicyError, EnvironmentFault: A certificate or key cannot be used.
    """

    def __init__(self, target: StoreTarget, config: SendConfig) -> None:
        self._peer, self._timeout_s = Peer(target, config), config.timeout_s

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        """See `Destination`."""
        good = [part for part in parts if _is_nameable(part)]
        sent = dict(zip(map(id, good), self._deliver(good) if good else [], strict=True))
        return [sent.get(id(part), _UNNAMEABLE) for part in parts]

    def _deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        try:
            with self._peer.call(_contexts(parts)) as association:
                return [self._stored(association, part) for part in parts]
        except UnreachedError as error:
            return [error.outcome] * len(parts)

    def _stored(self, association: Any, part: Part) -> Outcome:
        if not association.is_established:
            return Outcome("again", "the association ended")
        # The answer is waited for from when the object is queued, so the time to carry it comes on top.
        association.dimse_timeout = self._timeout_s + len(part.data) / SLOWEST_BYTES_PER_S
        try:
            status = association.send_c_store(part.dataset()).get("Status")
        except RuntimeError:
            return Outcome("again", "the association ended")
        except Exception as error:  # no accepted context, or a data set that cannot be written again
            return Outcome("refused", f"the destination takes no such object ({type(error).__name__})")
        if status is None:
            return Outcome("again", "the destination gave no answer")
        return Outcome(fate_of(status), "" if status == 0 else f"status 0x{status:04X}")


def _is_nameable(part: Part) -> bool:
    """Whether a request can name the object at all: no UID has more than 64 characters (PS3.5 9.1)."""
    return max(len(part.sop_class), len(part.instance), len(part.syntax)) <= 64


def _contexts(parts: Sequence[Part]) -> list[Any]:
    """A presentation context for each class and syntax; uncompressed objects may be sent in either encoding."""
    from pynetdicom import build_context

    wanted: dict[tuple[str, str], None] = {}
    for part in parts:
        syntax = UID(part.syntax)
        plain = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        for one in dict.fromkeys((syntax, *(() if syntax.is_compressed else plain))):
            wanted[part.sop_class, one] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in list(wanted)[:_MAX_CONTEXTS]]


class FolderDestination:
    """A folder that only its owner may read: a DICOM result names its patient."""

    def __init__(self, target: FolderTarget) -> None:
        self._path = target.path

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        """See `Destination`. A file appears whole or not at all."""
        return [self._written(part) for part in parts]

    def _written(self, part: Part) -> Outcome:
        name = "".join(c if (c.isascii() and c.isalnum()) or c == "." else "_" for c in part.instance) + ".dcm"
        partial = self._path / f".{name}.partial"
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(part.data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path / name)
            _sync(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):  # of a full disk it would take what is left
                partial.unlink(missing_ok=True)
            return Outcome("again", f"the folder cannot be written ({error.strerror})")
        return Outcome("delivered")


def _sync(folder: Path) -> None:
    """Write a folder's list of names to the disk: without it a file may be gone when power fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
