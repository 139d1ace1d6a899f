"""Explanation -> DICOM objects of the image's own study: a Comprehensive 3D SR (TID 1500) and an overlay picture.

Both are written with highdicom, which copies patient and study from the image: they belong into the archive that the
image came from, and nowhere else. The document is partial, preliminary and unverified, whatever it says.

Sources: DICOM PS3.16 TID 1500 (measurement report), TID 1410 and 1501 (planar ROI, measurement group), TID 4019
(algorithm identification); PS3.3 A.8.1 (secondary capture).
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kdistill import __version__
from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.codes import (
    ABSTAINED,
    ANSWER,
    CHEST,
    CHEST_RADIOGRAPHY,
    COMMENT,
    FINDING_STATE,
    NO_UNITS,
    OBSERVATION_CONCEPTS,
    PROBABILITY,
    SIDE_CONCEPTS,
    SOURCE_IMAGE,
    STATE_CONCEPTS,
    THRESHOLD,
    Concept,
)
from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.explain.fhir import plain_text
from kdistill.explain.pictures import blended
from kdistill.explain.regions import PixelBox, evidence_box

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER: Final = "kdistill"
#: Series of our objects in the image's study: numbers that no modality gives.
SR_SERIES, OVERLAY_SERIES = 9901, 9902
#: Side of the overlay picture; its caption is below it.
OVERLAY_PX: Final = 768
_CAPTION_PX: Final = 64
#: A film with a name burned in, or that was compressed with loss, gives a picture of which the same is true.
_TRUE_OF_THE_FILM: Final = (
    *("BurnedInAnnotation", "RecognizableVisualFeatures"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)


def needs_dicom(source: Dataset | None) -> Dataset:
    """The image's dataset, or why there is none.

    Raises:
        InputError: The image was no DICOM object, so there is no study to write into.
    """
    if source is None:
        raise InputError(
            "is no DICOM file, and a DICOM result refers to the DICOM image that it is about",
            remedy="Give the DICOM file, or leave dicom-sr and dicom-sc out of --format.",
        )
    return source


def sr_document(explanation: Explanation, source: Dataset | None) -> Dataset:
    """The explanation as a structured report on one image.

    Each observation is a measurement group: finding, state, probability, threshold, side and algorithm; one that is
    present points at the region of the image that holds most of its evidence. A model that abstained states no finding,
    only why.

    Args:
        explanation: What to export.
        source: The image's dataset; pixels are not needed.

    Returns:
        A Comprehensive 3D SR dataset; equal for equal arguments, but for date and time.

    Raises:
        InputError: The image was no DICOM object, or lacks what a report needs (the tag is named).
        EnvironmentFault: highdicom is not installed.
    """
    highdicom = _highdicom()
    image = _referable(needs_dicom(source))
    groups = [_group(reading, explanation, image) for reading in explanation.observations]
    if explanation.abstained:
        groups = [_abstention(explanation, image)]
    sr = highdicom.sr
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=_code(Concept("121007", "DCM", "Device")),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=_uid(explanation.model),
                name=f"kdistill {explanation.model}"[:64],
                manufacturer_name=MANUFACTURER,
                model_name=explanation.model[:64],
            ),
        )
    )
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=_code(CHEST_RADIOGRAPHY),
        imaging_measurements=groups,  # no image library: it asks for tags that films of the wild lack
    )
    content[0].ContentSequence.append(_comment(plain_text(explanation)))
    return sr.Comprehensive3DSR(
        evidence=[image],
        content=content[0],
        series_instance_uid=_uid(_content_hash(explanation), "sr series"),
        series_number=SR_SERIES,
        sop_instance_uid=_uid(_content_hash(explanation), "sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=False,
        is_final=False,
        is_verified=False,
        series_description="AI, research use only",
    )


def overlay_capture(explanation: Explanation, display: NDArray[np.uint8], source: Dataset | None) -> Dataset:
    """The film with the evidence of its most probable present finding painted on, as a secondary capture.

    The caption names finding and probability and says that it is research; nothing else is drawn. Without a present
    finding, and from a model that abstained, the picture is the film with a caption that says so.

    Args:
        explanation: What to show.
        display: uint8 [S, S], the film as the page shows it.
        source: The image's dataset; pixels are not needed.

    Returns:
        An RGB secondary capture in the image's study.

    Raises:
        InputError: As `sr_document`.
        EnvironmentFault: highdicom is not installed.
    """
    highdicom = _highdicom()
    image = _referable(needs_dicom(source))
    capture = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=image,
        pixel_array=_picture(explanation, display),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=_uid(_content_hash(explanation), "overlay series"),
        series_number=OVERLAY_SERIES,
        sop_instance_uid=_uid(_content_hash(explanation), "overlay"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),  # replaced below: highdicom wants one
        series_description="AI evidence, research use only",
    )
    _derive(capture, image)
    return capture


def _derive(capture: Dataset, image: Dataset) -> None:
    """Say which film the picture was made from, and what is true of it because it is true of that film.

    The orientation is the film's, and empty where it states none: a film that is mirrored by its tags stays mirrored.

    Source: DICOM PS3.3 C.7.6.1 (patient orientation, burned in annotation, lossy compression), C.7.6.1.1.4 (source
    image), C.12.4 (derivation).
    """
    from pydicom import Dataset

    capture.PatientOrientation = image.get("PatientOrientation") or ""
    capture.DerivationDescription = "Film with a caption and the model's attention painted on, for research"
    film = Dataset()
    film.ReferencedSOPClassUID, film.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    film.PurposeOfReferenceCodeSequence = [_code(SOURCE_IMAGE)]
    capture.SourceImageSequence = [film]
    for keyword in _TRUE_OF_THE_FILM:
        if image.get(keyword):
            setattr(capture, keyword, image.get(keyword))


def shown_finding(explanation: Explanation) -> ObservationReading | None:
    """The present finding with the highest probability that has an evidence map; None where there is none."""
    found = [
        item
        for item in explanation.observations
        if item.state == "present" and item.evidence_map is not None and item.name != "No Finding"
    ]
    return None if explanation.abstained else max(found, key=lambda item: item.probability or 0.0, default=None)


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.sc
        import highdicom.sr
    except ImportError as error:
        raise EnvironmentFault(
            "highdicom is not installed, which writes DICOM results", remedy="pip install 'kdistill[hospital]'"
        ) from error
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # at INFO it writes the image's identifiers into the log
    return highdicom


def _referable(source: Dataset) -> Dataset:
    """A copy of the image's header with every attribute that highdicom copies, empty where the file has none.

    Raises:
        InputError: An identifier without which nothing can refer to the image is missing; it is named.
    """
    from pydicom import Dataset

    needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
    for keyword in needed:
        if not source.get(keyword):
            raise InputError(
                f"the DICOM tag {keyword} is missing, without which no DICOM result can refer to this image",
                remedy="Export the image again with it, or leave dicom-sr and dicom-sc out of --format.",
            )
    image = Dataset()
    for element in source:
        if element.tag.group < 0x7FE0 and not element.tag.is_private:
            image.add(element)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        if keyword not in image:
            setattr(image, keyword, "")
    image.decode()
    for element in [element for element in image if element.VR == "PN" and element.value]:
        image[element.tag] = _renamed(element)
    image.SpecificCharacterSet = "ISO_IR 192"  # our own words are Unicode, whatever the film's are
    for keyword in ("AccessionNumber", "StudyID", "ReferringPhysicianName"):
        if keyword not in image:
            setattr(image, keyword, "")
    return image


def _renamed(element: Any) -> Any:
    """The name as letters alone: it keeps the bytes of the film's character set too, and those would be written."""
    from pydicom import DataElement

    names = [str(name) for name in element.value] if element.VM > 1 else str(element.value)
    return DataElement(element.tag, "PN", names)


