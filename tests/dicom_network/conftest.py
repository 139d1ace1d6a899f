"""A receiver on loopback, an archive that takes whatever comes, and films as an archive sends them."""

from __future__ import annotations

import atexit
import gc
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from kdistill.dicom_network.config import ListenConfig, SendConfig, StoreTarget
from kdistill.dicom_network.destinations import Destination, FolderDestination, Outcome, StoreDestination
from kdistill.dicom_network.listener import Listener
from kdistill.dicom_network.parts import Part
from kdistill.dicom_network.quiet import quiet_network
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import Reading
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.studies.decoding import DecoderPool

from ..explain.conftest import make_library, radiograph
from ..explain.test_exports import a_reading, film

__all__ = ["film"]
QUICK = SendConfig(aet="KDISTILL", timeout_s=60, attempts=3, first_pause_s=0.05, longest_pause_s=0.1)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    """Left sockets are collected here, where the modules ignore them, and not in somebody else's test."""
    yield
    gc.collect()


def phantom_film(size_px: int = 256, **changes: object) -> Dataset:
    """A film that the gate lets through at any size (`film` repeats a small one)."""
    return film(size_px, size_px, PixelData=radiograph(size_px).tobytes(), **changes)


def an_undecided_reading() -> Reading:
    """Every probability on its threshold: the model abstains, and its report is short and quick to write."""
    return replace(a_reading(), probabilities=np.full(NUM_OBSERVATIONS, 0.5))


class Held:
    """A reader that can be held up."""

    name, size_px = "full, seed 0 (abc)", 64
    thresholds = (0.5,) * NUM_OBSERVATIONS

    def __init__(self, reading: Reading | None = None) -> None:
        self.go, self.batches = threading.Event(), list[int]()
        self.reading = reading or an_undecided_reading()
        self.go.set()

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        assert self.go.wait(120)
        self.batches.append(len(images))
        return [self.reading] * len(images)


class Kept:
    """A destination in memory."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        self.parts.extend(parts)
        return [Outcome("delivered")] * len(parts)

    def datasets(self) -> list[Dataset]:
        return [pydicom.dcmread(io.BytesIO(part.data)) for part in self.parts]


@pytest.fixture
def reader() -> Held:
    return Held()


@pytest.fixture
def speaking() -> Held:
    """A reader that has something to say."""
    return Held(a_reading())


@pytest.fixture
def kept() -> Kept:
    return Kept()


@cache
def _pool() -> DecoderPool:
    """One decoding child for all tests: starting one takes longer than most of them."""
    pool = DecoderPool(1, require_chest=False).__enter__()
    atexit.register(pool.__exit__, None, None, None)
    return pool


@contextmanager
def listening(
    reader: Held,
    destination: Destination,
    *,
    outbox: FolderDestination | None = None,
    archive: StoreTarget | None = None,
    sending: SendConfig = QUICK,
    **settings: object,
) -> Iterator[Listener]:
    config = ListenConfig.model_validate({"port": 0, "acse_timeout_s": 30, **settings})
    context = ExplanationContext(Held.name, Held.thresholds, make_library(), RuleLabeler(), ExplainConfig())
    with quiet_network(), Listener(reader, context, _pool(), config, sending, destination, outbox, archive) as found:
        yield found


def send(port: int, *films: Dataset, classes: Sequence[str] = (), aet: str = "KDISTILL") -> list[Dataset]:
    """The status of each film, sent in one association by another program's hands."""
    entity = AE(ae_title="PACS")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    for sop_class in {*classes, *(str(one.SOPClassUID) for one in films)}:
        entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", port, ae_title=aet)
    assert association.is_established
    try:
        return [association.send_c_store(one) for one in films]
    finally:
        association.release()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


class Archive:
    """A storage provider of pynetdicom that can be up or down; up again on the same port."""

    def __init__(self, status: int = 0x0000) -> None:
        self.received: list[Dataset] = []
        self.status = status
        self._entity = AE(ae_title="ARCHIVE")
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            self._entity.add_supported_context(sop_class)
        self.port = 0
        self.up()

    def up(self) -> None:
        self._server = self._entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert self._server is not None
        self.port = self._server.server_address[1]

    def down(self) -> None:
        self._entity.shutdown()

    def target(self) -> StoreTarget:
        return StoreTarget(aet="ARCHIVE", host="127.0.0.1", port=self.port)

    def destination(self) -> StoreDestination:
        return StoreDestination(self.target(), QUICK)

    def _store(self, event: evt.Event) -> int:
        self.received.append(event.dataset)
        return self.status


@pytest.fixture
def archive() -> Iterator[Archive]:
    with quiet_network():
        found = Archive()
        yield found
        found.down()
