"""The manual MeSH terms of Open-i -> the 14, where the mapping is sound (table in docs/data.md).

The terms say what an indexer found in the report, seldom what it hedges and never what it denies: a term makes a
positive label, its absence makes none. Sources: Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080 (how terms were
given); benchmarks/label_openi.py compares the rule labeler with them by this table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kdistill.observations import OBSERVATIONS, Labels

#: A term matches itself and what it heads ("Opacity/lung" matches "Opacity/lung/upper lobe/left"). Enlarged
#: Cardiomediastinum has no sound term; "Density/lung" may be opacity, nodule or shadow.
TERMS: Final[Mapping[str, tuple[str, ...]]] = {
    "No Finding": ("normal",),
    "Cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged"),
    "Lung Lesion": ("Nodule", "Mass/lung"),
    "Lung Opacity": (
        *("Opacity/lung", "Infiltrate", "Airspace Disease", "Cicatrix/lung", "Markings/lung"),
        "Lung Diseases, Interstitial",
    ),
    "Edema": ("Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Pulmonary Atelectasis",),
    "Pneumothorax": ("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
    "Pleural Effusion": ("Pleural Effusion", "Hydropneumothorax", "Hemopneumothorax", "Hemothorax"),
    "Pleural Other": ("Thickening/pleura", "Cicatrix/pleura", "Calcinosis/pleura", "Pleura"),
    "Fracture": ("Fractures, Bone",),
    "Support Devices": (
        *("Catheters, Indwelling", "Implanted Medical Device", "Medical Device", "Tube, Inserted", "Stents"),
        "Spinal Fusion",
    ),
}


def labels_of_terms(terms: Sequence[str]) -> Labels:
    """The positive labels that manual terms state; every other observation stays unknown.

    >>> labels_of_terms(["Opacity/lung/base/left", "Calcinosis/lung"])
    {'Lung Opacity': 1}
    """
    return {
        name: 1
        for name in OBSERVATIONS
        if any(term == head or term.startswith(head + "/") for head in TERMS.get(name, ()) for term in terms)
    }
