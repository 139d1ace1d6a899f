"""FAULTS 33-39 on the network: probes, crowds, peers that lie about lengths, and a disk that is full."""

from __future__ import annotations

import resource
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage
from pynetdicom import AE, evt

from kdistill.dicom_network.commitment import PUSH_MODEL, Confirmer, Transactions
from kdistill.dicom_network.config import FolderTarget, SendConfig, StoreTarget
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.courier import Courier
from kdistill.dicom_network.destinations import FolderDestination
from kdistill.dicom_network.parts import Outcome, part_of
from kdistill.dicom_network.quiet import quiet_network

from .conftest import QUICK, Archive, Held, Kept, film, listening, send, wait_for
from .test_listener import association_request
from .test_orthanc import as_bytes

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def acceptors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "AcceptorThread" in thread.name]


def test_a_scan_of_ports_keeps_nobody_out(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, max_connections=8, acse_timeout_s=600) as listener:
        for _ in range(40):
            socket.create_connection(("127.0.0.1", listener.port)).close()
        wait_for(lambda: not acceptors())  # and not after the ten minutes that a request may take here
        assert [status.Status for status in send(listener.port, film())] == [0]


def test_fifty_requests_at_once_are_accepted_or_rejected_for_now(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, max_associations=16) as listener:
        peers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(50)]
        for peer in peers:
            peer.settimeout(60)
            peer.sendall(association_request())
        answers = [peer.recv(65_536) for peer in peers]
        rejected = [answer for answer in answers if answer[:1] == b"\x03"]
        assert {answer[7:10] for answer in rejected} == {b"\x02\x03\x02"}  # transient, local limit (PS3.8 9.3.4)
        assert 1 <= len([answer for answer in answers if answer[:1] == b"\x02"]) == 50 - len(rejected) <= 16
        for peer in peers:
            peer.close()
        wait_for(lambda: not acceptors())
        assert [status.Status for status in send(listener.port, film())] == [0]


@pytest.mark.slow
def test_a_crowd_of_fifty_is_served_in_turns(reader: Held, kept: Kept) -> None:
    films = [film() for _ in range(50)]
    tries, lock = [0], threading.Lock()

    def deliver(one: Dataset) -> int:
        """Send a film as an archive does: again, where it is rejected for now."""
        while True:
            entity = AE(ae_title="PACS")
            entity.acse_timeout = entity.dimse_timeout = 120
            entity.add_requested_context(ComputedRadiographyImageStorage)
            association = entity.associate("127.0.0.1", listener.port, ae_title="KDISTILL")
            with lock:
                tries[0] += 1
            if association.is_established:
                status = int(association.send_c_store(one).Status)
                association.release()
                if status != 0xA700:
                    return status
            together.wait(0.05)

    together = threading.Event()
    with listening(reader, kept, max_associations=4) as listener:
        with ThreadPoolExecutor(50) as crowd:
            assert list(crowd.map(deliver, films)) == [0] * 50
        wait_for(lambda: not acceptors())
    counts = dict(listener.counts)
    assert (counts["accepted"], counts["explained"], len(kept.parts)) == (50, 50, 50)
    assert {str(one.StudyInstanceUID) for one in kept.datasets()} == {str(one.StudyInstanceUID) for one in films}


def message(command: bytes, *, control: int = 3, context: int = 1, length: int | None = None) -> bytes:
    """P-DATA-TF with one value (PS3.8 9.3.5), which may lie about its length."""
    value = struct.pack(">LBB", len(command) + 2 if length is None else length, context, control) + command
    return b"\x04\x00" + struct.pack(">L", len(value)) + value


