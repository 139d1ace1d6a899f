"""Destinations, credentials and settings: STOW-RS against a server on loopback, folders, what is refused early."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdistill.dicom_network.config import FolderTarget, ListenConfig, SendConfig, StoreTarget, WebTarget, parse_target
from kdistill.dicom_network.counts import NAMES, Counts
from kdistill.dicom_network.courier import Courier
from kdistill.dicom_network.destinations import FolderDestination, StoreDestination
from kdistill.dicom_network.parts import Part, part_of
from kdistill.dicom_network.run import Way, listen_run, send_files
from kdistill.dicom_network.statuses import Answer
from kdistill.dicom_network.stow import WebDestination
from kdistill.errors import ConfigError, InputError, PolicyError

from ..explain.test_exports import film, saved
from .conftest import QUICK, Archive, Kept
from .test_orthanc import as_bytes, free_port

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Service(ThreadingHTTPServer):
    """A DICOMweb service that answers what it is told to."""

    status, answer = 200, b"{}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Answering(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"KDISTILL_DICOM_{name}", raising=False)
    with Service() as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def some_parts(number: int = 2) -> list[Part]:
    return [part_of(f"{n}.dcm", as_bytes(film())) for n in range(number)]


def test_stow_rs_sends_every_file_as_it_is(service: Service) -> None:
    parts = some_parts()
    outcomes = WebDestination(WebTarget(url=service.url), QUICK).deliver(parts)
    assert [outcome.fate for outcome in outcomes] == ["delivered", "delivered"]
    ((path, headers, body),) = service.asked
    assert path == "/dicom-web/studies" and headers["accept"] == "application/dicom+json"
    assert "authorization" not in headers
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert message.get_content_type() == "multipart/related" and message.get_param("type") == "application/dicom"
    assert {part.get_content_type() for part in message.iter_parts()} == {"application/dicom"}
    for part in parts:
        assert part.data in body


def failing(part: Part, reason: int) -> bytes:
    item = {"00081155": {"vr": "UI", "Value": [part.instance]}, "00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("status", "reason", "fates"),
    [
        (202, 0xA900, ["refused", "delivered"]),
        (202, 0xA700, ["again", "delivered"]),
        (200, 0xC000, ["refused", "delivered"]),
        (409, 0xA700, ["again", "refused"]),
        (409, 0x0111, ["delivered", "refused"]),
        (401, None, ["refused", "refused"]),
        (302, None, ["refused", "refused"]),
        (415, None, ["refused", "refused"]),
        (503, None, ["again", "again"]),
        (202, None, ["refused", "refused"]),
    ],
)
def test_what_a_service_answers_is_understood(
    service: Service, status: int, reason: int | None, fates: list[str]
) -> None:
    parts = some_parts()
    service.status, service.answer = status, b"not json" if reason is None else failing(parts[0], reason)
    outcomes = WebDestination(WebTarget(url=service.url + "/studies/"), QUICK).deliver(parts)
    assert [outcome.fate for outcome in outcomes] == fates
    assert all(outcome.reason for outcome in outcomes if outcome.fate != "delivered")


def test_credentials_come_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent() -> str:
        WebDestination(WebTarget(url=service.url), QUICK).deliver(some_parts(1))
        return service.asked[-1][1]["authorization"]

    monkeypatch.setenv("KDISTILL_DICOM_TOKEN", "letters")
    assert sent() == "Bearer letters"
    with pytest.raises(PolicyError, match="unencrypted"):
        WebDestination(WebTarget(url="http://archive.example/dicom-web"), QUICK)
    monkeypatch.setenv("KDISTILL_DICOM_USER", "me")
    with pytest.raises(ConfigError, match="only one"):
        sent()
    monkeypatch.setenv("KDISTILL_DICOM_PASSWORD", "pass")
    with pytest.raises(ConfigError, match="a token and a user"):
        sent()
    monkeypatch.delenv("KDISTILL_DICOM_TOKEN")
    assert sent() == "Basic " + base64.b64encode(b"me:pass").decode()


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "PACS@host", "PACS@host:0", "PACS@host:70000", "A" * 17 + "@h:1", "a\\b@h:1", "@h:1", "https://"],
)
def test_what_is_no_destination_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="--to"):
        parse_target(text)


def test_destinations_as_they_are_typed() -> None:
    assert parse_target("PACS 1@archive.example:104") == StoreTarget(aet="PACS 1", host="archive.example", port=104)
    assert parse_target("PACS@[::1]:104") == StoreTarget(aet="PACS", host="::1", port=104)
    assert parse_target("https://a.example/dicom-web") == WebTarget(url="https://a.example/dicom-web")
    with pytest.raises(ConfigError, match="user name or password") as told:
        parse_target("https://me:secret@a.example/dicom-web")
    assert "secret" not in str(told.value)


def test_one_place_for_results() -> None:
    for way in (Way(), Way(to="A@h:1", folder=Path("x"))):
        with pytest.raises(ConfigError, match="one place"):
            way.target()
    assert Way(folder=Path("x")).target() == FolderTarget(path=Path("x"))


def test_off_loopback_somebody_must_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="--allow"):
        listen_run(tmp_path, {"host": "0.0.0.0"}, Way(folder=tmp_path), announce=print)
    with pytest.raises(ConfigError, match="no address or network"):
        listen_run(tmp_path, {"host": "0.0.0.0", "allow": ("pacs",)}, Way(folder=tmp_path), announce=print)
    with pytest.raises(InputError, match="is no run"):
        listen_run(tmp_path, {"host": "0.0.0.0", "allow": ("10.0.0.1",)}, Way(folder=tmp_path), announce=print)


@pytest.mark.parametrize("aet", ["", " ", "A" * 17, "A\\B", "Ä", " A", "A\n"])
def test_what_is_no_title_is_refused(aet: str) -> None:
    with pytest.raises(ValidationError):
        ListenConfig(aet=aet)


def test_every_answer_has_a_count_and_fits_its_field() -> None:
    for answer in Answer:
        assert answer.counted_as in NAMES and len(answer.comment) <= 64 and answer.comment.isascii()
        assert answer.status == 0 or answer.status >> 8 in (0xA7, 0xA9, 0xC0)
    with pytest.raises(KeyError):
        Counts().add("refusals")


def test_a_folder_that_cannot_be_written_loses_nothing_in_silence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked, counts = FolderDestination(FolderTarget(path=tmp_path / "file")), Counts()
    courier = Courier(blocked, QUICK, counts, outbox=blocked)
    assert [outcome.fate for outcome in courier.deliver(some_parts())] == ["again", "again"]
    assert (counts["objects_lost"], counts["attempts_failed"]) == (2, 3)


def test_a_destination_that_cannot_be_found_may_be_found_later() -> None:
    for target in (
        StoreTarget(aet="X", host="no-such-host.invalid", port=104),
        StoreTarget(aet="X", host="127.0.0.1", port=free_port()),
    ):
        (outcome,) = StoreDestination(target, QUICK).deliver(some_parts(1))
        assert outcome.fate == "again" and "destination" in outcome.reason
    (outcome,) = WebDestination(WebTarget(url=f"http://127.0.0.1:{free_port()}/x"), QUICK).deliver(some_parts(1))
    assert outcome.fate == "again" and "ConnectError" in outcome.reason


def test_pauses_grow_and_an_ending_process_hurries() -> None:
    class Away:
        asked = 0

        def deliver(self, parts: list[Part]) -> list:
            self.asked += 1
            return StoreDestination(StoreTarget(aet="X", host="127.0.0.1", port=free_port()), QUICK).deliver(parts)

    config = SendConfig(attempts=6, first_pause_s=1, longest_pause_s=5, timeout_s=5)
    pauses: list[float] = []
    Courier(Away(), config, Counts(), wait=lambda seconds: bool(pauses.append(seconds))).deliver(some_parts(1))
    assert pauses == [1, 2, 4, 5, 5]
    away = Away()
    Courier(away, config, Counts(), wait=lambda seconds: True).deliver(some_parts(1))
    assert away.asked == 2


def test_a_file_is_sent_until_the_archive_takes_it(archive: Archive, tmp_path: Path) -> None:
    kept = Kept()
    told: list[tuple[str, str]] = []
    to = f"ARCHIVE@127.0.0.1:{archive.port}"
    path = saved(film(), tmp_path / "film.dcm")
    counts = send_files([path], to, aet="ME", on_outcome=lambda n, f, r: told.append((f, r)))
    assert counts == {
        "delivered": 0,
        "refused": 1,
        "again": 0,
        "uncommitted": 0,
        "unreadable": 0,
    }  # it takes reports, no films
    assert "takes no such object" in told[0][1] and kept.parts == []
    with pytest.raises(InputError, match="no such file"):
        send_files([tmp_path / "nothing"], to, aet="ME", on_outcome=lambda *_: None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file to send"):
        send_files([tmp_path / "empty"], to, aet="ME", on_outcome=lambda *_: None)
