"""DICOM over TLS: with a CA made here, pynetdicom and DCMTK as peers, and everything that can be wrong with it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from kdistill.dicom_network.config import SendConfig, StoreTarget, TlsFiles, WebTarget
from kdistill.dicom_network.destinations import Outcome, StoreDestination
from kdistill.dicom_network.parts import part_of
from kdistill.dicom_network.run import Way, listen_run, send_files
from kdistill.dicom_network.stow import WebDestination
from kdistill.dicom_network.tls import KEY_PASSWORD, client_context, handshake, reason_of, server_context
from kdistill.errors import ConfigError, EnvironmentFault, InputError, KDistillError, PolicyError

from ..explain.test_exports import film, saved
from .conftest import Held, Kept, listening, wait_for
from .test_dcmtk import dcmtk
from .test_orthanc import as_bytes, free_port
from .test_sending import Answering, Service

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Certificates(NamedTuple):
    """A hospital's CA with certificates of three, and a stranger's own."""

    folder: Path

    def of(self, name: str, *, ca: str = "ca") -> TlsFiles:
        return TlsFiles(cert=self.folder / f"{name}.pem", key=self.folder / f"{name}.key", ca=self.folder / f"{ca}.pem")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, which makes the certificates")
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "stranger"):
        openssl(
            "req", "-x509", *CURVE, "-subj", f"/CN={ca}", "-keyout", folder / f"{ca}.key", "-out", folder / f"{ca}.pem"
        )
    for name, where in (
        ("receiver", "IP:127.0.0.1"),
        ("archive", "DNS:archive.example"),
        ("caller", "DNS:caller.example"),
    ):
        signed = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", f"subjectAltName={where}")
        files = ("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
        openssl("req", "-x509", *CURVE, "-subj", f"/CN={name}", *signed, *files)
    return Certificates(folder)


def sent(port: int, files: TlsFiles | None, *, name: str | None = None) -> Outcome:
    """What becomes of a film on its way to a receiver here."""
    tls = {"tls": files is not None, "tls_files": files or TlsFiles(), "tls_name": name}
    config = SendConfig.model_validate({"aet": "PACS", "timeout_s": 120, **tls})
    target = StoreTarget(aet="KDISTILL", host="127.0.0.1", port=port)
    (outcome,) = StoreDestination(target, config).deliver([part_of("film.dcm", as_bytes(film()))])
    return outcome


def test_films_travel_over_tls_between_peers_that_know_each_other(
    reader: Held, kept: Kept, certificates: Certificates
) -> None:
    with listening(reader, kept, tls_files=certificates.of("receiver")) as listener:
        assert sent(listener.port, certificates.of("caller")).fate == "delivered"
        entity = AE(ae_title="PACS")
        entity.add_requested_context(Verification)
        tls_args = (client_context(certificates.of("caller")), "127.0.0.1")
        association = entity.associate("127.0.0.1", listener.port, ae_title="KDISTILL", tls_args=tls_args)
        assert association.send_c_echo().Status == 0x0000
        association.release()
    assert len(kept.parts) == 1


@pytest.mark.parametrize(
    ("who", "why", "logged"),
    [
        ("nobody", "certificate", "shows no certificate"),
        ("a stranger", "CA of our certificate", "not in --tls-ca"),
        ("one who knows another CA", "its CA is not in --tls-ca", "does not know the CA of our certificate"),
        ("one who expects another name", "another address|another name", "does not accept our certificate"),
        ("one without TLS", "hung up .does it speak TLS", "does not speak TLS"),
    ],
)
def test_who_is_refused_learns_why_and_the_next_is_served(
    reader: Held,
    kept: Kept,
    certificates: Certificates,
    who: str,
    why: str,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caller = certificates.of("caller")
    name: str | None = None
    files: TlsFiles | None = caller
    match who:
        case "nobody":
            files = TlsFiles(ca=caller.ca)
        case "a stranger":
            files = certificates.of("stranger")
            files = TlsFiles(cert=files.cert, key=files.key, ca=caller.ca)
        case "one who knows another CA":
            files = certificates.of("caller", ca="stranger")
        case "one who expects another name":
            name = "archive.example"
        case _:
            files = None
    with listening(reader, kept, tls_files=certificates.of("receiver")) as listener:
        outcome = sent(listener.port, files, name=name)
        assert outcome.fate == "again"
        assert re.search(why, outcome.reason), outcome.reason
        assert sent(listener.port, caller).fate == "delivered"
    assert logged in caplog.text and "127.0.0.1" not in caplog.text


def test_callers_without_a_certificate_come_in_where_that_is_said(
    reader: Held, kept: Kept, certificates: Certificates
) -> None:
    own = certificates.of("receiver")
    files = TlsFiles(cert=own.cert, key=own.key)
    with listening(reader, kept, tls_files=files, tls_peer="none") as listener:
        assert sent(listener.port, TlsFiles(ca=own.ca)).fate == "delivered"


def test_a_peer_with_tls_at_a_port_without_it_is_told_apart(
    reader: Held, kept: Kept, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(reader, kept) as listener:
        outcome = sent(listener.port, certificates.of("caller"))
        assert (outcome.fate, outcome.reason) == (
            "again",
            "the destination cannot be spoken to over TLS: the other side does not speak TLS",
        )
        assert "a peer speaks TLS, and this port does not" in caplog.text
        assert sent(listener.port, None).fate == "delivered"


def test_silent_and_dripping_peers_of_a_tls_port_are_put_out(
    reader: Held, kept: Kept, certificates: Certificates
) -> None:
    def drip(peer: socket.socket) -> None:
        with peer:
            try:
                for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(600):
                    peer.sendall(bytes([byte]))
                    if stop.wait(0.1):
                        return
            except OSError:
                return

    stop = threading.Event()
    with listening(
        reader, kept, tls_files=certificates.of("receiver"), acse_timeout_s=3, max_connections=24
    ) as listener:
        silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(8)]
        for peer in silent[:4]:
            peer.sendall(b"\x16\x03\x01\x02")
        dripping = [
            threading.Thread(target=drip, args=[socket.create_connection(("127.0.0.1", listener.port))])
            for _ in range(8)
        ]
        for thread in dripping:
            thread.start()
        assert sent(listener.port, certificates.of("caller")).fate == "delivered"
        for peer in silent:
            peer.settimeout(60)
            assert peer.recv(100) in (b"", b"\x15\x03\x03\x00\x02\x02\x46")
            peer.close()
        for thread in dripping:
            thread.join(60)
            assert not thread.is_alive()
        assert sent(listener.port, certificates.of("caller")).fate == "delivered"
        stop.set()


def test_connections_that_are_being_greeted_count_as_open(reader: Held, kept: Kept, certificates: Certificates) -> None:
    with listening(
        reader, kept, tls_files=certificates.of("receiver"), acse_timeout_s=3, max_connections=3
    ) as listener:
        peers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(3)]
        late = socket.create_connection(("127.0.0.1", listener.port))
        late.settimeout(60)
        assert late.recv(1) == b""
        for peer in (*peers, late):
            peer.close()


@contextmanager
def handshaken(server: ssl.SSLContext) -> Iterator[int]:
    """A port at which one handshake takes place."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def greet() -> None:
            try:
                handshake(server, door.accept()[0], 30).close()
            except OSError:
                return

        thread = threading.Thread(target=greet)
        thread.start()
        yield door.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("ciphers", "is_agreed"), [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA", False)]
)
def test_what_is_agreed_on_is_of_today(certificates: Certificates, ciphers: str, is_agreed: bool) -> None:
    files = certificates.of("receiver")
    server = server_context(files, "require")
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2 == client_context(files).minimum_version
    caller = client_context(certificates.of("caller"))
    caller.maximum_version = ssl.TLSVersion.TLSv1_2
    caller.set_ciphers(ciphers)
    with handshaken(server) as port:
        connection = socket.create_connection(("127.0.0.1", port))
        if is_agreed:
            with handshake(caller, connection, 30, name="127.0.0.1") as agreed:
                assert agreed.version() == "TLSv1.2" and agreed.cipher()[0] == ciphers  # type: ignore[index]
        else:
            with pytest.raises(ssl.SSLError) as told:
                handshake(caller, connection, 30, name="127.0.0.1")
            assert "no cipher in common" in reason_of(told.value)


