"""What a phantom study contains, before it is drawn or described: the cause of both its image and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from kdistill.observations import NO_FINDING, OBSERVATIONS, SUPPORT_DEVICES
from kdistill.records import Severity, Side, Zone

#: The ways in which an observation can look: the renderer draws the variant, the knowledge file words its signs.
VARIANTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Enlarged Cardiomediastinum": ("wide_mediastinum",),
        "Cardiomegaly": ("large_heart",),
        "Lung Lesion": ("nodule", "mass"),
        "Lung Opacity": ("ground_glass",),
        "Edema": ("bat_wing", "interstitial"),
        "Consolidation": ("lobar",),
        "Pneumonia": ("patchy",),
        "Atelectasis": ("band", "volume_loss"),
        "Pneumothorax": ("visceral_line",),
        "Pleural Effusion": ("meniscus", "blunting"),
        "Pleural Other": ("apical_cap", "plaque"),
        "Fracture": ("rib",),
        "Support Devices": ("endotracheal_tube", "central_line", "pacemaker"),
    }
)


@dataclass(frozen=True)
class FindingPlan:
    """One observation in one study. Its `seed` drives all its random draws: removing it moves nothing else."""

    observation: str
    variant: str
    severity: Severity
    seed: int
    side: Side | None = None
    zone: Zone | None = None


@dataclass(frozen=True)
class StudyPlan:
    """One phantom examination. `seed` drives anatomy, exposure and noise; each finding has a seed of its own."""

    study_id: str
    patient_id: str
    seed: int
    sex: str
    age: float
    view_position: str
    findings: tuple[FindingPlan, ...]
    shortcut: bool = False

    def without(self, observation: str) -> StudyPlan:
        """The same study with one observation removed."""
        return replace(self, findings=tuple(f for f in self.findings if f.observation != observation))

    def has(self, observation: str) -> bool:
        """Whether the observation is drawn."""
        return any(finding.observation == observation for finding in self.findings)

    def with_finding(self, finding: FindingPlan) -> StudyPlan:
        """The same study with one finding more."""
        return replace(self, findings=(*self.findings, finding))

    def can_move(self, observation: str) -> bool:
        """Whether the observation stands on one side and could as well stand on the other."""
        found = [finding for finding in self.findings if finding.observation == observation]
        return bool(found) and all(f.side in ("left", "right") and f.variant != "pacemaker" for f in found)

    def moved(self, observation: str) -> StudyPlan:
        """The same study with one observation on the other side, drawn from the same seed."""
        other: Mapping[Side | None, Side] = {"left": "right", "right": "left"}
        return replace(
            self,
            findings=tuple(
                replace(f, side=other[f.side]) if f.observation == observation else f for f in self.findings
            ),
        )

    def truth(self) -> dict[str, int]:
        """Ground truth: 1 for each drawn observation; "No Finding" is 1 when nothing but devices is drawn."""
        drawn = {finding.observation for finding in self.findings}
        truth = {name: int(name in drawn) for name in OBSERVATIONS}
        truth[NO_FINDING] = int(not drawn - {SUPPORT_DEVICES})
        return truth