def _content_hash(explanation: Explanation) -> str:
    """What an object's UID hangs on: another answer about the same image, or another way to write it, is another."""
    return hashlib.sha256(f"{__version__}\n{explanation.model_dump_json()}".encode()).hexdigest()


def _uid(*parts: str) -> str:
    """A UID below 2.25 (ISO 9834-8) from a hash: the same result has the same UID and replaces itself in an archive."""
    digest = hashlib.sha256("\n".join(parts).encode("utf-8")).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _code(concept: Concept) -> Any:
    return _highdicom().sr.CodedConcept(value=concept.value, scheme_designator=concept.scheme, meaning=concept.meaning)


def _abstention(explanation: Explanation, image: Dataset) -> Any:
    sr = _highdicom().sr
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_uid(explanation.image_sha256, explanation.model, "abstained"), identifier="abstained"
        ),
        algorithm_id=_algorithm(explanation),
        qualitative_evaluations=[sr.QualitativeEvaluation(_code(ANSWER), _code(ABSTAINED))],
        source_images=[sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )


def _algorithm(explanation: Explanation) -> Any:
    return _highdicom().sr.AlgorithmIdentification(
        name="kdistill", version=__version__, parameters=[f"model={explanation.model}"]
    )


def _group(reading: ObservationReading, explanation: Explanation, image: Dataset) -> Any:
    sr = _highdicom().sr
    numbers = ((PROBABILITY, reading.probability), (THRESHOLD, reading.threshold))
    shared = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=_uid(explanation.image_sha256, explanation.model, reading.name), identifier=reading.name
        ),
        "finding_type": _code(OBSERVATION_CONCEPTS[reading.name]),
        "algorithm_id": _algorithm(explanation),
        "finding_sites": _sites(reading),
        "measurements": [sr.Measurement(_code(c), float(v), _code(NO_UNITS)) for c, v in numbers if v is not None],
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(_code(FINDING_STATE), _code(STATE_CONCEPTS[reading.state]))
        ],
    }
    box = _box(reading, image)
    if box is None:
        source = sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
        return sr.MeasurementsAndQualitativeEvaluations(source_images=[source], **shared)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=_region(box, image), **shared)


