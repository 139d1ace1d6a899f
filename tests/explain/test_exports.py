"""FHIR, DICOM-SR and overlay: read back by libraries that did not write them, and wrong input refused by name."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom.sr
import numpy as np
import pydicom
import pypdf
import pytest
from fhir.resources.R4B.bundle import Bundle
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from kdistill.errors import InputError
from kdistill.explain.batch import explain_files, file_stem
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.codes import OBSERVATION_CONCEPTS, SCHEME_URIS
from kdistill.explain.dicom_sr import overlay_capture, shown_finding, sr_document
from kdistill.explain.explanation import NOTICE, Explanation
from kdistill.explain.exports import export
from kdistill.explain.fhir import fhir_bundle
from kdistill.explain.page import explanation_page
from kdistill.explain.pdf import explanation_pdf
from kdistill.explain.reading import Reading
from kdistill.explain.regions import evidence_box
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.studies.dicom import dicom_header

from .conftest import FixedReader, make_reading, radiograph

NOW = datetime(2026, 11, 26, 5, 0, tzinfo=UTC)


def a_reading() -> Reading:
    reading = make_reading(
        {"Pleural Effusion": 0.93, "Cardiomegaly": 0.55},
        {"Pleural Effusion": "left"},
        "There is a left pleural effusion.",
        "Left pleural effusion.",
        "Left pleural effusion.",
    )
    maps = reading.evidence_maps.copy()  # type: ignore[union-attr]
    maps[INDEX["Pleural Effusion"]] = 0.001
    maps[INDEX["Pleural Effusion"], 5:7, 6:8] = 0.25
    return replace(reading, evidence_maps=maps)


@pytest.fixture
def explanation(context: ExplanationContext) -> Explanation:
    return explain("s1", radiograph(), a_reading(), context)


@pytest.fixture
def silent(context: ExplanationContext) -> Explanation:
    return explain("s1", np.full((64, 64), 80, np.uint8), a_reading(), context)


def film(height: int = 80, width: int = 64, **changes: object) -> Dataset:
    """A radiograph as an archive holds it, with the patient's name."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.Modality = "P-77", "Doe^Jane", "CR"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, 1
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.resize(radiograph(), (height, width)).tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def by_type(bundle: dict, kind: str) -> list[dict]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def test_the_bundle_is_valid_fhir_and_says_what_the_explanation_says(explanation: Explanation) -> None:
    bundle = fhir_bundle(explanation, recorded=NOW, study_uid="1.2.3")
    assert json.loads(Bundle.model_validate(bundle).model_dump_json())["resourceType"] == "Bundle"
    assert bundle == fhir_bundle(explanation, recorded=NOW, study_uid="1.2.3")
    found = {item["code"]["text"]: item for item in by_type(bundle, "Observation")}
    assert list(found) == list(OBSERVATIONS)
    effusion = found["Pleural Effusion"]
    assert effusion["valueCodeableConcept"]["text"] == "Present" and effusion["bodySite"]["text"] == "Chest, left"
    *numbers, side = effusion["component"]
    assert [part["valueQuantity"]["value"] for part in numbers] == [0.93, 0.5]
    assert (side["code"]["text"], side["valueCodeableConcept"]["text"]) == ("Laterality", "Left")
    assert found["Cardiomegaly"]["valueCodeableConcept"]["text"] == "Indeterminate"
    assert found["Edema"]["valueCodeableConcept"]["text"] == "Absent" and "bodySite" not in found["Edema"]
    (report,) = by_type(bundle, "DiagnosticReport")
    assert report["status"] == "preliminary" and "Left pleural effusion." in report["conclusion"]
    assert report["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3"
    text = base64.b64decode(report["presentedForm"][0]["data"]).decode()
    assert NOTICE in text and NOTICE in report["conclusion"] and explanation.image_sha256 in text
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    references = [item["reference"] for item in report["result"]] + [effusion["device"]["reference"]]
    assert set(references) <= known


def test_every_resource_is_labelled_as_asserted_by_a_machine(explanation: Explanation) -> None:
    bundle = fhir_bundle(explanation, recorded=NOW)
    for resource in [bundle, *(entry["resource"] for entry in bundle["entry"])]:
        assert [label["code"] for label in resource["meta"]["security"]] == ["AIAST"]


def test_who_abstains_states_nothing(silent: Explanation) -> None:
    assert silent.abstained
    bundle = fhir_bundle(silent, recorded=NOW)
    Bundle.model_validate(bundle)
    assert by_type(bundle, "Observation") == []
    (report,) = by_type(bundle, "DiagnosticReport")
    assert "abstained" in report["conclusion"] and "effusion" not in json.dumps(bundle)
    assert "effusion" not in base64.b64decode(report["presentedForm"][0]["data"]).decode().lower()
    document = json.dumps(written_and_read(sr_document(silent, film())).to_json_dict())
    assert "effusion" not in document.lower() and "implausible_image" in document and "ABSTAINED" in document
    assert shown_finding(silent) is None


def test_a_time_without_a_zone_is_refused(explanation: Explanation) -> None:
    with pytest.raises(ValueError, match="time zone"):
        fhir_bundle(explanation, recorded=datetime(2026, 1, 1))


def test_observations_have_different_codes_of_known_schemes() -> None:
    assert list(OBSERVATION_CONCEPTS) == list(OBSERVATIONS)
    assert len({(c.scheme, c.value) for c in OBSERVATION_CONCEPTS.values()}) == 14
    assert {c.scheme for c in OBSERVATION_CONCEPTS.values()} <= set(SCHEME_URIS)
    assert all(len(c.meaning) <= 64 and len(c.value) <= 32 for c in OBSERVATION_CONCEPTS.values())
    assert all(len(c.value) <= 16 or c.scheme == "99KDISTILL" for c in OBSERVATION_CONCEPTS.values())


def written_and_read(dataset: Dataset) -> Dataset:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(buffer.getvalue()))


