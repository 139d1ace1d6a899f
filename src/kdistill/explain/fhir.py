"""Explanation -> FHIR R4 Bundle: a preliminary DiagnosticReport, an Observation for each finding, Device, Provenance.

Every resource carries the security label AIAST ("Artificial Intelligence asserted"; HL7 v3-ObservationValue). No
patient is named: the receiver finds the subject by the study's UID, where the image was a DICOM object.

Sources: HL7 FHIR R4, https://hl7.org/fhir/R4/diagnosticreport.html; HL7, AI Transparency on FHIR (AIAST).
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from kdistill.explain.codes import (
    CHEST,
    LATERALITY,
    OBSERVATION_CONCEPTS,
    PROBABILITY,
    SCHEME_URIS,
    SIDE_CONCEPTS,
    STATE_CONCEPTS,
    THRESHOLD,
    Concept,
)
from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.explain.sides import SIDES_IN_DOUBT

#: What the identifiers of one explanation are derived from: the same explanation gives the same bundle.
_NAMESPACE: Final = uuid.UUID("6f0f9d1c-9f5e-5f0e-8a4e-0c6f2f6f3f10")
_AI_ASSERTED: Final[Mapping[str, Any]] = {
    "security": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
            "code": "AIAST",
            "display": "Artificial Intelligence asserted",
        }
    ]
}

Resource = dict[str, Any]


def fhir_bundle(explanation: Explanation, *, recorded: datetime, study_uid: str | None = None) -> Resource:
    """The explanation as a FHIR R4 Bundle of type collection.

    A model that abstained reports nothing: the report then says why, and there are no observations.

    Args:
        explanation: What to export.
        recorded: When the explanation was made, with a time zone.
        study_uid: StudyInstanceUID of the image; None where it was no DICOM object.

    Returns:
        JSON-ready; equal for equal arguments.

    Raises:
        ValueError: `recorded` has no time zone.
    """
    if recorded.tzinfo is None:
        raise ValueError("recorded needs a time zone: FHIR's instant has one")
    names = _Names(explanation)
    observations = (
        [] if explanation.abstained else [_observation(o, explanation, names) for o in explanation.observations]
    )
    report = _report(explanation, names, observations, recorded, study_uid)
    resources = [report, *observations, _device(explanation, names), _provenance(explanation, names, recorded)]
    return {
        "resourceType": "Bundle",
        "id": names.id_of("bundle"),
        "meta": dict(_AI_ASSERTED),
        "type": "collection",
        "timestamp": recorded.isoformat(),
        "entry": [{"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource} for resource in resources],
    }


class _Names:
    """Ids of the resources of one explanation."""

    def __init__(self, explanation: Explanation) -> None:
        self._key = hashlib.sha256(explanation.model_dump_json().encode("utf-8")).hexdigest()

    def id_of(self, part: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self._key}\n{part}"))

    def reference(self, part: str) -> Resource:
        return {"reference": f"urn:uuid:{self.id_of(part)}"}


def codeable(concept: Concept) -> Resource:
    """A concept as FHIR's CodeableConcept."""
    coding = {"system": SCHEME_URIS[concept.scheme], "code": concept.value, "display": concept.meaning}
    return {"coding": [coding], "text": concept.meaning}


