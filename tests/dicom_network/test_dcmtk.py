"""DCMTK, which shares no code with us, as peer of the receiver and as reader of what it writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import CTImageStorage

from kdistill.dicom_network.config import FolderTarget
from kdistill.dicom_network.destinations import FolderDestination
from kdistill.explain.explanation import NOTICE

from ..explain.test_exports import a_reading, saved
from .conftest import Held, Kept, film, listening, phantom_film

#: pynetdicom, as the peer here, leaves a socket to the garbage collector where the other side closed it first (3.0.4).
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of its programs; its messages and its output in one text."""
    found = shutil.which(program)
    if found is None:
        pytest.skip("DCMTK is not installed (Debian: dcmtk)")
    words = [found, *(str(one) for one in arguments)]
    return subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120
    )


def complaints(output: str) -> list[str]:
    """Errors and warnings, as DCMTK marks them; not that its own checker of text knows no UTF-8 (3.6.7)."""
    marked = [line for line in output.splitlines() if line.startswith(("E:", "W:", "F:"))]
    return [line for line in marked if "does not support this Specific Character Set: ISO_IR 192" not in line]


def test_echoscu_and_storescu_are_answered(reader: Held, kept: Kept, tmp_path: Path) -> None:
    good, hand = saved(film(), tmp_path / "film.dcm"), saved(film(BodyPartExamined="HAND"), tmp_path / "hand.dcm")
    scan = film(SOPClassUID=CTImageStorage, Modality="CT")
    scan.file_meta.MediaStorageSOPClassUID = CTImageStorage
    with listening(reader, kept) as listener:
        here = ("-aec", "KDISTILL", "127.0.0.1", listener.port)
        assert dcmtk("echoscu", *here).returncode == 0
        assert dcmtk("echoscu", "-aec", "OTHER", "127.0.0.1", listener.port).returncode != 0
        sent = dcmtk("storescu", "-v", *here, good)
        assert sent.returncode == 0 and "Received Store Response (Success)" in sent.stdout
        refused = dcmtk("storescu", "-v", *here, hand)
        assert "DataSetDoesNotMatchSOPClass" in refused.stdout
        unknown = dcmtk("storescu", "-v", *here, saved(scan, tmp_path / "ct.dcm"))
        assert unknown.returncode != 0 and "No presentation context" in unknown.stdout
    assert len(kept.parts) == 1 and dict(listener.counts)["received"] == 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that answer one film, by modality."""
    folder = tmp_path_factory.mktemp("results")
    from .conftest import send

    with listening(Held(a_reading()), FolderDestination(FolderTarget(path=folder / "out")), overlay=True) as listener:
        send(listener.port, phantom_film(256, StudyDate="20260102", PatientBirthDate="19500101", PatientSex="F"))
    return {str(pydicom.dcmread(path, stop_before_pixels=True).Modality): path for path in (folder / "out").iterdir()}


@pytest.mark.parametrize("modality", ["SR", "OT"])
def test_the_files_are_read_without_a_complaint(results: dict[str, Path], modality: str) -> None:
    for program in ("dcmftest", "dcmdump"):
        done = dcmtk(program, results[modality])
        assert done.returncode == 0 and complaints(done.stdout) == [], done.stdout
    assert "yes:" in dcmtk("dcmftest", results[modality]).stdout


def test_the_report_is_a_valid_document(results: dict[str, Path]) -> None:
    done = dcmtk("dsrdump", "--print-all-codes", results["SR"])
    assert done.returncode == 0 and complaints(done.stdout) == [], done.stdout
    for words in ("Comprehensive 3D SR Document", "PARTIAL", "UNVERIFIED", "Pleural Effusion", "Present"):
        assert words in done.stdout
    assert NOTICE.split(".")[0] in done.stdout


def test_the_picture_is_the_one_that_was_painted(results: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "picture.ppm"
    done = dcmtk("dcmj2pnm", "--write-raw-pnm", results["OT"], picture)
    assert done.returncode == 0 and complaints(done.stdout) == [], done.stdout
    assert np.array_equal(np.asarray(Image.open(picture)), pydicom.dcmread(results["OT"]).pixel_array)