def test_the_report_is_read_back_by_template(explanation: Explanation) -> None:
    source = film()
    back = highdicom.sr.Comprehensive3DSR.from_dataset(written_and_read(sr_document(explanation, source)))
    assert (back.StudyInstanceUID, back.PatientID) == (source.StudyInstanceUID, "P-77")
    assert (back.CompletionFlag, back.PreliminaryFlag, back.VerificationFlag) == (
        "PARTIAL",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    groups = back.content.get_image_measurement_groups() + back.content.get_planar_roi_measurement_groups()
    assert len(groups) == 14
    (region,) = back.content.get_planar_roi_measurement_groups()
    assert region.finding_type.value == OBSERVATION_CONCEPTS["Pleural Effusion"].value
    assert region.tracking_identifier == "Pleural Effusion"
    probability = next(m for m in region.get_measurements() if m.name.meaning == "Probability")
    assert probability.value == pytest.approx(0.93)
    assert [e.value.meaning for e in region.get_qualitative_evaluations()] == ["Present"]
    corners = region.roi.value
    assert corners[:, 0].min() == pytest.approx(52.0) and corners[:, 0].max() == pytest.approx(64.0)
    assert corners[:, 1].min() == pytest.approx(50.0) and corners[:, 1].max() == pytest.approx(70.0)
    referenced = back.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referenced.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert NOTICE in json.dumps(back.to_json_dict())
    assert back.SOPInstanceUID == sr_document(explanation, source).SOPInstanceUID


def test_the_overlay_is_read_back_as_a_picture(explanation: Explanation) -> None:
    source = film()
    back = written_and_read(overlay_capture(explanation, radiograph(128), source))
    pixels = back.pixel_array
    assert pixels.shape == (832, 768, 3) and back.StudyInstanceUID == source.StudyInstanceUID
    colour = np.ptp(pixels[:768].astype(int), axis=-1)
    assert colour[480:672, 576:768].mean() > 4 * colour[:384, :384].mean()  # painted where the evidence is
    assert pixels[768:].max() == 255


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID"])
def test_an_image_that_nothing_can_refer_to_is_refused_by_tag(explanation: Explanation, keyword: str) -> None:
    source = film()
    delattr(source, keyword)
    with pytest.raises(InputError, match=keyword):
        sr_document(explanation, source)


def test_files_of_all_formats(tmp_path: Path, context: ExplanationContext) -> None:
    source = film()
    path, out = saved(source, tmp_path / "film.dcm"), tmp_path / "out"
    formats = ("json", "html", "pdf", "fhir", "dicom-sr", "dicom-sc")
    (outcome,) = explain_files([path], FixedReader(a_reading()), context, out_dir=out, formats=formats)  # type: ignore[arg-type]
    endings = [".json", ".html", ".pdf", ".fhir.json", ".sr.dcm", ".sc.dcm"]
    assert [file.name.removeprefix(file_stem("film.dcm")) for file in outcome.files] == endings
    bundle = json.loads(outcome.files[3].read_text())
    assert by_type(bundle, "DiagnosticReport")[0]["imagingStudy"][0]["identifier"]["value"].endswith(
        source.StudyInstanceUID
    )
    for file in outcome.files[:4]:
        assert b"Doe" not in file.read_bytes() and b"P-77" not in file.read_bytes()
    for file in outcome.files[4:]:
        assert pydicom.dcmread(file).StudyInstanceUID == source.StudyInstanceUID
    (again,) = explain_files([path], FixedReader(a_reading()), context, out_dir=out, formats=formats)  # type: ignore[arg-type]
    assert again.was_done


def test_dicom_results_of_a_png_are_refused_and_the_rest_goes_on(tmp_path: Path, context: ExplanationContext) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(radiograph()).save(folder / "a.png")
    saved(film(), folder / "b.dcm")
    out = tmp_path / "out"
    reader = FixedReader(a_reading())
    found = {o.study_id: o for o in explain_files([folder], reader, context, out_dir=out, formats=("dicom-sr",))}
    assert found["a.png"].files == () and len(found["b.dcm"].files) == 2
    assert "is no DICOM file" in json.loads((out / "rejected.jsonl").read_text())["reason"]
    assert not list(out.glob("a_png*"))
    with pytest.raises(InputError, match=r"a\.png.*is no DICOM file"):
        list(explain_files([folder / "a.png"], reader, context, out_dir=out, formats=("dicom-sr",)))


def test_regions_on_the_source_image() -> None:
    attention = np.full((4, 4), 0.001)
    attention[1, 0] = 1.0
    # A film of 100 x 200 pixels (H x W) lies in the middle of a 200 x 200 square: rows 50 to 150.
    assert evidence_box(attention, 100, 200) == (0.0, 0.0, 50.0, 50.0)
    attention[1, 0], attention[0, 0] = 0.001, 1.0
    assert evidence_box(attention, 100, 200) is None  # on the padding alone
    scattered = np.zeros((8, 8))
    scattered[1, 1] = 0.2
    scattered[6, 3:8] = 0.16  # two of them are among the strongest half, and touch: more than the strongest alone
    assert evidence_box(scattered, 80, 80) == (30.0, 60.0, 50.0, 70.0)


def pdf_pages(content: bytes) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]


