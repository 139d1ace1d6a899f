"""Studies that the image tests share."""

from __future__ import annotations

from kdistill.records import Severity, Side, Zone
from kdistill.studies.phantom.plan import FindingPlan, StudyPlan

SIZE = 128
#: Variants that move heart, mediastinum or diaphragm.
GEOMETRIC = {"large_heart", "wide_mediastinum", "volume_loss"}
SIDED = {
    "Lung Lesion",
    "Lung Opacity",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
}
_ZONES: dict[str, Zone] = {"apical_cap": "upper", "band": "lower", "volume_loss": "lower"}


def finding(
    observation: str, variant: str, side: Side | None = None, severity: Severity = "moderate", seed: int = 9100
) -> FindingPlan:
    """A finding whose side is dropped where the variant has none."""
    if observation not in SIDED or variant == "endotracheal_tube":
        side = "bilateral" if observation == "Edema" else None
    if variant == "pacemaker":
        side = "left"
    return FindingPlan(observation, variant, severity, seed, side, _ZONES.get(variant, "middle"))


def study(seed: int, *findings: FindingPlan, shortcut: bool = False) -> StudyPlan:
    """A man's upright film."""
    return StudyPlan(f"s{seed}", f"p{seed}", seed, "M", 60.0, "PA", tuple(findings), shortcut)
