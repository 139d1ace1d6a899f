"""The DICOM attributes that may leave a hospital, and nothing else: an allow-list of attributes and of their values.

Free text is never released: of a coded attribute only values of a closed list pass, of a numeric one only plausible
numbers. A name that somebody typed into BodyPartExamined stays there. UIDs and the patient's id become keyed hashes.

Source: DICOM PS3.15 annex E (what identifies; its profiles list what to remove, this list says what to keep), PS3.3
C.8.1.1 and C.8.11 (views), CID 4010 (view codes), PS3.3 C.7.1.1 and C.7.2.2 (sex, age); age cap: 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Final, Literal, NamedTuple

#: Ages above 89 become 90, "90 or older".
MAX_AGE: Final = 89
_SEX: Final = frozenset(["M", "F", "O"])
_MODALITIES: Final = frozenset(
    ["CR", "DX", "DR", "RG", "CT", "MR", "US", "MG", "XA", "RF", "OT", "SC", "PX", "NM", "PT"]
)
_VIEWS: Final = frozenset(["PA", "AP", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL"])
_CHEST: Final = frozenset(["CHEST", "THORAX", "LUNG", "RIB", "RIBS", "CHESTABDOMEN", "PORT CHEST"])
_ELSEWHERE: Final = frozenset(
    [
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT"),
        *("FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "SHOULDER"),
        *("SKULL", "SPINE", "TIBIA", "TOE", "TSPINE", "UTERUS", "WRIST"),
    ]
)
#: SNOMED CT codes of CID 4010 and older SNOMED RT ones (as pydicom and dcm4che list them) -> the view in our table.
_VIEW_CODES: Final = {
    **dict.fromkeys(["399348003", "R-10206"], "AP"),
    **dict.fromkeys(["272479007", "R-40888", "R-10214"], "PA"),
    **dict.fromkeys(["399173006", "R-10236", "399198007", "R-10232", "399067008", "R-102CD"], "LATERAL"),
}
_AGE: Final = re.compile(r"([0-9]{1,3})([YMWD]?)")
#: The standard wants a unit; the films of the RSNA challenge have none and mean years.
_YEARS: Final = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}

#: The attributes that are looked at; the rest of a file is never touched.
READ_KEYWORDS: Final = (
    *("PatientID", "StudyInstanceUID", "PatientSex", "PatientAge", "Modality", "ViewPosition", "ViewCodeSequence"),
    *("BodyPartExamined", "BurnedInAnnotation", "ImagerPixelSpacing", "PixelSpacing", "BitsStored"),
)


class Released(NamedTuple):
    """What is said of one image: hashes, closed-list values and numbers; "" and None where it is not stated."""

    patient: str
    study: str
    sex: str
    age: int | None
    modality: str
    view_position: str
    body_part: Literal["CHEST", "OTHER", ""]
    burned_in: Literal["YES", "NO", ""]
    pixel_spacing_mm: float | None
    bits_stored: int | None


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """A keyed hash of an identifier: 20 hexadecimal digits that nobody without the key can link or guess.

    Args:
        key: The secret; equal keys give equal pseudonyms.
        kind: "patient" or "study", so that equal values of two kinds do not meet.
        value: The identifier as it stands in the file.
    """
    return hmac.new(key, f"{kind}\0{value.strip()}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:20]


def released(dataset: Any, key: bytes, content: bytes) -> Released:
    """What may be said of an image.

    Args:
        dataset: Its DICOM header, or an empty mapping for a PNG or JPEG.
        key: The secret of `pseudonym`.
        content: The file's bytes; their hash stands for a patient or study that is not stated.
    """
    own = hashlib.sha256(content).hexdigest()
    study = _plain(dataset, "StudyInstanceUID")
    patient = _plain(dataset, "PatientID")
    study_id = pseudonym(key, "study", study or f"file:{own}")
    return Released(
        patient=pseudonym(key, "patient", patient) if patient else f"unknown-{study_id}",
        study=study_id,
        sex=_of(_SEX, _plain(dataset, "PatientSex")),
        age=_age(_plain(dataset, "PatientAge")),
        modality=_of(_MODALITIES, _plain(dataset, "Modality")),
        view_position=_view(dataset),
        body_part=_body_part(_plain(dataset, "BodyPartExamined")),
        burned_in=_burned_in(_plain(dataset, "BurnedInAnnotation")),
        pixel_spacing_mm=_spacing(dataset),
        bits_stored=_bits(_plain(dataset, "BitsStored")),
    )


def _plain(dataset: Any, keyword: str) -> str:
    """A value as text, "" where it is absent or unreadable: what a damaged element holds is of no interest."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom converts values on access and raises many types (FAULTS 15)
        return ""
    return "" if value is None else str(value).strip()


def _of(allowed: frozenset[str], value: str) -> str:
    return value.upper() if value.upper() in allowed else ""


def _age(value: str) -> int | None:
    match = _AGE.fullmatch(value.upper())
    if not match:
        return None
    years = int(int(match.group(1)) * _YEARS[match.group(2)])
    return min(years, MAX_AGE + 1)


def _view(dataset: Any) -> str:
    stated = _of(_VIEWS, _plain(dataset, "ViewPosition"))
    if stated:
        return "LATERAL" if stated in ("LL", "RL") else stated
    try:
        codes = [str(item.get("CodeValue")) for item in dataset.get("ViewCodeSequence") or ()]
    except Exception:  # as in _plain
        return ""
    return next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), "")


def _body_part(value: str) -> Literal["CHEST", "OTHER", ""]:
    if value.upper() in _CHEST:
        return "CHEST"
    return "OTHER" if value.upper() in _ELSEWHERE else ""


def _burned_in(value: str) -> Literal["YES", "NO", ""]:
    match value.upper():
        case "YES":
            return "YES"
        case "NO":
            return "NO"
        case _:
            return ""


def _spacing(dataset: Any) -> float | None:
    """Millimetres a pixel at the detector (down the rows), where it is plausible for a radiograph."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        try:
            value = float(dataset.get(keyword)[0])
        except Exception:  # absent, no number, or damaged
            continue
        if 0.02 <= value <= 5:
            return round(value, 4)
    return None


def _bits(value: str) -> int | None:
    return int(value) if value.isdecimal() and 1 <= int(value) <= 32 else None