def test_the_pdf_carries_the_notice_on_every_page(explanation: Explanation, silent: Explanation) -> None:
    hostile = explanation.model_copy(update={"findings": "$\\frac{1}{2}$ \u202e " + "long words " * 900})
    for one in (explanation, silent, hostile):
        assert explanation_pdf(one, radiograph()) == explanation_pdf(one, radiograph())
    pages = pdf_pages(explanation_pdf(hostile, radiograph()))
    assert len(pages) >= 3 and all("Research use only" in page for page in pages)
    assert "Left pleural effusion." in pages[-1] and "frac" in pages[0]
    (page,) = pdf_pages(explanation_pdf(silent, radiograph()))
    assert "abstained" in page and "Left pleural effusion" not in page


def test_a_contradiction_stands_below_the_report_on_paper_and_in_fhir(context: ExplanationContext) -> None:
    reading = replace(a_reading(), findings="There is a left pleural effusion. No pleural effusion.")
    torn = explain("s1", radiograph(), reading, context)
    paper = " ".join(" ".join(pdf_pages(explanation_pdf(torn, radiograph()))).split())
    said = "Contradiction on Pleural Effusion: The report contradicts itself"
    assert paper.index("Impression") < paper.index(said) < paper.index("Rationale")
    found = {item["code"]["text"]: item for item in by_type(fhir_bundle(torn, recorded=NOW), "Observation")}
    notes = [note["text"] for note in found["Pleural Effusion"]["note"]]
    assert any(note.startswith("Flag contradiction: The report contradicts itself") for note in notes)


def test_who_abstains_shows_no_reading_on_paper_or_page(silent: Explanation, context: ExplanationContext) -> None:
    reading = a_reading()
    unsure = replace(reading, probabilities=np.full_like(reading.probabilities, 0.5), rationale="An effusion is here.")  # type: ignore[arg-type]
    undecided = explain("s1", radiograph(), unsure, context)
    assert undecided.abstained and not undecided.findings and not undecided.rationale
    for one in (silent, undecided):
        paper, page = " ".join(pdf_pages(explanation_pdf(one, radiograph()))), explanation_page(one, radiograph())
        for shown in (paper, page, json.dumps(fhir_bundle(one, recorded=NOW))):
            assert "0.93" not in shown and "effusion" not in shown.lower()
        assert 'class="overlay"' not in page and 'id="observations"' not in page


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", ["", "ISO 2022 IR 87"]])
def test_our_words_survive_the_films_character_set(explanation: Explanation, charset: object) -> None:
    spoken = explanation.model_copy(update={"impression": "Effusion ≥ 2 cm – “small”"})
    source = film() if charset is None else film(SpecificCharacterSet=charset, PatientName="Mueller^Eva")
    back = written_and_read(sr_document(spoken, source))
    assert "Effusion ≥ 2 cm – “small”" in json.dumps(back.to_json_dict(), ensure_ascii=False)


