"""What a DICOM file says it shows: refused where it is no chest radiograph, noted where a reader must know.

Source: DICOM PS3.3 C.7.3.1.1.1 (Modality), C.8.7.10 and C.8.11.5 (view position), C.7.6.1.1.1 (patient orientation);
PS3.16 Annex L (body parts); PS3.6 Annex A (storage classes).
"""

from __future__ import annotations

from typing import Any, Final

from kdistill.errors import InputError
from kdistill.studies.film import Note

#: Computed, digital and scanned radiography.
_RADIOGRAPHY: Final = frozenset({"CR", "DX", "RG"})
#: "Other" and the retired "secondary capture" are used for films that were scanned or exported.
_CAPTURED: Final = frozenset({"OT", "SC"})
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_CAPTURE_CLASS: Final = _STORAGE + "7"
#: Computed radiography, digital X-ray for presentation and for processing, secondary capture.
_CLASSES: Final = frozenset({_STORAGE + "1", _STORAGE + "1.1", _STORAGE + "1.1.1", _CAPTURE_CLASS})
_CHEST_WORDS: Final = ("CHEST", "THORAX", "TORAX", "LUNG")
_NOTHING: Final = frozenset({"", "UNKNOWN", "OTHER", "WHOLEBODY", "DEFAULT", "UNDEFINED"})
_FRONTAL: Final = frozenset({"PA", "AP"})
_LATERAL: Final = frozenset({"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LEFT LATERAL", "RIGHT LATERAL"})


def what_it_shows(dataset: Any, *, require_chest: bool) -> tuple[tuple[Note, ...], str | None]:
    """Judge a data set by its tags.

    Args:
        dataset: The data set.
        require_chest: Refuse another modality or body part; False: only note it.

    Returns:
        Notes, and the view as PA, AP or LATERAL (None: not stated in a way that we know).

    Raises:
        InputError: It is no chest radiograph by its tags.
    """
    notes: list[Note] = []
    reason = _why_no_chest_radiograph(dataset)
    if reason and require_chest:
        raise InputError(
            f"is no chest radiograph: {reason}",
            remedy="Give a CR, DX or scanned frontal film; if the tags are wrong, set require_chest: false.",
        )
    if reason:
        notes.append("not_a_chest_radiograph")
    if not code(dataset, "Modality"):
        notes.append("modality_not_stated")
    view = view_of(dataset)
    if view == "LATERAL":
        notes.append("lateral_view")
    elif _is_turned(dataset):
        notes.append("orientation")
    if _is_child(code(dataset, "PatientAge")):
        notes.append("paediatric")
    return tuple(notes), view


def code(dataset: Any, keyword: str) -> str:
    """A tag as a message may show it: capitals, digits and spaces, at most 16 of them; anything else becomes "?".

    A code string has no other characters (PS3.5 6.2), so what was typed or planted there never reaches a terminal.
    """
    value = dataset.get(keyword)
    text = str(value if value is not None else "").strip().upper()[:16]
    return "".join(c if c.isascii() and (c.isalnum() or c in " _-") else "?" for c in text)


def _why_no_chest_radiograph(dataset: Any) -> str | None:
    modality, body_part = code(dataset, "Modality"), code(dataset, "BodyPartExamined")
    storage = str(dataset.get("SOPClassUID") or "")
    captured = storage == _CAPTURE_CLASS or storage.startswith(_CAPTURE_CLASS + ".")
    if modality and modality not in _RADIOGRAPHY and not (captured and modality in _CAPTURED):
        return f"its Modality is {modality}"
    if storage and storage not in _CLASSES and not captured:
        return "its SOP class is another kind of object"
    letters = "".join(c for c in body_part if c.isalnum())
    if letters not in _NOTHING and not any(word in letters for word in _CHEST_WORDS):
        return f"its BodyPartExamined is {body_part}"
    return None


def view_of(dataset: Any) -> str | None:
    """PA, AP or LATERAL, by ViewPosition, else LATERAL where rows run from front to back; None: not known."""
    stated = code(dataset, "ViewPosition").replace("_", " ").replace("-", " ")
    if stated in _FRONTAL:
        return stated
    if stated in _LATERAL or (not stated and _row_direction(dataset)[:1] in ("A", "P")):
        return "LATERAL"
    return None


def _row_direction(dataset: Any) -> str:
    return _orientation(dataset)[0]


def _orientation(dataset: Any) -> tuple[str, str]:
    """Where rows and columns run to, as letters (L, R, A, P, H, F); empty where it is not stated."""
    value = dataset.get("PatientOrientation")
    parts = [str(part).strip().upper() for part in value] if value is not None and not isinstance(value, str) else []
    return (parts[0], parts[1]) if len(parts) == 2 else ("", "")


def _is_turned(dataset: Any) -> bool:
    """Upright and patient's right on the left means: rows run to the patient's left, columns to the feet."""
    row, column = _orientation(dataset)
    return row[:1] in ("R", "H", "F") or column[:1] in ("H", "L", "R")


def _is_child(age: str) -> bool:
    """PS3.5 6.2, age string: three digits and D, W, M or Y."""
    if len(age) != 4 or not age[:3].isdigit() or age[3] not in "DWMY":
        return False
    return age[3] != "Y" or int(age[:3]) < 18
