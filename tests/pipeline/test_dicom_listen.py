"""`kdistill dicom listen` as a service manager runs it: a real student, a film over the network, SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from ..dicom_network.conftest import phantom_film
from ..explain.test_exports import film

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_it_listens_until_a_signal_and_finishes_what_it_accepted(tiny_run: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = [sys.executable, "-m", "kdistill.cli.main", "dicom", "listen", str(tiny_run[1])]
    command += ["--out", str(out), "--port", "0", "--overlay", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        start = json.loads(process.stdout.readline())
        assert start["state"] == "listening" and start["aet"] == "KDISTILL"
        sources = [phantom_film(128), phantom_film(192), film(BodyPartExamined="SECRETPART")]
        entity = AE(ae_title="PACS")
        entity.add_requested_context(sources[0].SOPClassUID)
        association = entity.associate("127.0.0.1", start["port"], ae_title="KDISTILL")
        assert [hex(association.send_c_store(one).Status) for one in sources] == ["0x0", "0x0", "0xa900"]
        with socket.create_connection(("127.0.0.1", start["port"])):  # hangs, and the association stays open too
            process.send_signal(signal.SIGTERM)
            told, complaints = process.communicate(timeout=240)
    finally:
        process.kill()
    end = json.loads(told.splitlines()[-1])
    assert process.returncode == 0, complaints
    assert end["state"] == "ended" and (end["received"], end["accepted"], end["explained"]) == (3, 2, 2)
    assert end["objects_delivered"] == 4 and end["refused_other"] == 1
    made = [pydicom.dcmread(path) for path in out.iterdir()]
    assert sorted(one.Modality for one in made) == ["OT", "OT", "SR", "SR"]
    assert {str(one.StudyInstanceUID) for one in made} == {str(one.StudyInstanceUID) for one in sources[:2]}
    for secret in ("SECRET", "Doe", "P-77", str(sources[0].SOPInstanceUID)):
        assert secret not in told and secret not in complaints
