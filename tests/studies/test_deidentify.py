"""FAULTS 16, 19 and de-identification: 50 planted strings in every kind of place of a file, none of them comes out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import tarfile
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from kdistill.errors import InputError, PolicyError
from kdistill.studies.config import FolderStudies
from kdistill.studies.deidentify import deidentify, load_key
from kdistill.studies.images import read_grey
from kdistill.studies.released_tags import pseudonym, released
from kdistill.studies.sources.folder import read_folder

from ..pipeline.tiny import kdistill

KEY = b"0123456789abcdef-secret"
SIZE = 48


class Planted:
    """Hands out strings that occur nowhere else, and remembers them."""

    def __init__(self):
        self.strings = []

    def text(self, kind="X", length=None):
        """A string for a value; numbers where the value must be one."""
        number = len(self.strings)
        word = f"{kind}ZQ{number:02}PLANT"[: length or 64]
        self.strings.append(word)
        return word

    def digits(self, head):
        """A UID, date or number that is recognised again."""
        word = f"{head}{7310000 + len(self.strings)}"
        self.strings.append(word)
        return word


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 4096, (SIZE, SIZE)).astype(np.uint16)


def bare(seed=0, **tags):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{seed}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    settings = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CR",
        "PatientID": "p1",
        "StudyInstanceUID": f"1.2.4.{seed}",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": SIZE,
        "Columns": SIZE,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 2048.0,
        "WindowWidth": 4096.0,
        **tags,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values break their VR's rules on purpose
        for name, value in settings.items():
            if value is not None:
                setattr(dataset, name, value)
    dataset.PixelData = pixels(seed).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def saved(dataset):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some planted values break their VR's rules on purpose
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


PERSONS = (
    "PatientName ReferringPhysicianName PerformingPhysicianName OperatorsName PhysiciansOfRecord OtherPatientNames"
)
LONG_TEXTS = "PatientComments ImageComments StudyComments AdditionalPatientHistory DerivationDescription PatientAddress"
SHORT_TEXTS = (
    "InstitutionName InstitutionAddress InstitutionalDepartmentName StationName Manufacturer StudyDescription "
    "SeriesDescription ProtocolName Occupation MilitaryRank EthnicGroup RequestedProcedureDescription"
)
IDS = "AccessionNumber StudyID OtherPatientIDs DeviceSerialNumber RequestedProcedureID"
DATES = "PatientBirthDate StudyDate SeriesDate AcquisitionDate ContentDate"
UIDS = "SeriesInstanceUID FrameOfReferenceUID"


def planted_file(plant):
    """One readable film whose every corner holds a planted string."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _planted_file(plant)


def _planted_file(plant):
    dataset = bare(
        # Allowed attributes too: a name typed into them is none of their values.
        BodyPartExamined=plant.text("BODY", 16),
        ViewPosition=plant.text("VIEW", 16),
        PatientSex=plant.text("SEX", 12),
        BurnedInAnnotation=plant.text("BURN", 16),
        PatientID=plant.text("ID"),
        StudyInstanceUID=plant.digits("1.2.840.99."),
        SOPInstanceUID=plant.digits("1.2.840.98."),
    )
    for names, make in (
        (PERSONS, lambda: plant.text("Doe^") + "^Jane"),
        (LONG_TEXTS, lambda: plant.text("comment ")),
        (SHORT_TEXTS, lambda: plant.text("short ")),
        (IDS, lambda: plant.text("N", 16)),
        (DATES, lambda: plant.digits("2")),
        (UIDS, lambda: plant.digits("1.2.840.97.")),
    ):
        for name in names.split():
            setattr(dataset, name, make())
    item, deeper = Dataset(), Dataset()
    deeper.PatientName, deeper.TextValue = plant.text("Deep^"), plant.text("deep text ")
    item.ContentSequence = Sequence([deeper])
    item.CodeMeaning = plant.text("meaning ")
    dataset.RequestAttributesSequence = Sequence([item])
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = plant.text("V", 12), "SCT", plant.text("view ")
    dataset.ViewCodeSequence = Sequence([view])
    block = dataset.private_block(0x0011, plant.text("CREATOR "), create=True)
    block.add_new(0x01, "LO", plant.text("private "))
    block.add_new(0x02, "UN", plant.text("unknown ").encode())
    block.add_new(0x03, "SQ", Sequence([deeper]))
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000011, "US", 16)
    dataset.add_new(0x60000022, "LO", plant.text("overlay "))
    dataset.add_new(0x60001500, "LO", plant.text("label "))
    dataset.add_new(0x60003000, "OW", plant.text("OVERLAYBITS", 16).encode())
    dataset.add_new(0x50000022, "LO", plant.text("curve "))
    dataset.file_meta.ImplementationVersionName = plant.text("VER", 16)
    dataset.file_meta.SourceApplicationEntityTitle = plant.text("AE", 16)
    dataset.file_meta.PrivateInformationCreatorUID = plant.digits("1.2.840.96.")
    dataset.file_meta.PrivateInformation = plant.text("meta private ").encode()
    dataset.preamble = plant.text("preamble ").encode().ljust(128, b"\0")
    dataset.add_new(0xFFFCFFFC, "OB", plant.text("trailing ").encode())
    return saved(dataset)