def _observation(reading: ObservationReading, explanation: Explanation, names: _Names) -> Resource:
    found: Resource = {
        "resourceType": "Observation",
        "id": names.id_of(reading.name),
        "meta": dict(_AI_ASSERTED),
        "status": "preliminary",
        "category": [_category("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": {**codeable(OBSERVATION_CONCEPTS[reading.name]), "text": reading.name},
        "valueCodeableConcept": codeable(STATE_CONCEPTS[reading.state]),
        "device": names.reference("device"),
    }
    numbers = ((PROBABILITY, reading.probability), (THRESHOLD, reading.threshold))
    components = [_number(concept, value) for concept, value in numbers if value is not None]
    if reading.side and reading.state != "absent":
        side = codeable(SIDE_CONCEPTS[reading.side])
        found["bodySite"] = {**codeable(CHEST), "text": f"Chest, {side['text'].lower()}"}
        components.append({"code": codeable(LATERALITY), "valueCodeableConcept": side})
    if components:
        found["component"] = components
    notes = [sentence.text for sentence in explanation.rationale if sentence.observation == reading.name]
    notes += [f"Flag {flag.code}: {flag.text}" for flag in explanation.flags if flag.observation == reading.name]
    if notes and explanation.is_side_doubtful:
        notes.insert(0, SIDES_IN_DOUBT)
    if notes:
        found["note"] = [{"text": note} for note in notes]
    return found


def _category(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _number(concept: Concept, value: float) -> Resource:
    quantity = {"value": value, "unit": "1", "system": SCHEME_URIS["UCUM"], "code": "1"}
    return {"code": codeable(concept), "valueQuantity": quantity}


def _report(
    explanation: Explanation,
    names: _Names,
    observations: list[Resource],
    recorded: datetime,
    study_uid: str | None,
) -> Resource:
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "id": names.id_of("report"),
        "meta": dict(_AI_ASSERTED),
        "status": "preliminary",
        "category": [_category("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": codeable(Concept("18748-4", "LN", "Diagnostic imaging study")),
        "issued": recorded.isoformat(),
        "conclusion": conclusion(explanation),
        "presentedForm": [_attachment(plain_text(explanation))],
    }
    if observations:
        report["result"] = [{"reference": f"urn:uuid:{item['id']}"} for item in observations]
    if study_uid:
        identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}
        report["imagingStudy"] = [{"type": "ImagingStudy", "identifier": identifier}]
    return report


def conclusion(explanation: Explanation) -> str:
    """One paragraph: the impression and the notice; or why there is none."""
    if explanation.abstained:
        why = " ".join(flag.text for flag in explanation.flags)
        return f"No report: the model abstained. {why} {explanation.notice}"
    doubt = f"{SIDES_IN_DOUBT} " if explanation.is_side_doubtful else ""
    return f"{explanation.impression or explanation.findings} {doubt}{explanation.notice}".strip()


def plain_text(explanation: Explanation) -> str:
    """The explanation as a reader's plain text: notice first, then report, rationale with sources, flags."""
    lines = [explanation.notice, f"Model: {explanation.model}", f"Image SHA-256: {explanation.image_sha256}"]
    if not explanation.abstained:
        lines += ["", SIDES_IN_DOUBT] if explanation.is_side_doubtful else []
        lines += ["", "FINDINGS", explanation.findings or "(none written)", "", "IMPRESSION"]
        lines += [explanation.impression or "(none written)", "", "RATIONALE (the model's own; it can be wrong)"]
        for sentence in explanation.rationale:
            sources = "; ".join(f"PMID {c.pmid}" if c.pmid else c.article_id for c in sentence.citations)
            lines.append(f"- {sentence.text}" + (f" [{sources}]" if sources else ""))
    if explanation.flags:
        lines += ["", "FLAGS", *(f"- {flag.code}: {flag.text}" for flag in explanation.flags)]
    return "\n".join(lines)


def _attachment(text: str) -> Resource:
    data = base64.b64encode(text.encode("utf-8")).decode("ascii")
    return {"contentType": "text/plain; charset=utf-8", "data": data, "title": "Report, rationale and flags"}


def _device(explanation: Explanation, names: _Names) -> Resource:
    from kdistill import __version__

    return {
        "resourceType": "Device",
        "id": names.id_of("device"),
        "meta": dict(_AI_ASSERTED),
        "status": "active",
        "deviceName": [{"name": f"kdistill {explanation.model}", "type": "model-name"}],
        "version": [{"value": __version__}],
        "type": {"text": "Artificial intelligence software, research use only"},
        "note": [{"text": explanation.notice}],
    }


def _provenance(explanation: Explanation, names: _Names, recorded: datetime) -> Resource:
    role = _category("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "assembler", "Assembler")
    image = {"system": "urn:kdistill:image-sha256", "value": explanation.image_sha256}
    return {
        "resourceType": "Provenance",
        "id": names.id_of("provenance"),
        "meta": dict(_AI_ASSERTED),
        "target": [names.reference("report")],
        "recorded": recorded.isoformat(),
        "agent": [{"type": role, "who": names.reference("device")}],
        "entity": [{"role": "source", "what": {"identifier": image, "display": "The image that was read"}}],
    }
