"""Storage commitment: archives that commit, fail, lie, report late or never; and modalities that ask us in vain."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComputedRadiographyImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from typer.testing import CliRunner

from kdistill.cli.main import app
from kdistill.dicom_network.commitment import PUSH_MODEL, WELL_KNOWN, Confirmer, Transactions
from kdistill.dicom_network.config import FolderTarget, ListenConfig, SendConfig, StoreTarget, TlsFiles
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.destinations import FolderDestination, StoreDestination
from kdistill.dicom_network.parts import Outcome, part_of
from kdistill.dicom_network.quiet import quiet_network
from kdistill.dicom_network.receiver import Receiver
from kdistill.dicom_network.run import Way, listen_run, send_files
from kdistill.errors import ConfigError, EnvironmentFault, PolicyError

from ..explain.test_exports import saved
from .conftest import Archive, Held, film, listening, send, wait_for
from .test_orthanc import Orthanc, as_bytes, free_port, orthanc

__all__ = ["orthanc"]

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
WAIT_S = 300.0
Report = tuple[int, Dataset | None]


def reference(item: Dataset, reason: int | None = None) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID = item.ReferencedSOPClassUID
    found.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
    if reason is not None:
        found.FailureReason = reason
    return found


def report(asked: Dataset, failed: int = 0, *, uid: str = "", reason: int = 0x0112) -> Report:
    """A report (PS3.4 Table J.3-2) in which the last `failed` of the objects are not committed to."""
    items, found = list(asked.ReferencedSOPSequence), Dataset()
    found.TransactionUID = uid or asked.TransactionUID
    good, bad = items[: len(items) - failed], items[len(items) - failed :]
    if good:
        found.ReferencedSOPSequence = [reference(item) for item in good]
    if bad:
        found.FailedSOPSequence = [reference(item, reason) for item in bad]
    return (2 if bad else 1), found


class Vault:
    """An archive that takes films and answers the question as it is told to.

    Args:
        reports: What it reports on a question.
        where: "apart": in an association of its own; "inside": in that of the question.
        status: Its answer to the question.
        commits: Whether it knows the class.
    """

    def __init__(
        self,
        reports: Callable[[Dataset], Sequence[Report]] = lambda asked: [report(asked)],
        *,
        where: str = "apart",
        status: int = 0x0000,
        commits: bool = True,
    ) -> None:
        self.asked: list[Dataset] = []
        self.answers: list[int] = []
        self.caller = 0  # the port that it reports to
        self.reports, self._where, self._status = reports, where, status
        self._threads: list[threading.Thread] = []
        self._waiting: list[threading.Thread] = []
        entity = AE(ae_title="VAULT")
        for sop_class in (ComputedRadiographyImageStorage, Comprehensive3DSRStorage):
            entity.add_supported_context(sop_class)
        if commits:
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [
            (evt.EVT_C_STORE, lambda event: 0x0000),
            (evt.EVT_N_ACTION, self._act),
            (evt.EVT_PDU_SENT, self._answered),
        ]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert self._server is not None
        self.target = StoreTarget(aet="VAULT", host="127.0.0.1", port=self._server.server_address[1])

    def close(self) -> None:
        for thread in self._threads:
            thread.join(60)
        assert self._server is not None
        self._server.shutdown()

    def _act(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        self.asked.append(asked)
        if self._status == 0:
            run = self._inside if self._where == "inside" else self._apart
            self._waiting.append(threading.Thread(target=run, args=[event.assoc, asked]))
        return self._status, None

    def _answered(self, event: evt.Event) -> None:
        """The answer to a question has left: reports follow."""
        if isinstance(event.pdu, P_DATA_TF):
            while self._waiting:
                self._threads.append(self._waiting.pop())
                self._threads[-1].start()

    def _inside(self, association: Association, asked: Dataset) -> None:
        self._tell(association, self.reports(asked))

    def _apart(self, _: Association, asked: Dataset) -> None:
        if not (reports := self.reports(asked)):
            return
        entity = AE(ae_title="VAULT")
        entity.add_requested_context(StorageCommitmentPushModel)
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        association = entity.associate("127.0.0.1", self.caller, ae_title="KDISTILL", ext_neg=roles)
        if association.is_established:
            self._tell(association, reports)
            association.release()

    def _tell(self, association: Association, reports: Sequence[Report]) -> None:
        for kind, found in reports:
            answer, _ = association.send_n_event_report(found, kind, PUSH_MODEL, WELL_KNOWN)
            self.answers.append(answer.Status)


@contextmanager
def vault(*reports: Callable[[Dataset], Sequence[Report]], **more: object) -> Iterator[Vault]:
    with quiet_network():
        found = Vault(*reports, **more)  # type: ignore[arg-type]
        yield found
        found.close()


@contextmanager
def asking(archive: Vault, wait_s: float = WAIT_S) -> Iterator[tuple[Callable[[int], list[Outcome]], Counts]]:
    """Asks an archive about so many objects, with a receiver for its reports."""
    transactions = Transactions(counts := Counts())
    receiver = Receiver(ListenConfig(port=0), counts, transactions=transactions)
    archive.caller = receiver.port
    config = SendConfig(commit=True, commit_wait_s=wait_s, timeout_s=30)
    parts = [part_of(f"{n}.dcm", as_bytes(film(32, 32))) for n in range(2)]
    try:
        yield lambda number: Confirmer(archive.target, config, transactions).confirm(parts[:number]), counts
        for thread in archive._threads:
            thread.join(60)
    finally:
        receiver.close()


def confirmed(archive: Vault, *, wait_s: float = WAIT_S) -> tuple[list[Outcome], Counts]:
    """What becomes of two objects that an archive is asked about."""
    with asking(archive, wait_s) as (ask, counts):
        return ask(2), counts


@pytest.mark.parametrize("where", ["apart", "inside"])
def test_an_archive_commits_in_either_association(where: str) -> None:
    with vault(where=where) as archive:
        outcomes, counts = confirmed(archive)
    assert [outcome.fate for outcome in outcomes] == ["delivered"] * 2 and archive.answers == [0]
    (asked,) = archive.asked
    assert len(asked.ReferencedSOPSequence) == 2 and not counts["reports_unknown"]


def wrong_class(asked: Dataset) -> list[Report]:
    kind, found = report(asked)
    found.ReferencedSOPSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    return [(kind, found)]


def in_both(asked: Dataset) -> list[Report]:
    kind, found = report(asked)
    found.FailedSOPSequence = [reference(asked.ReferencedSOPSequence[0], 0x0110)]
    return [(kind, found)]


def forgetful(asked: Dataset) -> list[Report]:
    kind, found = report(asked)
    del found.ReferencedSOPSequence[0]
    return [(kind, found)]


UNCOMMITTED: list[tuple[Callable[[Dataset], Sequence[Report]], list[str], str]] = [
    (lambda asked: [report(asked, 1)], ["delivered", "uncommitted"], "0x0112, it has no such object"),
    (lambda asked: [report(asked, 2, reason=0x0213)], ["uncommitted"] * 2, "it has not the resources"),
    (lambda asked: [report(asked, 2, reason=0x4444)], ["uncommitted"] * 2, "the standard does not know"),
    (wrong_class, ["uncommitted", "delivered"], "does not name it"),
    (in_both, ["uncommitted", "delivered"], "processing failure"),
    (forgetful, ["uncommitted", "delivered"], "does not name it"),
]


def test_what_an_archive_does_not_commit_to_is_told_apart() -> None:
    with vault() as archive, asking(archive) as (ask, _):
        for archive.reports, fates, why in UNCOMMITTED:
            outcomes = ask(2)
            assert [outcome.fate for outcome in outcomes] == fates, why
            assert any(why in outcome.reason for outcome in outcomes)
    assert archive.answers == [0] * len(UNCOMMITTED)


def odd_reports(asked: Dataset) -> list[Report]:
    """A stranger's transaction, none, an event that there is not, nonsense; the right one, and once more, contrary."""
    nonsense = Dataset()
    nonsense.TransactionUID, nonsense.FailedSOPSequence = asked.TransactionUID, [Dataset()]
    wrong: list[Report] = [report(asked, uid=generate_uid()), (1, None), (7, report(asked)[1]), (1, nonsense)]
    return [*wrong, report(asked), report(asked, 2)]


