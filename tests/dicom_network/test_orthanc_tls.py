"""A real archive over TLS, both ways, and its storage commitment: Orthanc with certificates of a CA made here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdistill.dicom_network.config import FolderTarget, SendConfig, StoreTarget, TlsFiles
from kdistill.dicom_network.destinations import FolderDestination, StoreDestination
from kdistill.dicom_network.parts import part_of

from .conftest import Held, Kept, film, listening, phantom_film, wait_for
from .test_orthanc import Orthanc, as_bytes, check_results, running_orthanc
from .test_tls import Certificates, certificates

__all__ = ["certificates"]

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Orthanc]:
    """An archive whose DICOM port speaks TLS alone and wants certificates."""
    own = certificates.of("archive")
    files = {"Certificate": own.cert, "PrivateKey": own.key, "TrustedCertificates": own.ca}
    with running_orthanc(
        tmp_path_factory.mktemp("orthanc"),
        DicomTlsEnabled=True,
        DicomTlsRemoteCertificateRequired=True,
        **{f"DicomTls{name}": str(path) for name, path in files.items()},
    ) as found:
        yield found


def to_archive(orthanc: Orthanc, files: TlsFiles | None, **more: object) -> tuple[StoreTarget, SendConfig]:
    tls = {} if files is None else {"tls": True, "tls_files": files, "tls_name": "archive.example"}
    config = SendConfig.model_validate({"timeout_s": 60, "attempts": 3, **tls, **more})
    return StoreTarget(aet="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port), config


def test_film_results_and_commitment_travel_over_tls_alone(
    secured: Orthanc, speaking: Held, certificates: Certificates, tmp_path: Path
) -> None:
    source, own = phantom_film(256, PatientID="P-1"), certificates.of("receiver")
    target, sending = to_archive(secured, own, commit=True, commit_wait_s=300)
    outbox = FolderDestination(FolderTarget(path=tmp_path / "outbox"))
    with listening(
        speaking,
        StoreDestination(target, sending),
        overlay=True,
        tls_files=own,
        sending=sending,
        archive=target,
        outbox=outbox,
    ) as listener:
        secured.modality(listener.port, tls=True)
        stored = secured.http.post("/instances", content=as_bytes(source)).json()
        sent = secured.http.post("/modalities/kdistill/store", content=stored["ID"])
        assert sent.status_code == 200 and sent.json()["FailedInstancesCount"] == 0
        check_results(secured, source)
        wait_for(lambda: listener.num_open == 0)
        secured.modality(listener.port, tls=False)
        plain = secured.http.post("/modalities/kdistill/store", content=stored["ID"])
        assert plain.status_code >= 400  # the archive itself is refused where it speaks without TLS
    counts = dict(listener.counts)
    assert (counts["objects_delivered"], counts["objects_committed"], counts["objects_uncommitted"]) == (2, 2, 0)
    assert counts["duplicates"] == 0 and not (tmp_path / "outbox").exists()


def test_who_shows_the_archive_no_certificate_or_a_strangers_is_told(
    secured: Orthanc, certificates: Certificates
) -> None:
    part, own = part_of("film.dcm", as_bytes(film())), certificates.of("receiver")
    stranger = certificates.of("stranger")  # signed by itself alone
    for files, words in (
        (TlsFiles(ca=own.ca), "certificate"),
        (TlsFiles(cert=stranger.cert, key=stranger.key, ca=own.ca), "certificate"),
        (certificates.of("receiver", ca="stranger"), "its CA is not in --tls-ca"),
        (None, "does it speak TLS"),
    ):
        target, sending = to_archive(secured, files)
        (outcome,) = StoreDestination(target, sending).deliver([part])
        assert outcome.fate == "again" and words in outcome.reason, outcome
    assert secured.http.get("/instances").json() == [] or part.instance not in str(
        secured.http.get("/instances").json()
    )


def test_an_archive_that_knows_another_ca_than_ours_is_refused_with_a_sentence(
    tmp_path: Path, reader: Held, kept: Kept, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with listening(reader, kept, tls_files=certificates.of("receiver")) as listener:
        own = certificates.of("stranger")
        assert own.key is not None and own.cert is not None
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(certificates.of("caller").ca.read_bytes())  # type: ignore[union-attr]
        with running_orthanc(
            tmp_path / "data",
            DicomTlsEnabled=True,
            DicomTlsCertificate=str(own.cert),
            DicomTlsPrivateKey=str(own.key),
            DicomTlsTrustedCertificates=str(trusted),
        ) as foreign:
            foreign.modality(listener.port, tls=True)
            assert foreign.http.post("/modalities/kdistill/echo", content="{}").status_code >= 400
    assert "not accepted: it is self-signed and not in --tls-ca" in caplog.text
