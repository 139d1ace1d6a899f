"""The receiver as another application entity meets it (pynetdicom as the peer)."""

from __future__ import annotations

import io
import itertools
import json
import logging
import socket
import struct
import threading
from pathlib import Path

import highdicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from kdistill.dicom_network.config import FolderTarget
from kdistill.dicom_network.destinations import FolderDestination
from kdistill.errors import EnvironmentFault
from kdistill.explain.explanation import NOTICE

from .conftest import Archive, Held, Kept, film, listening, send, wait_for

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_film_is_answered_into_its_own_study(speaking: Held, kept: Kept) -> None:
    source = film(80, 64)
    with listening(speaking, kept, overlay=True) as listener:
        (status,) = send(listener.port, source)
        assert status.Status == 0x0000
        wait_for(lambda: len(kept.parts) == 2)
    report, picture = kept.datasets()
    assert (report.Modality, picture.Modality) == ("SR", "OT")
    for made in (report, picture):
        assert (made.StudyInstanceUID, made.PatientID) == (source.StudyInstanceUID, "P-77")
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert NOTICE in json.dumps(report.to_json_dict())
    back = highdicom.sr.Comprehensive3DSR.from_dataset(report)
    (region,) = back.content.get_planar_roi_measurement_groups()
    assert region.tracking_identifier == "Pleural Effusion"
    counts = dict(listener.counts)
    assert (counts["received"], counts["accepted"], counts["explained"], counts["objects_delivered"]) == (1, 1, 1, 2)


def test_it_answers_an_echo_to_its_own_title_only(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, calling_aets=("PACS",)) as listener:
        for calling, called, is_heard in (
            ("PACS", "KDISTILL", True),
            ("PACS", "OTHER", False),
            ("STRANGER", "KDISTILL", False),
        ):
            entity = AE(ae_title=calling)
            entity.add_requested_context(Verification)
            association = entity.associate("127.0.0.1", listener.port, ae_title=called)
            assert association.is_established is is_heard and association.is_rejected is not is_heard
            if is_heard:
                assert association.send_c_echo().Status == 0x0000
                association.release()


def test_who_is_not_allowed_is_not_heard(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, allow=("10.0.0.0/8",)) as listener:
        entity = AE(ae_title="PACS")
        entity.add_requested_context(Verification)
        assert not entity.associate("127.0.0.1", listener.port, ae_title="KDISTILL").is_established
        assert dict(listener.counts)["associations"] == 0


def test_other_objects_are_refused_politely(reader: Held, kept: Kept) -> None:
    hand = film(BodyPartExamined="HAND")
    lateral = film(ViewPosition="LL")
    own = film(Manufacturer="kdistill")
    nowhere = film()
    del nowhere.StudyInstanceUID
    with listening(reader, kept) as listener:
        entity = AE(ae_title="PACS")
        entity.add_requested_context(CTImageStorage)
        entity.add_requested_context(ComputedRadiographyImageStorage)
        association = entity.associate("127.0.0.1", listener.port, ae_title="KDISTILL")
        assert [cx.abstract_syntax for cx in association.rejected_contexts] == [CTImageStorage]
        association.release()
        statuses = send(listener.port, hand, lateral, own, nowhere, film(Modality="MR"), film())
    assert [hex(status.Status) for status in statuses] == ["0xa900", "0xa900", "0xa900", "0xc001", "0xa900", "0x0"]
    assert "lateral" in statuses[1].ErrorComment
    for status in statuses[:-1]:
        assert 0 < len(status.ErrorComment) <= 64 and "Doe" not in status.ErrorComment
    assert dict(listener.counts)["refused_other"] == 4 and len(kept.parts) == 1


def test_a_lateral_view_is_explained_with_a_flag_where_that_is_wished(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, lateral="flag") as listener:
        (status,) = send(listener.port, film(ViewPosition="LL"))
        assert status.Status == 0x0000
    (report,) = kept.datasets()
    assert "lateral view" in json.dumps(report.to_json_dict())


def test_damaged_pixels_cost_only_themselves(reader: Held, kept: Kept) -> None:
    cut, odd = film(80, 64), film(80, 64)
    cut.PixelData = cut.PixelData[:1000]
    odd.BitsStored = 12
    with listening(reader, kept) as listener:
        statuses = send(listener.port, cut, odd, film())
        assert [hex(status.Status) for status in statuses] == ["0xc000", "0xc000", "0x0"]
    assert dict(listener.counts)["refused_unreadable"] == 2 and len(kept.parts) == 1