def everything(*folders):
    """All bytes of all files below the folders, and all names."""
    files = [path for folder in folders for path in folder.rglob("*")]
    return b"\n".join([str(path).encode() for path in files] + [p.read_bytes() for p in files if p.is_file()])


@pytest.fixture
def planted(tmp_path):
    """A folder of files full of planted strings: readable ones, and some that make every kind of trouble."""
    plant = Planted()
    whole = planted_file(plant)
    name = plant.text("Doe_Jane_")
    folder = tmp_path / "in" / plant.text("ward ")
    folder.mkdir(parents=True)
    (folder / f"{name}.dcm").write_bytes(whole)
    (folder / f"{name}-cut.dcm").write_bytes(whole[: len(whole) - 900])
    (folder / f"{name}-header-cut.dcm").write_bytes(whole[:700])
    (folder / f"{name}-bad-vr.dcm").write_bytes(whole.replace(b"LO", b"ZZ"))
    (folder / f"{name}-text.dcm").write_text(f"no image: {plant.text('body ')}")
    trouble = bare(3, PatientName=plant.text("Trouble^"), PhotometricInterpretation=plant.text("PHOTO", 16))
    (folder / f"{name}-photometric.dcm").write_bytes(saved(trouble))
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", plant.text("png text "))
    Image.fromarray((pixels(5) >> 4).astype(np.uint8)).save(folder / f"{name}.png", pnginfo=info)
    exif = Image.Exif()
    exif[0x010E] = plant.text("exif ")
    Image.fromarray((pixels(6) >> 4).astype(np.uint8)).save(folder / f"{name}.jpg", exif=exif, quality=95)
    return tmp_path / "in", plant.strings


def test_there_are_fifty_planted_strings_and_they_are_in_the_input(planted):
    folder, strings = planted
    assert len(strings) >= 50 and len(set(strings)) == len(strings)
    given = everything(folder)
    assert [s for s in strings if s.encode() not in given] == []


def test_no_planted_string_comes_out_of_a_folder(planted, tmp_path, monkeypatch, caplog, capfd):
    folder, strings = planted
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    caplog.set_level(logging.DEBUG)
    outcome = deidentify(folder, tmp_path / "out", key=KEY)
    shown = capfd.readouterr()
    found = everything(tmp_path / "out", tmp_path / "tmp")
    found += (caplog.text + shown.out + shown.err + repr(outcome)).encode()
    assert [s for s in strings if s.encode() in found] == []
    assert [p.name for p in tmp_path.iterdir() if "writing" in p.name] == []
    counts = outcome.counts
    assert counts["files"] == 8 and counts["images"] >= 3
    rejected = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert counts["images"] + len(rejected) == 8


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["plain", "debug"])
def test_no_planted_string_comes_out_of_the_command(planted, tmp_path, debug):
    folder, strings = planted
    out = tmp_path / "out"
    done = kdistill(*debug, "data", "deidentify", str(folder), str(out))
    found = everything(out) + (done.stdout + done.stderr).encode()
    assert [s for s in strings if s.encode() in found] == []
    assert "images_without_a_stated_patient" in done.stdout


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_never_touches_the_disk(planted, tmp_path, kind, monkeypatch):
    folder, strings = planted
    path = tmp_path / "export"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, "x")
    seen = []
    written = open

    def watched(file, mode="r", *args, **more):
        if any(letter in mode for letter in "wxa+"):
            seen.append(str(file))
        return written(file, mode, *args, **more)

    monkeypatch.setattr("builtins.open", watched)
    outcome = deidentify(path, tmp_path / "out", key=KEY)
    assert outcome.counts["files"] == 8
    assert all(".out.writing-" in name for name in seen)
    found = everything(tmp_path / "out")
    assert [s for s in strings if s.encode() in found] == []


