"""Destinations that hang in the middle, and an end while the model is slow: nothing waits for ever, nothing is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom import AE, evt

from kdistill.dicom_network.config import SendConfig, StoreTarget, WebTarget
from kdistill.dicom_network.destinations import Destination, Outcome, StoreDestination
from kdistill.dicom_network.parts import Part, part_of
from kdistill.dicom_network.quiet import quiet_network
from kdistill.dicom_network.stow import WebDestination

from .conftest import Held, Kept, film, listening, phantom_film, send, wait_for
from .test_orthanc import as_bytes

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
SOON = SendConfig(timeout_s=1)


def a_part(size_px: int = 64) -> Part:
    return part_of("film.dcm", as_bytes(film(size_px, size_px)))


def delivered(destination: Destination, part: Part) -> Outcome:
    """The outcome, from a thread that may not end: a test must."""
    found: list[Outcome] = []
    with quiet_network():
        thread = threading.Thread(target=lambda: found.extend(destination.deliver([part])), daemon=True)
        thread.start()
        thread.join(120)
    assert found, "the sender hangs"
    return found[0]


@contextmanager
def answering(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A port at which one connection is answered as somebody likes, until the end."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            with door.accept()[0] as connection:
                connection.recv(65_536)
                answer(connection, over)

        thread = threading.Thread(target=take)
        thread.start()
        yield door.getsockname()[1]
        over.set()
        thread.join()


@pytest.mark.parametrize("said", [b"", b"\x02\x00\x00", b"\x02\x00\x00\x00\x01\x00abc"])
def test_an_archive_that_stops_in_the_middle_of_an_answer_is_left(said: bytes) -> None:
    def hang(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(said)
        over.wait(120)

    with answering(hang) as port:
        target = StoreTarget(aet="X", host="127.0.0.1", port=port)
        outcome = delivered(StoreDestination(target, SOON), a_part())
    assert outcome.fate == "again" and "does it speak TLS" in outcome.reason


def test_an_archive_that_reads_nothing_more_is_left() -> None:
    over = threading.Event()
    entity = AE(ae_title="X")
    entity.add_supported_context(ComputedRadiographyImageStorage)

    def hang(event: evt.Event) -> None:
        if event.assoc.is_established:
            over.wait(120)

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_DATA_RECV, hang)])
    assert server is not None and server.socket is not None
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is accepted later has it too
    try:
        target = StoreTarget(aet="X", host="127.0.0.1", port=server.server_address[1])
        assert delivered(StoreDestination(target, SOON), a_part(2500)).fate == "again"
    finally:
        over.set()
        server.shutdown()


def test_a_service_that_drips_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"KDISTILL_DICOM_{name}", raising=False)

    def drip(connection: socket.socket, over: threading.Event) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000:
                connection.sendall(bytes([byte]))
                if over.wait(0.1):
                    return
        except OSError:
            return

    with answering(drip) as port:
        target = WebTarget(url=f"http://127.0.0.1:{port}/dicom-web")
        outcome = delivered(WebDestination(target, SOON), a_part())
    assert outcome.fate == "again" and "broke off" in outcome.reason


def test_an_object_with_an_impossible_uid_costs_only_itself(kept: Kept, reader: Held) -> None:
    odd = a_part()._replace(sop_class="1.2." + "3" * 70)
    with listening(reader, kept) as listener:
        target = StoreTarget(aet="KDISTILL", host="127.0.0.1", port=listener.port)
        parts = [a_part(), odd, part_of("b.dcm", as_bytes(phantom_film()))]
        outcomes = StoreDestination(target, SendConfig(timeout_s=60)).deliver(parts)
    assert [outcome.fate for outcome in outcomes] == ["delivered", "refused", "delivered"]
    assert outcomes[1].reason == "its class, instance or transfer syntax is no UID"


def test_what_was_accepted_is_read_to_the_end_however_slow_the_model_is(reader: Held, kept: Kept) -> None:
    reader.go.clear()
    context = listening(reader, kept, batch_size=1)
    listener = context.__enter__()
    send(listener.port, film(), film(), film())
    ending = threading.Thread(target=context.__exit__, args=(None, None, None))
    ending.start()
    wait_for(lambda: not listener._receiver._thread.is_alive())  # type: ignore[union-attr]
    time.sleep(0.5)
    assert not listener._jobs._closing  # from when it does, a model has half a minute
    reader.go.set()
    ending.join(120)
    assert not ending.is_alive() and len(kept.parts) == 3 and listener.num_open == 0


def test_a_result_that_cannot_be_written_is_counted(reader: Held, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("kdistill.dicom_network.listener.export", broken)
    with listening(reader, kept) as listener:
        send(listener.port, film())
    counts = dict(listener.counts)
    assert (counts["accepted"], counts["explained"], counts["failed"], kept.parts) == (1, 0, 1, [])