def test_the_same_instance_has_one_result(reader: Held, kept: Kept) -> None:
    source = film()
    with listening(reader, kept) as listener:
        assert [s.Status for s in send(listener.port, source, source)] == [0, 0]
        wait_for(lambda: listener.num_open == 0)
        assert [s.Status for s in send(listener.port, source)] == [0]
    counts = dict(listener.counts)
    assert (counts["accepted"], counts["duplicates"], len(kept.parts)) == (1, 2, 1)
    with listening(reader, kept) as listener:  # a new process remembers nothing, and says the same again
        send(listener.port, source)
    first, again = kept.datasets()
    assert first.SOPInstanceUID == again.SOPInstanceUID and first.SeriesInstanceUID == again.SeriesInstanceUID


def test_a_full_queue_says_so_and_what_was_accepted_is_finished(reader: Held, kept: Kept) -> None:
    reader.go.clear()
    films = [film() for _ in range(4)]
    with listening(reader, kept, max_open=3) as listener:
        statuses = send(listener.port, *films)
        assert [hex(status.Status) for status in statuses] == ["0x0", "0x0", "0x0", "0xa700"]
        assert "later" in statuses[-1].ErrorComment
        reader.go.set()
        wait_for(lambda: listener.num_open == 0)
        assert [s.Status for s in send(listener.port, films[-1])] == [0]
        reader.go.clear()
        send(listener.port, film())
        threading.Timer(0.5, reader.go.set).start()
    assert len(kept.parts) == 5 and listener.num_open == 0