def test_a_refusal_names_nothing(planted, tmp_path):
    folder, strings = planted
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith(("cut.dcm", "text.dcm", "photometric.dcm")):
            path.unlink()
    done = kdistill("data", "deidentify", str(folder), str(tmp_path / "out"), check=2)
    assert [s for s in strings if s in done.stdout + done.stderr] == []
    assert "pixels_unreadable" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def write(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_may_leave_leaves(tmp_path):
    view = Dataset()
    view.CodeValue = "272479007"
    files = {
        "a": saved(bare(1, PatientSex="F", PatientAge="094Y", ViewPosition="AP", BodyPartExamined="CHEST")),
        "b": saved(
            bare(2, PatientSex="F", PatientAge="007M", ViewCodeSequence=[view], ImagerPixelSpacing=[0.139, 0.139])
        ),
        "c": saved(bare(3, PatientID="p2", PatientAge="089Y", ViewPosition="LL", BurnedInAnnotation="NO")),
    }
    out = tmp_path / "out"
    counts = deidentify(write(tmp_path / "in", files), out, key=KEY).counts
    assert (counts["files"], counts["images"], counts["studies"], counts["patients"]) == (3, 3, 3, 2)
    rows = {row["study_id"]: row for row in rows_of(out / "studies.csv")}
    one, two, three = (rows[pseudonym(KEY, "study", f"1.2.4.{n}")] for n in (1, 2, 3))
    assert (one["age"], one["sex"], one["view_position"]) == ("90", "F", "AP")
    assert (two["age"], two["view_position"]) == ("0", "PA")
    assert (three["age"], three["view_position"], three["sex"]) == ("89", "LATERAL", "")
    assert one["patient_id"] == two["patient_id"] == pseudonym(KEY, "patient", "p1") != three["patient_id"]
    images = {row["image_path"]: row for row in rows_of(out / "images.csv")}
    assert images[one["image_path"]]["body_part"] == "CHEST" and images[one["image_path"]]["bits_stored"] == "12"
    assert images[two["image_path"]]["pixel_spacing_mm"] == "0.139"
    assert images[three["image_path"]]["burned_in"] == "NO"


def test_the_result_is_a_folder_that_a_run_reads_with_the_same_pixels(tmp_path):
    files = {str(n): saved(bare(n, StudyInstanceUID="1.2.4.7", PatientAge=age)) for n, age in ((1, "050Y"), (2, None))}
    source = write(tmp_path / "in", files)
    deidentify(source, tmp_path / "out", key=KEY)
    studies = read_folder(FolderStudies(path=str(tmp_path / "out"))).studies
    assert len(studies) == 1 and len(studies[0].images) == 2 and studies[0].study.age == 50
    given = sorted((read_grey(source / name) for name in files), key=lambda a: float(a[0, 0]))
    got = sorted((read_grey(image.path) for image in studies[0].images), key=lambda a: float(a[0, 0]))
    assert np.abs(np.stack(given) - np.stack(got)).max() <= 0.5 / 65535 + 1e-7


def test_overlay_bits_above_the_stored_ones_do_not_reach_the_image(tmp_path):
    """Old files keep overlays in the high bits of a pixel: a name drawn there must not be drawn in the PNG."""
    plain, marked = bare(1), bare(1)
    drawn = pixels(1)
    drawn[10:20, 5:40] |= 0xF000
    marked.PixelData = drawn.tobytes()
    images = []
    for number, dataset in enumerate((plain, marked)):
        out = tmp_path / f"out{number}"
        deidentify(write(tmp_path / f"in{number}", {"x": saved(dataset)}), out, key=KEY)
        images.append(next((out / "images").iterdir()).read_bytes())
    assert images[0] == images[1]


def test_png_files_hold_pixels_only(tmp_path):
    deidentify(write(tmp_path / "in", {"x": saved(bare(1))}), tmp_path / "out", key=KEY)
    data = next((tmp_path / "out" / "images").iterdir()).read_bytes()
    kinds, position = [], 8
    while position < len(data):
        kinds.append(data[position + 4 : position + 8])
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_stated_burned_in_text_is_refused_or_counted(tmp_path):
    source = write(tmp_path / "in", {"x": saved(bare(1, BurnedInAnnotation="YES")), "y": saved(bare(2))})
    counts = deidentify(source, tmp_path / "refused", key=KEY).counts
    assert counts["images"] == 1 and counts["burned_in_text_stated"] == 1
    assert counts["images_that_do_not_say_whether_text_is_burned_in"] == 1
    counts = deidentify(source, tmp_path / "warned", key=KEY, burned_in="warn").counts
    assert counts["images"] == 2 and counts["images_that_state_burned_in_text"] == 1


def test_other_body_parts_and_deflated_files_are_left_out_by_reason(tmp_path):
    deflated = bare(2)
    deflated.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    files = {"hand": saved(bare(1, BodyPartExamined="HAND")), "deflated": saved(deflated), "chest": saved(bare(3))}
    out = tmp_path / "out"
    counts = deidentify(write(tmp_path / "in", files), out, key=KEY).counts
    assert (counts["not_the_chest"], counts["deflated_dicom"], counts["images"]) == (1, 1, 1)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in rejected} == {"not_the_chest", "deflated_dicom"}
    digests = {hashlib.sha256(data).hexdigest()[:16] for data in files.values()}
    assert all(line["sha256"] in digests for line in rejected)