def test_reports_of_unknown_transactions_and_nonsense_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with vault(odd_reports) as archive:
        outcomes, counts = confirmed(archive)
    assert [outcome.fate for outcome in outcomes] == ["delivered"] * 2
    assert archive.answers == [0x0115, 0x0115, 0x0113, 0x0115, 0, 0]
    assert counts["reports_unknown"] == 1 and "names a transaction that we did not begin" in caplog.text
    for part in archive.asked[0].ReferencedSOPSequence:
        assert part.ReferencedSOPInstanceUID not in caplog.text


def test_an_archive_that_never_reports_is_not_waited_for_for_ever() -> None:
    with vault(lambda asked: []) as archive:
        outcomes, _ = confirmed(archive, wait_s=0.3)
    assert {outcome.reason for outcome in outcomes} == {"the archive did not report in 0.3 s"}


def test_a_report_that_comes_too_late_is_answered_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    def late(asked: Dataset) -> list[Report]:
        go.wait(60)
        return [report(asked)]

    with vault(late) as archive, asking(archive, 0.3) as (ask, counts):
        assert [outcome.fate for outcome in ask(1)] == ["uncommitted"]
        go.set()
    assert archive.answers == [0]
    assert "came too late" in caplog.text and not counts["reports_unknown"]


@pytest.mark.parametrize(
    ("more", "why"),
    [({"status": 0x0213}, "answered 0x0213"), ({"commits": False}, "has no storage commitment")],
)
def test_an_archive_that_will_not_be_asked_is_not_waited_for(more: dict[str, object], why: str) -> None:
    with vault(**more) as archive:
        began = time.monotonic()
        outcomes, _ = confirmed(archive, wait_s=600)
        assert time.monotonic() - began < 300
    assert [outcome.fate for outcome in outcomes] == ["uncommitted"] * 2 and why in outcomes[0].reason


