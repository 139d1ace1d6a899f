"""Round trips with a real archive: Orthanc stores a film, sends it here, and gets report and picture back."""

from __future__ import annotations

import email
import email.policy
import io
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import highdicom
import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from kdistill.dicom_network.config import SendConfig, StoreTarget, WebTarget
from kdistill.dicom_network.destinations import StoreDestination
from kdistill.dicom_network.run import send_files
from kdistill.dicom_network.stow import WebDestination
from kdistill.explain.explanation import NOTICE

from ..explain.test_exports import saved
from .conftest import Held, film, listening, phantom_film, wait_for

SENDING = SendConfig(timeout_s=60, attempts=3)
PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
LUA = Path(__file__).parents[2] / "docs" / "hospital.md"

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Orthanc(NamedTuple):
    """A running archive."""

    http: httpx.Client
    http_port: int
    dicom_port: int

    def series(self, study_uid: str) -> dict[str, str]:
        """Modality -> series UID of a study, as QIDO-RS finds them."""
        answer = self.http.get(f"/dicom-web/studies/{study_uid}/series", headers={"Accept": "application/dicom+json"})
        return {one["00080060"]["Value"][0]: one["0020000E"]["Value"][0] for one in (answer.json() if answer else [])}

    def fetch(self, study_uid: str, series_uid: str) -> Dataset:
        """The one object of a series, as WADO-RS gives it."""
        accept = {"Accept": 'multipart/related; type="application/dicom"'}
        answer = self.http.get(f"/dicom-web/studies/{study_uid}/series/{series_uid}", headers=accept)
        head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + answer.content, policy=email.policy.HTTP).iter_parts()
        return pydicom.dcmread(io.BytesIO(part.get_payload(decode=True)))

    def modality(self, port: int, aet: str = "KDISTILL", *, tls: bool = False) -> None:
        """Tell the archive where we listen."""
        where = {"AET": aet, "Host": "127.0.0.1", "Port": port, "UseDicomTls": tls}
        self.http.put("/modalities/kdistill", json=where).raise_for_status()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path, **more: object) -> Iterator[Orthanc]:
    """An archive of its own, with further settings."""
    program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    plugin = next((found for folder in PLUGINS for found in folder.glob("libOrthancDicomWeb.so*")), None)
    if program is None or plugin is None:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (Debian: orthanc, orthanc-dicomweb)")
    folder.mkdir(exist_ok=True)
    http_port, dicom_port = free_port(), free_port()
    settings: dict[str, Any] = {
        **dict.fromkeys(("StorageDirectory", "IndexDirectory"), str(folder)),
        **{"HttpPort": http_port, "DicomPort": dicom_port, "DicomAet": "ORTHANC", "Plugins": [str(plugin)]},
        **{"RemoteAccessAllowed": False, "AuthenticationEnabled": False, "ExecuteLuaEnabled": True},
        "DicomScuTimeout": 120,  # ten seconds are little where tests share two cores with other work
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([program, str(config)], stdout=log, stderr=log, cwd=folder)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=60, trust_env=False) as http:
            _wait_until_up(http, process)
            yield Orthanc(http, http_port, dicom_port)
    finally:
        process.kill()  # its data are ours to throw away; an orderly end takes two seconds
        process.wait(30)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