def test_an_odd_header_costs_its_own_image_only(tmp_path: Path, context: ExplanationContext) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, changes in (("a", {}), ("b", {"PatientBirthDate": "19990101"}), ("c", {})):
        saved(film(**changes), folder / f"{name}.dcm")
    odd = folder / "b.dcm"
    odd.write_bytes(odd.read_bytes().replace(b"19990101", b"unknown "))
    out = tmp_path / "out"
    found = list(explain_files([folder], FixedReader(a_reading()), context, out_dir=out, formats=("dicom-sr",)))
    assert [bool(outcome.files) for outcome in found] == [True, False, True]
    assert "unknown" not in (out / "rejected.jsonl").read_text()


def test_another_answer_about_the_same_image_is_another_object(explanation: Explanation, silent: Explanation) -> None:
    source = film()
    assert sr_document(explanation, source).SOPInstanceUID != sr_document(silent, source).SOPInstanceUID
    other = explanation.model_copy(update={"quality_policy": "off"})
    assert fhir_bundle(explanation, recorded=NOW)["id"] != fhir_bundle(other, recorded=NOW)["id"]


NAMES = {
    "ISO_IR 100": "Müller^Åsa",
    "ISO_IR 126": "Διονυσιος",
    "GB18030": "Wang^XiaoDong=王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.parametrize("kind", ["dicom-sr", "dicom-sc"])
@pytest.mark.parametrize("charset", NAMES)
def test_a_name_of_any_alphabet_is_the_same_in_the_result(explanation: Explanation, charset: str, kind: str) -> None:
    name = NAMES[charset]
    source = film(SpecificCharacterSet=charset.split("\\"), PatientName=name, ReferringPhysicianName=name)
    buffer = io.BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    header = dicom_header(buffer.getvalue())
    back = pydicom.dcmread(io.BytesIO(export(kind, explanation, radiograph(64), header, recorded=NOW)))  # type: ignore[arg-type]
    assert (str(back.PatientName), str(back.ReferringPhysicianName)) == (name, name)
    assert back.SpecificCharacterSet == "ISO_IR 192"


def test_the_overlay_says_which_film_it_shows_and_how_it_lies(explanation: Explanation) -> None:
    marks = {"BurnedInAnnotation": "YES", "LossyImageCompression": "01", "LossyImageCompressionRatio": "10"}
    mirrored, plain = film(PatientOrientation=["R", "F"], **marks), film()
    back = written_and_read(overlay_capture(explanation, radiograph(128), mirrored))
    assert list(back.PatientOrientation) == ["R", "F"]
    assert {keyword: str(back.get(keyword)) for keyword in marks} == marks
    (source,) = back.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == mirrored.SOPInstanceUID
    assert source.ReferencedSOPClassUID == mirrored.SOPClassUID
    assert not written_and_read(overlay_capture(explanation, radiograph(128), plain)).PatientOrientation


@pytest.mark.parametrize(("orientation", "has_sides"), [(["L", "F"], True), (["R", "F"], False)])
def test_a_mirrored_film_has_no_coded_side(
    tmp_path: Path, context: ExplanationContext, orientation: list[str], has_sides: bool
) -> None:
    path = saved(film(PatientOrientation=orientation), tmp_path / "film.dcm")
    formats = ("json", "fhir", "dicom-sr")
    (outcome,) = explain_files([path], FixedReader(a_reading()), context, out_dir=tmp_path / "out", formats=formats)  # type: ignore[arg-type]
    told = Explanation.model_validate_json(outcome.files[0].read_text(encoding="utf-8"))
    assert any(reading.side for reading in told.observations) is has_sides
    assert any("left may be right" in flag.text for flag in told.flags) is not has_sides
    assert ("bodySite" in outcome.files[1].read_text(encoding="utf-8")) is has_sides
    report = highdicom.sr.Comprehensive3DSR.from_dataset(pydicom.dcmread(outcome.files[2]))
    (region,) = report.content.get_planar_roi_measurement_groups()
    assert bool(region.finding_sites) is has_sides


def test_another_version_of_the_program_writes_another_object(
    explanation: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = film()
    before = sr_document(explanation, source).SOPInstanceUID
    monkeypatch.setattr("kdistill.explain.dicom_sr.__version__", "999.0")
    assert sr_document(explanation, source).SOPInstanceUID != before
