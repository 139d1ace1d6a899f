"""The 14 CheXpert observations: their order, subsets, hierarchy, label states and uncertain policies.

Source: Irvin et al. 2019, "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison",
arXiv:1901.07031. The order is that of the official labeler's output columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

OBSERVATIONS: Final[tuple[str, ...]] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
NO_FINDING: Final = "No Finding"
SUPPORT_DEVICES: Final = "Support Devices"
NUM_OBSERVATIONS: Final = len(OBSERVATIONS)
INDEX: Final[Mapping[str, int]] = {name: index for index, name in enumerate(OBSERVATIONS)}

#: The competition subset that most papers report as "micro-5" and "macro-5".
OBSERVATIONS_5: Final[tuple[str, ...]] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

#: The 13 observations that a radiographic sign can point to (all but "No Finding").
FINDINGS: Final[tuple[str, ...]] = OBSERVATIONS[1:]

#: child -> parent in the CheXpert ontology: a positive child implies a positive parent in that ontology, but the
#: labeler does not propagate it, and neither do we unless asked (see `with_parents`).
PARENT: Final[Mapping[str, str]] = {
    "Cardiomegaly": "Enlarged Cardiomediastinum",
    "Lung Lesion": "Lung Opacity",
    "Edema": "Lung Opacity",
    "Consolidation": "Lung Opacity",
    "Pneumonia": "Consolidation",
    "Atelectasis": "Lung Opacity",
}

#: 1 stated, 0 denied, -1 uncertain, None not mentioned. "No Finding" is 1 or None.
LabelState = Literal[1, 0, -1] | None
Labels = dict[str, LabelState]

#: How an uncertain label (-1) counts when a score needs 0 or 1. "positive" is U+ (f1chexbert, RadEval), "negative" is
#: U- (MAIRA-2, LLaVA-Rad), "masked" leaves uncertain and not-mentioned labels out.
UncertainPolicy = Literal["positive", "negative", "masked"]


def as_binary(state: LabelState, uncertain: UncertainPolicy) -> int | None:
    """Map one label state to 0, 1 or None (left out).

    Args:
        state: 1, 0, -1 or None.
        uncertain: What -1 becomes. Under "masked", None (not mentioned) is left out too.

    Returns:
        0, 1, or None where the policy leaves the label out.
    """
    match state:
        case 1:
            return 1
        case 0:
            return 0
        case -1:
            return {"positive": 1, "negative": 0, "masked": None}[uncertain]
        case None:
            return None if uncertain == "masked" else 0
    raise ValueError(f"not a label state: {state!r}")


def empty_labels() -> Labels:
    """Return all 14 observations, none of them mentioned."""
    return dict.fromkeys(OBSERVATIONS)


def with_parents(labels: Mapping[str, LabelState]) -> Labels:
    """Propagate positive labels to their parents in the CheXpert ontology (returns a new mapping)."""
    result: Labels = {name: labels.get(name) for name in OBSERVATIONS}
    for child in OBSERVATIONS:
        name = child
        while result[child] == 1 and name in PARENT:
            name = PARENT[name]
            result[name] = 1
    return result


#: The lower-case noun phrase that states each observation in one of our own sentences. The rule labeler reads every one
#: of them back ("No " + term, "Possible " + term), which `tests/labelers` proves for every side, zone and severity.
OBSERVATION_TERMS: Final[Mapping[str, str]] = {
    "No Finding": "no acute abnormality",
    "Enlarged Cardiomediastinum": "enlarged cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Lesion": "lung lesion",
    "Lung Opacity": "lung opacity",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "pleural thickening",
    "Fracture": "fracture",
    "Support Devices": "support device",
}