def _wait_until_up(http: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if http.get("/system").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("Orthanc did not start")


def as_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def check_results(orthanc: Orthanc, source: Dataset) -> None:
    """Report and picture stand in the film's study, as new series, and say what the model said."""
    study = str(source.StudyInstanceUID)
    wait_for(lambda: set(orthanc.series(study)) == {"CR", "SR", "OT"})
    found = orthanc.series(study)
    assert found["CR"] == source.SeriesInstanceUID and len(set(found.values())) == 3
    report, picture = orthanc.fetch(study, found["SR"]), orthanc.fetch(study, found["OT"])
    assert report.PatientID == picture.PatientID == source.PatientID
    assert NOTICE in json.dumps(report.to_json_dict())
    back = highdicom.sr.Comprehensive3DSR.from_dataset(report)
    (region,) = back.content.get_planar_roi_measurement_groups()
    assert region.tracking_identifier == "Pleural Effusion"
    assert [one.value.meaning for one in region.get_qualitative_evaluations()] == ["Present"]
    assert region.reference_type is not None
    referenced = back.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert referenced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert picture.pixel_array.shape == (832, 768, 3)


def test_the_archive_sends_a_film_and_gets_its_results_by_c_store(orthanc: Orthanc, speaking: Held) -> None:
    source = phantom_film(256, PatientID="P-1")
    target = StoreTarget(aet="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
    with listening(speaking, StoreDestination(target, SENDING), overlay=True) as listener:
        orthanc.modality(listener.port)
        stored = orthanc.http.post("/instances", content=as_bytes(source)).json()
        sent = orthanc.http.post("/modalities/kdistill/store", content=stored["ID"])
        assert sent.status_code == 200 and sent.json()["FailedInstancesCount"] == 0
        check_results(orthanc, source)
        wait_for(lambda: listener.num_open == 0)
        assert orthanc.http.post("/modalities/kdistill/store", content=stored["ID"]).status_code == 200
        own = orthanc.http.post("/tools/find", json={"Level": "Instance", "Query": {"Modality": "OT"}}).json()
        refused = orthanc.http.post("/modalities/kdistill/store", content=own[0])
        assert refused.status_code >= 400  # the archive sends our own result: a circle ends here
    counts = dict(listener.counts)
    assert (counts["duplicates"], counts["refused_other"], counts["objects_delivered"]) == (1, 1, 2)


def test_the_documented_route_and_results_by_stow_rs(orthanc: Orthanc, speaking: Held, tmp_path: Path) -> None:
    (script,) = re.findall(r"```lua\n(.*?)```", LUA.read_text(encoding="utf-8"), flags=re.DOTALL)
    source, lateral = (phantom_film(256, PatientID="P-2", BodyPartExamined="CHEST") for _ in range(2))
    lateral.ViewPosition = "LL"
    web = WebTarget(url=f"http://127.0.0.1:{orthanc.http_port}/dicom-web")
    with listening(speaking, WebDestination(web, SENDING), overlay=True) as listener:
        orthanc.modality(listener.port)
        orthanc.http.post("/tools/execute-script", content=script.encode()).raise_for_status()
        files = [saved(lateral, tmp_path / "a.dcm"), saved(source, tmp_path / "b.dcm")]
        told: list[tuple[str, str, str]] = []
        counts = send_files(files, web.url, aet="SENDER", on_outcome=lambda *one: told.append(one))
        assert counts["delivered"] == 2, told
        check_results(orthanc, source)
        assert set(orthanc.series(str(lateral.StudyInstanceUID))) == {"CR"}
        orthanc.http.post("/tools/execute-script", content=b"OnStoredInstance = nil").raise_for_status()
    assert dict(listener.counts)["received"] == 1  # neither the lateral film nor our own results were routed


def test_files_are_sent_by_c_store_and_found(orthanc: Orthanc, tmp_path: Path) -> None:
    source = film(64, 64, PatientID="P-3")
    (tmp_path / "note.txt").write_text("no DICOM")
    saved(source, tmp_path / "film.dcm")
    told: list[tuple[str, str]] = []
    counts = send_files(
        [tmp_path],
        f"ORTHANC@127.0.0.1:{orthanc.dicom_port}",
        aet="SENDER",
        on_outcome=lambda n, f, r: told.append((n, f)),
    )
    assert (counts["delivered"], counts["unreadable"]) == (1, 1)
    assert sorted(told) == [("film.dcm", "delivered"), ("note.txt", "unreadable")]
    query = {"StudyInstanceUID": str(source.StudyInstanceUID)}
    (found,) = orthanc.http.get("/dicom-web/studies", params=query, headers={"Accept": "application/dicom+json"}).json()
    assert found["00100020"]["Value"] == ["P-3"]
    back = orthanc.fetch(str(source.StudyInstanceUID), str(source.SeriesInstanceUID))
    assert (back.pixel_array == source.pixel_array).all()