def test_an_archive_that_is_away_when_it_is_asked() -> None:
    target = StoreTarget(aet="X", host="127.0.0.1", port=free_port())
    confirmer = Confirmer(target, SendConfig(timeout_s=5), Transactions(Counts()))
    (outcome,) = confirmer.confirm([part_of("film.dcm", as_bytes(film(32, 32)))])
    assert outcome == Outcome("uncommitted", "the destination cannot be reached")


def test_results_that_are_not_committed_to_are_kept_for_another_try(reader: Held, tmp_path: Path) -> None:
    sending = SendConfig(commit=True, commit_wait_s=WAIT_S, timeout_s=60)
    outbox, films = FolderDestination(FolderTarget(path=tmp_path / "outbox")), [film() for _ in range(2)]
    over = threading.Event()

    def in_the_end(asked: Dataset) -> list[Report]:
        over.wait(60)
        return [report(asked)]

    with vault() as archive:
        destination = StoreDestination(archive.target, sending)
        with listening(reader, destination, outbox=outbox, archive=archive.target, sending=sending) as listener:
            archive.caller = listener.port
            assert [status.get("Status") for status in send(listener.port, films[0])] == [0]
            wait_for(lambda: listener.num_open == 0)
            assert listener.counts["objects_committed"] == 1 and not (tmp_path / "outbox").exists()
            archive.reports = lambda asked: [report(asked, 1)]
            assert [status.get("Status") for status in send(listener.port, films[1])] == [0]
            wait_for(lambda: listener.num_open == 0)
            (kept,) = (tmp_path / "outbox").iterdir()
            (item,) = archive.asked[1].ReferencedSOPSequence
            assert part_of("kept", kept.read_bytes()).instance == item.ReferencedSOPInstanceUID
            archive.reports = in_the_end
            assert [status.get("Status") for status in send(listener.port, films[1])] == [0]  # it may come again
            wait_for(lambda: len(archive.asked) >= 3)
            ending = threading.Timer(0.5, over.set)
            ending.start()  # while it ends, the port for reports is open until the last has come
    ending.join()
    counts = dict(listener.counts)
    assert (counts["accepted"], counts["duplicates"], counts["objects_delivered"]) == (3, 0, 3)
    assert (counts["objects_committed"], counts["objects_uncommitted"], counts["objects_kept"]) == (2, 1, 1)


def ask_us(port: int, *, role: bool = False) -> int | None:
    """What a modality is answered that wants us to commit; None: the class is not accepted."""
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(StorageCommitmentPushModel)
    entity.add_requested_context("1.2.840.10008.1.1")
    roles = [build_role(StorageCommitmentPushModel, scu_role=True)] if role else []
    association = entity.associate("127.0.0.1", port, ae_title="KDISTILL", ext_neg=roles)
    assert association.is_established
    try:
        if PUSH_MODEL in {context.abstract_syntax for context in association.rejected_contexts}:
            return None
        question = Dataset()
        question.TransactionUID = generate_uid()
        answer, _ = association.send_n_action(question, 1, PUSH_MODEL, WELL_KNOWN)
        assert answer.ErrorComment == "nothing is stored here: ask the archive to commit"
        return int(answer.Status)
    finally:
        association.release()