def element(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", 0, tag, len(value) if length is None else length) + value


ECHO = element(0x0002, b"1.2.840.10008.1.1\x00") + element(0x0100, b"\x30\x00") + element(0x0110, b"\x01\x00")
WHOLE = ECHO + element(0x0800, b"\x01\x01")
LIES = {
    "a value longer than its unit": message(WHOLE, length=60_000),
    "a value of four gigabytes": message(WHOLE, length=0xFFFFFFFF),
    "a value without a control byte": message(WHOLE, length=1),
    "a value of no length": message(WHOLE, length=0),
    "an element longer than its command": message(ECHO + element(0x0800, b"\x01\x01", 0x7FFFFFFF)),
    "a command without a kind": message(element(0x0110, b"\x01\x00") + element(0x0800, b"\x01\x01")),
    "a command of no kind": message(element(0x0100, b"\xff\x7f") + element(0x0800, b"\x01\x01")),
    "a command of two kinds": message(element(0x0100, b"\x30\x00\x01\x00") + element(0x0800, b"\x01\x01")),
    "a command that does not say whether data follow": message(ECHO),
    "a context that was not agreed on": message(WHOLE, context=77),
    "a release in the middle of a message": message(ECHO, control=1) + b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00",
    "an answer to nothing": message(element(0x0100, b"\x30\x80") + element(0x0800, b"\x01\x01")),
    "a second request for an association": association_request(),
    "an abort and then more": b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00" + message(WHOLE),
}


#: These do no harm: the association goes on until the peer is silent for too long.
FORGIVEN = frozenset(
    {"an element longer than its command", "an answer to nothing", "a release in the middle of a message"}
)


def test_who_lies_about_lengths_ends_only_its_own_association(
    reader: Held, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(reader, kept) as listener:
        peers = []
        for said in LIES.values():
            peers.append(socket.create_connection(("127.0.0.1", listener.port)))
            peers[-1].settimeout(60)
            peers[-1].sendall(association_request())
            assert peers[-1].recv(65_536)[:1] == b"\x02"  # accepted
            peers[-1].sendall(said)
        assert [status.Status for status in send(listener.port, film())] == [0]
        for name, peer in zip(LIES, peers, strict=True):
            if name not in FORGIVEN:
                try:
                    while peer.recv(65_536):  # until it is put out
                        pass
                except ConnectionError:
                    pass
            peer.close()
        wait_for(lambda: not acceptors())
        assert [status.Status for status in send(listener.port, film())] == [0]
    assert caplog.text.count("its peer broke the protocol") >= 4
    assert "Traceback" not in caplog.text and "HANGING" not in caplog.text


def test_an_archive_that_hangs_when_it_is_asked_to_commit_is_left() -> None:
    over, entity = threading.Event(), AE(ae_title="X")
    entity.add_supported_context(PUSH_MODEL)

    def hang(event: evt.Event) -> tuple[int, None]:
        over.wait(120)
        return 0, None

    with quiet_network():
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, hang)])
        assert server is not None
        target = StoreTarget(aet="X", host="127.0.0.1", port=server.server_address[1])
        config = SendConfig(timeout_s=1, commit_wait_s=0.2)
        confirmer, outcomes = Confirmer(target, config, Transactions(Counts())), list[Outcome]()
        parts = [part_of("film.dcm", as_bytes(film(32, 32)))]
        asking = threading.Thread(target=lambda: outcomes.extend(confirmer.confirm(parts)), daemon=True)
        asking.start()
        asking.join(120)
        assert [outcome.fate for outcome in outcomes] == ["uncommitted"]
        over.set()
        server.shutdown()


@contextmanager
def a_full_disk(left: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: the write fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_torn_file_and_what_was_there(tmp_path: Path) -> None:
    folder, counts = FolderDestination(FolderTarget(path=tmp_path / "outbox")), Counts()
    small, large = part_of("a", as_bytes(film(16, 16))), part_of("b", as_bytes(film(256, 256)))
    again = large._replace(instance=small.instance)  # the same name: what stands there must stay whole
    courier = Courier(folder, QUICK, counts, outbox=folder)
    with a_full_disk(20_000):
        assert [outcome.fate for outcome in courier.deliver([small, large, again])] == ["delivered", "again", "again"]
    (written,) = (tmp_path / "outbox").iterdir()
    assert written.read_bytes() == small.data
    assert (counts["objects_delivered"], counts["objects_lost"]) == (1, 2)
    assert [outcome.fate for outcome in courier.deliver([large])] == ["delivered"]  # there is room again


def test_a_full_outbox_is_told_and_the_film_may_come_again(
    reader: Held, archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive.down()
    outbox = FolderDestination(FolderTarget(path=tmp_path / "outbox"))
    source = film()
    with listening(reader, archive.destination(), outbox=outbox) as listener:
        with a_full_disk(1_000):
            send(listener.port, source)
            wait_for(lambda: listener.num_open == 0)
        assert list((tmp_path / "outbox").iterdir()) == []
        assert "no outbox holds it" in caplog.text and listener.counts["objects_lost"] == 1
        archive.up()
        send(listener.port, source)
        wait_for(lambda: listener.num_open == 0)
    assert listener.counts["objects_delivered"] == 1 and listener.counts["duplicates"] == 0