def association_request(title: bytes = b"KDISTILL") -> bytes:
    """A-ASSOCIATE-RQ for verification (PS3.8 9.3.2), written by hand."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    context = b"\x01\x00\x00\x00" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    body = b"\x00\x01\x00\x00" + title.ljust(16) + b"HANGING".ljust(16) + b"\x00" * 32 + items
    return b"\x01\x00" + struct.pack(">L", len(body)) + body


GARBAGE = {
    "nothing": b"",
    "half a head": b"\x01\x00\x00",
    "half a request": association_request()[:50],
    "an association, then silence": association_request(),
    "an association, then half a unit": association_request() + b"\x04\x00\x00\x00\x10\x00abc",
    "a unit of four gigabytes": b"\x01\x00\xff\xff\xff\xff" + b"x" * 1000,
    "a unit of no kind": b"\x77\x00\x00\x00\x00\x04abcd",
    "a web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "data before an association": b"\x04\x00\x00\x00\x00\x0aabcdefghij",
    "nonsense in an association": association_request() + b"\x04\x00\x00\x00\x00\x0a\x00\x00\x00\x06\x01\x03abcd",
}


def test_twenty_hanging_peers_do_not_keep_a_good_one_waiting(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, network_timeout_s=6, acse_timeout_s=5, max_associations=12) as listener:
        peers = []
        for said in list(GARBAGE.values()) * 2:
            peers.append(socket.create_connection(("127.0.0.1", listener.port)))
            peers[-1].sendall(said)
        assert [s.Status for s in send(listener.port, film())] == [0]
        for peer in peers:  # each is put out in time
            peer.settimeout(60)
            try:
                while peer.recv(4096):
                    pass
            except ConnectionError:
                continue
        wait_for(lambda: not [t for t in threading.enumerate() if "Acceptor" in t.name])
        assert [s.Status for s in send(listener.port, film())] == [0]
        for peer in peers:
            peer.close()


def acceptors() -> set[threading.Thread]:
    """Threads that serve a connection; those of earlier tests live on until their time is up."""
    return {thread for thread in threading.enumerate() if "AcceptorThread" in thread.name}


def test_connections_are_bounded(reader: Held, kept: Kept) -> None:
    earlier = acceptors()
    with listening(reader, kept, max_connections=5, acse_timeout_s=30) as listener:
        peers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(5)]
        wait_for(lambda: len(acceptors() - earlier) == 5)
        late = socket.create_connection(("127.0.0.1", listener.port))
        late.settimeout(60)
        assert late.recv(1) == b""
        for peer in (*peers, late):
            peer.close()


def test_more_associations_than_allowed_are_rejected_for_now(reader: Held, kept: Kept) -> None:
    entity = AE(ae_title="PACS")
    entity.add_requested_context(Verification)
    with listening(reader, kept, max_associations=2) as listener:
        first, second, third = (entity.associate("127.0.0.1", listener.port, ae_title="KDISTILL") for _ in range(3))
        assert (first.is_established, second.is_established, third.is_rejected) == (True, True, True)
        reply = third.acceptor.primitive
        assert (reply.result, reply.result_source, reply.diagnostic) == (2, 3, 2)  # transient, local limit exceeded
        first.release()
        second.release()


def half_sent(port: int, source: Dataset) -> Association:
    """An association in which twenty units of an object have been sent, and more are missing."""
    entity = AE(ae_title="PACS")
    entity.add_requested_context(ComputedRadiographyImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title="KDISTILL")
    request, message = C_STORE(), C_STORE_RQ()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    request.DataSet = io.BytesIO(source.PixelData)
    message.primitive_to_message(request)
    for unit in itertools.islice(message.encode_msg(1, 16382), 20):
        association.dul.send_pdu(unit)
    wait_for(association.dul.to_provider_queue.empty)
    return association


def test_an_abort_in_mid_transfer_leaves_nothing_behind(reader: Held, kept: Kept) -> None:
    large, earlier = film(2000, 2000), acceptors()
    with listening(reader, kept) as listener:
        half_sent(listener.port, large).abort()
        cut = half_sent(listener.port, large)
        cut.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: acceptors() <= earlier)
        assert listener.num_open == 0 and dict(listener.counts)["received"] == 0
        assert [s.Status for s in send(listener.port, film())] == [0]


def test_an_object_beyond_its_limit_ends_its_association(reader: Held, kept: Kept) -> None:
    with listening(reader, kept, max_object_mb=1) as listener:
        (status,) = send(listener.port, film(1200, 1200))
        assert "Status" not in status and dict(listener.counts)["received"] == 0


def test_nothing_of_a_patient_is_logged(reader: Held, kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    names = {"PatientName": "Secret^Person", "PatientID": "SECRET-1", "BodyPartExamined": "SECRETPART"}
    odd = film(**names, Rows=7)
    chest = film(**{**names, "BodyPartExamined": "CHEST"}, SOPInstanceUID="1.2.3.777777", StudyInstanceUID="1.2.888888")
    with listening(reader, kept) as listener:
        logging.getLogger().setLevel(logging.DEBUG)
        send(listener.port, film(**names), odd, chest, chest)
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "refused" in told
    for secret in ("secret", "777777", "888888", "P-77"):
        assert secret not in told.lower()


def test_a_destination_that_is_down_and_comes_up_again(reader: Held, archive: Archive, tmp_path: Path) -> None:
    archive.down()
    outbox = FolderDestination(FolderTarget(path=tmp_path / "outbox"))
    with listening(reader, archive.destination(), outbox=outbox) as listener:
        source = film()
        send(listener.port, source)
        wait_for(lambda: dict(listener.counts)["objects_kept"] == 1)
        wait_for(lambda: listener.num_open == 0)
        (kept_file,) = (tmp_path / "outbox").iterdir()
        assert kept_file.stat().st_mode & 0o077 == 0 and (tmp_path / "outbox").stat().st_mode & 0o077 == 0
        archive.up()
        send(listener.port, film())
        wait_for(lambda: len(archive.received) == 1)
        send(listener.port, source)  # it was not answered, so it is no duplicate
        wait_for(lambda: len(archive.received) == 2)
    counts = dict(listener.counts)
    assert (counts["objects_delivered"], counts["objects_kept"], counts["objects_lost"]) == (2, 1, 0)
    assert counts["attempts_failed"] == 3 and counts["duplicates"] == 0


def test_a_destination_that_refuses_is_not_asked_again(reader: Held, archive: Archive) -> None:
    archive.status = 0xA900
    with listening(reader, archive.destination()) as listener:
        send(listener.port, film())
    counts = dict(listener.counts)
    assert len(archive.received) == 1 and (counts["objects_lost"], counts["attempts_failed"]) == (1, 0)


def test_an_archive_that_has_a_result_already_has_it(reader: Held, archive: Archive) -> None:
    archive.status = 0x0111
    with listening(reader, archive.destination()) as listener:
        send(listener.port, film())
    counts = dict(listener.counts)
    assert (counts["objects_delivered"], counts["objects_lost"], counts["attempts_failed"]) == (1, 0, 0)


def test_a_destination_without_room_is_asked_again(reader: Held, archive: Archive) -> None:
    archive.status = 0xA700
    with listening(reader, archive.destination()) as listener:
        send(listener.port, film())
        wait_for(lambda: len(archive.received) >= 1)
        archive.status = 0x0000
        wait_for(lambda: listener.num_open == 0)
    assert dict(listener.counts)["objects_delivered"] == 1


def test_a_port_that_is_taken_is_told(reader: Held, kept: Kept) -> None:
    with (
        listening(reader, kept) as listener,
        pytest.raises(EnvironmentFault, match="cannot listen"),
        listening(reader, kept, port=listener.port),
    ):
        pass


def test_secondary_captures_of_films_are_read(reader: Held, kept: Kept) -> None:
    scan: Dataset = film(SOPClassUID=SecondaryCaptureImageStorage, Modality="OT", SOPInstanceUID=generate_uid())
    scan.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    with listening(reader, kept) as listener:
        assert [s.Status for s in send(listener.port, scan)] == [0]
    assert len(kept.parts) == 1