def problem(files: TlsFiles, peer: str = "require") -> KDistillError:
    with pytest.raises(KDistillError) as told:
        server_context(files, peer)  # type: ignore[arg-type]
    assert told.value.remedy or "no such file" in str(told.value)
    return told.value


def test_files_that_cannot_be_used_are_named_with_what_is_wrong(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.of("receiver")
    open_key, der = tmp_path / "open.key", tmp_path / "der.pem"
    open_key.write_bytes(certificates.of("receiver").key.read_bytes())  # type: ignore[union-attr]
    open_key.chmod(0o644)
    der.write_bytes(b"\x30\x82\x01\x00" * 50)
    cut = tmp_path / "cut.key"
    cut.write_bytes(good.key.read_bytes()[:80])  # type: ignore[union-attr]
    cut.chmod(0o600)
    changes: list[tuple[dict[str, Path | None], type[KDistillError], str]] = [
        ({"key": tmp_path / "nothing.key"}, InputError, "--tls-key .*nothing.key: no such file"),
        ({"cert": tmp_path / "nothing.pem"}, InputError, "--tls-cert .*no such file"),
        ({"ca": tmp_path / "nothing.pem"}, InputError, "--tls-ca .*no such file"),
        ({"key": tmp_path}, EnvironmentFault, "cannot be read"),
        ({"key": open_key}, PolicyError, "other users of this machine can read"),
        ({"key": certificates.of("caller").key}, ConfigError, "does not belong to the certificate"),
        ({"key": good.cert}, InputError, "holds no private key in PEM"),
        ({"cert": der}, InputError, "holds no certificate in PEM"),
        ({"key": cut}, ConfigError, "damaged"),
        ({"key": None}, InputError, "--tls-cert .*holds no private key"),
        ({"ca": None}, ConfigError, "who may call is not said"),
        ({"cert": None}, ConfigError, "needs its certificate"),
    ]
    for change, kind, words in changes:
        error = problem(good.model_copy(update=change))
        assert isinstance(error, kind), (change, error)
        assert re.search(words, str(error)), error


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_key_of_another_user_is_told(certificates: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0)
    assert "cannot be read by this user" in str(problem(certificates.of("receiver").model_copy(update={"key": key})))


def test_an_encrypted_key_is_opened_with_the_password_of_the_environment(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "locked.key"
    openssl("pkey", "-in", certificates.of("receiver").key, "-aes256", "-passout", "pass:right", "-out", key)
    key.chmod(0o600)
    files = certificates.of("receiver").model_copy(update={"key": key})
    monkeypatch.delenv(KEY_PASSWORD, raising=False)
    assert KEY_PASSWORD in str(problem(files))
    monkeypatch.setenv(KEY_PASSWORD, "wrong")
    told = str(problem(files))
    assert "cannot be opened with this password" in told and "wrong" not in told
    monkeypatch.setenv(KEY_PASSWORD, "right")
    server_context(files, "require")


def test_an_option_that_would_encrypt_nothing_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    def listened(to: str | None, *, sending: dict[str, object], **files: Path | None) -> None:
        way = Way(to) if to else Way(folder=tmp_path)
        listen_run(tmp_path, {"tls_files": files}, way, sending=sending, announce=print)

    ca, own = certificates.of("caller").ca, certificates.of("receiver")
    with pytest.raises(ConfigError, match="nothing would be encrypted"):
        listened("A@127.0.0.1:104", sending={}, ca=ca)
    with pytest.raises(ConfigError, match="needs its certificate"):
        listened("A@127.0.0.1:104", sending={"tls": True}, ca=ca, key=own.key)
    with pytest.raises(ConfigError, match="AET@host:port alone"):
        listened(None, sending={"tls": True})
    with pytest.raises(ConfigError, match="no effect without --to-tls"):
        listened("A@127.0.0.1:104", sending={"tls_name": "a.example"})
    with pytest.raises(InputError, match="is no run: it has no folder student/"):  # these fit one another
        listened("A@127.0.0.1:104", sending={"tls": True}, cert=own.cert, key=own.key, ca=ca)
    saved(film(), tmp_path / "film.dcm")
    for to in ("A@127.0.0.1:104", "http://127.0.0.1/dicom-web"):
        with pytest.raises(ConfigError, match="nothing would be encrypted"):
            send_files([tmp_path], to, aet="ME", sending={"tls_files": {"ca": ca}}, on_outcome=lambda *_: None)


def test_stow_rs_over_https_with_a_ca_of_the_house(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"KDISTILL_DICOM_{name}", raising=False)
    with Service() as service:
        assert isinstance(service, ThreadingHTTPServer) and service.RequestHandlerClass is Answering
        service.socket = server_context(certificates.of("receiver"), "require").wrap_socket(
            service.socket, server_side=True
        )
        thread = threading.Thread(target=service.serve_forever, args=(0.05,))
        thread.start()
        part, web = part_of("film.dcm", as_bytes(film())), WebTarget(url=service.url.replace("http:", "https:"))

        def told(files: TlsFiles) -> Outcome:
            return WebDestination(web, SendConfig(timeout_s=120, tls_files=files)).deliver([part])[0]

        assert told(certificates.of("caller")).fate == "delivered"
        refused = told(certificates.of("caller", ca="stranger"))
        assert refused.fate == "again" and "its CA is not in --tls-ca" in refused.reason
        service.shutdown()
        thread.join()


def test_dcmtk_sends_over_tls(reader: Held, kept: Kept, certificates: Certificates, tmp_path: Path) -> None:
    path, caller = saved(film(), tmp_path / "film.dcm"), certificates.of("caller")
    known = ("+tls", caller.key, caller.cert, "+cf", caller.ca)
    with listening(reader, kept, tls_files=certificates.of("receiver")) as listener:
        here = ("-aec", "KDISTILL", "127.0.0.1", listener.port)
        done = dcmtk("storescu", "-v", *known, *here, path)
        assert done.returncode == 0 and "Received Store Response (Success)" in done.stdout, done.stdout
        assert dcmtk("echoscu", *known, *here).returncode == 0
        assert dcmtk("echoscu", "+tla", "+cf", caller.ca, *here).returncode != 0  # it shows no certificate
        plain = dcmtk("storescu", "-v", *here, path)
        assert plain.returncode != 0 and "abort" in plain.stdout.lower(), plain.stdout
        assert dcmtk("echoscu", *known, *here).returncode == 0
    assert len(kept.parts) == 1
    with listening(reader, kept) as listener:
        assert dcmtk("storescu", *known, "-aec", "KDISTILL", "127.0.0.1", listener.port, path).returncode != 0
        assert dcmtk("echoscu", "-aec", "KDISTILL", "127.0.0.1", listener.port).returncode == 0


def test_dcmtk_receives_over_tls(certificates: Certificates, tmp_path: Path) -> None:
    program, archive = shutil.which("storescp"), certificates.of("archive")
    if program is None:
        pytest.skip("DCMTK is not installed (Debian: dcmtk)")
    port = free_port()
    words = [
        program,
        "-od",
        str(tmp_path),
        "+tls",
        str(archive.key),
        str(archive.cert),
        "+cf",
        str(archive.ca),
        str(port),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            caller = certificates.of("caller")
            wait_for(lambda: sent(port, caller, name="archive.example").fate == "delivered")
            assert "another" in sent(port, caller).reason  # its certificate is not for 127.0.0.1
            assert "certificate" in sent(port, TlsFiles(ca=caller.ca), name="archive.example").reason
            assert "does it speak TLS" in sent(port, None).reason
            assert sent(port, caller, name="archive.example").fate == "delivered"
        finally:
            process.terminate()
    assert len(list(tmp_path.iterdir())) >= 1