def _sites(reading: ObservationReading) -> list[Any] | None:
    if reading.side is None or reading.state == "absent":
        return None
    return [_highdicom().sr.FindingSite(_code(CHEST), laterality=_code(SIDE_CONCEPTS[reading.side]))]


def _box(reading: ObservationReading, image: Dataset) -> PixelBox | None:
    if reading.state != "present" or reading.evidence_map is None or reading.name == "No Finding":
        return None
    return evidence_box(np.array(reading.evidence_map), int(image.Rows), int(image.Columns))


def _region(box: PixelBox, image: Dataset) -> Any:
    sr = _highdicom().sr
    corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
    return sr.ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=np.array([*corners, corners[0]], dtype=np.float64),
        source_image=sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    )


def _comment(text: str) -> Any:
    return _highdicom().sr.TextContentItem(name=_code(COMMENT), value=text, relationship_type="CONTAINS")


def _picture(explanation: Explanation, display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    shown = shown_finding(explanation)
    film = np.asarray(Image.fromarray(display).resize((OVERLAY_PX, OVERLAY_PX), Image.Resampling.BILINEAR))
    coloured = np.repeat(film[..., None], 3, axis=-1)
    words = "The model abstained." if explanation.abstained else "No finding is called present."
    if shown is not None and shown.evidence_map is not None:
        coloured = blended(film, np.array(shown.evidence_map))
        words = f"{shown.name}, probability {shown.probability or 0:.2f}: where the model looked."
    canvas = Image.new("RGB", (OVERLAY_PX, OVERLAY_PX + _CAPTION_PX))
    canvas.paste(Image.fromarray(coloured))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=20)
    draw.text((12, OVERLAY_PX + 6), words, fill="white", font=font)
    draw.text((12, OVERLAY_PX + 34), "AI, research use only. Not for diagnosis.", fill="#ffb347", font=font)
    return np.asarray(canvas)