def test_a_modality_that_asks_us_to_commit_is_refused(reader: Held, archive: Archive) -> None:
    with listening(reader, archive.destination()) as listener:
        assert ask_us(listener.port) is None
    sending = SendConfig(commit=True)
    with listening(reader, archive.destination(), archive=archive.target(), sending=sending) as listener:
        assert ask_us(listener.port) == 0x0123
        assert ask_us(listener.port, role=True) is None


def test_files_are_sent_and_the_command_says_what_is_not_committed_to(tmp_path: Path) -> None:
    for n in range(2):
        saved(film(32, 32), tmp_path / f"{n}.dcm")
    with vault(lambda asked: [report(asked, 1)]) as archive:
        archive.caller = free_port()
        to = f"VAULT@127.0.0.1:{archive.target.port}"
        words = ["dicom", "send", str(tmp_path), "--to", to, "--commit", "--port", str(archive.caller)]
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, EnvironmentFault) and "1 of 2 files" in str(done.exception)
        assert "  delivered  0.dcm\nuncommitted  1.dcm: the archive does not commit to it" in done.stdout
        assert len(list(tmp_path.iterdir())) == 2
        done = CliRunner().invoke(app, [*words[:-3], "--json"])
        assert json.loads(done.stdout)["counts"]["delivered"] == 2 and done.exit_code == 0


def test_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    saved(film(32, 32), tmp_path / "film.dcm")
    on = {"commit": True}

    def sent(to: str, sending: dict[str, object], **receiving: object) -> None:
        send_files([tmp_path], to, aet="ME", sending=sending, receiving=receiving, on_outcome=lambda *_: None)

    with pytest.raises(ConfigError, match="AET@host:port alone"):
        sent("https://archive.example/dicom-web", on)
    with pytest.raises(ConfigError, match="cannot come to 127.0.0.1"):
        sent("PACS@10.1.2.3:104", on)
    with pytest.raises(PolicyError, match="--allow"):
        sent("PACS@10.1.2.3:104", on, host="10.1.2.9")
    with pytest.raises(ConfigError, match="comes over TLS too"):
        sent("PACS@127.0.0.1:104", {**on, "tls": True, "tls_files": TlsFiles(ca=tmp_path / "film.dcm")})
    with pytest.raises(ConfigError, match="--outbox"):
        listen_run(tmp_path, {}, Way(to="PACS@127.0.0.1:104"), sending=on, announce=print)
    with pytest.raises(ConfigError, match="AET@host:port alone"):
        listen_run(tmp_path, {}, Way(folder=tmp_path, outbox=tmp_path), sending=on, announce=print)


def test_orthanc_commits_to_what_it_has(orthanc: Orthanc, tmp_path: Path) -> None:
    paths = [saved(film(32, 32), tmp_path / f"{n}.dcm") for n in range(2)]
    port = free_port()
    orthanc.modality(port)
    told: list[tuple[str, str]] = []
    to = f"ORTHANC@127.0.0.1:{orthanc.dicom_port}"
    counts = send_files(
        paths,
        to,
        aet="KDISTILL",
        sending={"commit": True, "commit_wait_s": WAIT_S},
        receiving={"port": port},
        on_outcome=lambda name, fate, reason: told.append((fate, reason)),
    )
    assert counts["delivered"] == 2, told
    config = SendConfig(timeout_s=60, commit_wait_s=WAIT_S)
    transactions = Transactions(Counts())
    with quiet_network():
        receiver = Receiver(ListenConfig(port=port), Counts(), transactions=transactions)
        parts = [part_of("there", paths[0].read_bytes()), part_of("never sent", as_bytes(film(32, 32)))]
        target = StoreTarget(aet="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
        outcomes = Confirmer(target, config, transactions).confirm(parts)
        receiver.close()
    assert [outcome.fate for outcome in outcomes] == ["delivered", "uncommitted"]
    assert "failure reason 0x0112, it has no such object" in outcomes[1].reason