def test_pseudonyms_need_the_key_and_nothing_else(tmp_path):
    source = write(tmp_path / "in", {"x": saved(bare(1))})
    names = []
    for number, key in enumerate([KEY, KEY, b"another key of 24 bytes!", None, None]):
        deidentify(source, tmp_path / f"o{number}", key=key)
        names.append(everything(tmp_path / f"o{number}").replace(f"/o{number}".encode(), b""))
    assert names[0] == names[1] and len(set(names)) == 4
    assert b"p1" not in (tmp_path / "o0" / "studies.csv").read_bytes()


def test_damaged_files_leak_nothing_and_stop_nothing(planted, tmp_path, capfd):
    """Bytes flipped at random in a film full of planted strings: images or reasons, never a value."""
    folder, strings = planted
    whole = max((p.read_bytes() for p in folder.rglob("*.dcm")), key=len)
    rng = np.random.default_rng(0)
    files = {"good": saved(bare(1))}
    for number in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(132, len(whole) - SIZE * SIZE * 2, 6):
            damaged[position] = rng.integers(256)
        files[f"{number}"] = bytes(damaged)
    counts = deidentify(write(tmp_path / "damaged", files), tmp_path / "out", key=KEY).counts
    assert counts["files"] == 61
    shown = capfd.readouterr()
    found = everything(tmp_path / "out") + (shown.out + shown.err + repr(counts)).encode()
    assert [s for s in strings if s.encode() in found] == []


def test_control_characters_in_tags_reach_no_table(tmp_path):
    nasty = saved(bare(1, PatientID="\x1b[31mid", PatientName="a\u202eb", PatientSex="F\x07", Modality="CR"))
    deidentify(write(tmp_path / "in", {"x": nasty}), tmp_path / "out", key=KEY)
    table = (tmp_path / "out" / "studies.csv").read_text()
    assert table.isascii() and table.replace("\n", "").isprintable()


def test_unknown_patients_are_counted_and_kept_apart(tmp_path):
    files = {str(n): saved(bare(n, PatientID=None)) for n in (1, 2)}
    counts = deidentify(write(tmp_path / "in", files), tmp_path / "out", key=KEY).counts
    assert counts["images_without_a_stated_patient"] == 2 and counts["patients"] == 2


@pytest.mark.parametrize("value", ["abc", "", "-1Y", "12Y12Y", "١٢Y", "1234Y"])
def test_what_is_no_age_is_left_empty(value):
    assert released({"PatientAge": value}, KEY, b"").age is None


@pytest.mark.parametrize(("value", "years"), [("200Y", 90), ("090Y", 90), ("089Y", 89), ("62", 62), ("030M", 2)])
def test_ages_are_years_and_capped(value, years):
    assert released({"PatientAge": value}, KEY, b"").age == years


def test_faults_of_use(tmp_path):
    source = write(tmp_path / "in", {"x": saved(bare(1))})
    with pytest.raises(PolicyError, match="not empty"):
        deidentify(source, source)
    with pytest.raises(InputError, match="no folder and no archive"):
        deidentify(source / "x", tmp_path / "out")
    (tmp_path / "short").write_bytes(b"123")
    with pytest.raises(InputError, match="shorter than 16"):
        load_key(tmp_path / "short")


def test_real_files(shared_data, tmp_path):
    counts = deidentify(shared_data / "cxr_dicom", tmp_path / "out", key=KEY).counts
    assert counts["files"] == 5 and counts["images"] >= 2
    assert counts["pixels_unreadable"] >= 1  # chrJapMulti.dcm has no pixels
    found = everything(tmp_path / "out")
    for path in (shared_data / "cxr_dicom").glob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for element in header.iterall():
            value = str(element.value)
            if element.VR in ("PN", "UI", "LO", "LT", "ST", "SH", "DA", "TM") and len(value) > 5:
                assert value.encode("utf-8", "replace") not in found, element.keyword
