"""Codes of what an export states: one table for FHIR and DICOM.

SNOMED CT where a concept says the same as the observation, DICOM's own dictionary else; where neither has a concept of
that meaning ("Enlarged Cardiomediastinum" is no diagnosis), a code of our own under a private scheme, which a receiver
can tell apart.
Known trap: pydicom's dictionary (3.0.2) lists 287272002 as "Cardiomegaly"; that is an enlarged septal foramen.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from kdistill.records import Side, State

#: A name that begins with 99 is private by the standard (PS3.16 section 8.2).
PRIVATE_SCHEME: Final = "99KDISTILL"
#: Coding schemes as DICOM names them -> the URIs by which FHIR names them.
SCHEME_URIS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "SCT": "http://snomed.info/sct",
        "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        "UCUM": "http://unitsofmeasure.org",
        "LN": "http://loinc.org",
        PRIVATE_SCHEME: "urn:kdistill:codes",
    }
)


class Concept(NamedTuple):
    """A coded concept: code value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


def _own(value: str, meaning: str) -> Concept:
    return Concept(value, PRIVATE_SCHEME, meaning)


OBSERVATION_CONCEPTS: Final[Mapping[str, Concept]] = MappingProxyType(
    {
        "No Finding": _own("NO_FINDING", "No finding on chest radiograph"),
        "Enlarged Cardiomediastinum": _own("ENLARGED_CARDIOMEDIASTINUM", "Enlarged cardiomediastinum"),
        "Cardiomegaly": Concept("8186001", "SCT", "Cardiomegaly"),
        "Lung Lesion": _own("LUNG_LESION", "Lung nodule or mass"),
        "Lung Opacity": Concept("112001", "DCM", "Opacity"),
        "Edema": Concept("19242006", "SCT", "Pulmonary edema"),
        "Consolidation": Concept("95436008", "SCT", "Lung consolidation"),
        "Pneumonia": Concept("233604007", "SCT", "Pneumonia"),
        "Atelectasis": Concept("46621007", "SCT", "Atelectasis"),
        "Pneumothorax": Concept("36118008", "SCT", "Pneumothorax"),
        "Pleural Effusion": Concept("60046008", "SCT", "Pleural effusion"),
        "Pleural Other": _own("PLEURAL_OTHER", "Pleural abnormality other than effusion"),
        "Fracture": Concept("125605004", "SCT", "Fracture of bone"),
        "Support Devices": _own("SUPPORT_DEVICES", "Support device"),
    }
)
STATE_CONCEPTS: Final[Mapping[State, Concept]] = MappingProxyType(
    {
        "present": Concept("121053", "DCM", "Present"),
        "absent": Concept("121054", "DCM", "Absent"),
        "uncertain": Concept("82334004", "SCT", "Indeterminate"),
    }
)
SIDE_CONCEPTS: Final[Mapping[Side, Concept]] = MappingProxyType(
    {
        "left": Concept("7771000", "SCT", "Left"),
        "right": Concept("24028007", "SCT", "Right"),
        "bilateral": Concept("51440002", "SCT", "Right and left"),
    }
)
LATERALITY: Final = Concept("272741003", "SCT", "Laterality")
CHEST: Final = Concept("816094009", "SCT", "Chest")
CHEST_RADIOGRAPHY: Final = Concept("399208008", "SCT", "Plain chest X-ray")
PROBABILITY: Final = Concept("122157", "DCM", "Probability")
THRESHOLD: Final = _own("DECISION_THRESHOLD", "Decision threshold of the probability")
FINDING_STATE: Final = _own("FINDING_STATE", "State of the finding")
#: What a model that abstains says in place of findings.
ANSWER: Final = _own("MODEL_ANSWER", "Answer of the model")
ABSTAINED: Final = _own("ABSTAINED", "No finding is stated: the model abstained")
COMMENT: Final = Concept("121106", "DCM", "Comment")
SOURCE_IMAGE: Final = Concept("121322", "DCM", "Source image for image processing operation")
NO_UNITS: Final = Concept("1", "UCUM", "no units")
