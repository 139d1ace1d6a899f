"""Settings of the audit. Imports neither torch nor transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from kdistill.config import ConfigModel

AuditPart = Literal[
    "counterfactual",
    "shortcut",
    "laterality",
    "consistency",
    "citations",
    "alignment",
    "swap",
    "pointing",
    "randomisation",
]


class AuditConfig(ConfigModel):
    """Which tests are run, on how much, and which arm has to pass them. The thresholds are METHOD's and no settings."""

    parts: tuple[AuditPart, ...] = Field(
        default=(
            *("counterfactual", "shortcut", "laterality", "consistency", "citations", "alignment"),
            *("swap", "pointing", "randomisation"),
        ),
        description="Tests to run; one that is left out is listed as not run.",
    )
    arm: str = Field(default="full", description="The arm that the comparisons are about.")
    shortcut_baselines: tuple[str, ...] = Field(
        default=("report_only", "full_no_where", "full_mirrored_where"),
        description="Arms whose reaction to the shortcut is compared with that of `arm`.",
    )
    map_baselines: tuple[str, ...] = Field(
        default=("label", "full_no_where", "full_mirrored_where"),
        description="Arms whose evidence maps those of `arm` have to lie above.",
    )
    alignment_controls: tuple[str, ...] = Field(
        default=("shuffled_teacher", "template"),
        description="Control arms whose agreement with the teacher must lie below that of `arm`.",
    )
    saliency_arm: str = Field(
        default="label", description="The arm that Grad-CAM and integrated gradients explain: trained without reasons."
    )
    num_studies: int = Field(
        default=200, ge=1, description="Test studies (evenly spaced) whose maps are computed, for each student."
    )
    pointing_grid: int | None = Field(
        default=None,
        ge=1,
        description="Patches a side on which the pointing game is played; finer maps are summed to it, so that "
        "students with different grids can be compared. null: each student's own grid.",
    )
    num_gradient_studies: int = Field(
        default=64, ge=1, description="Of those, studies for integrated gradients (the costliest method, first seed)."
    )
    gradient_steps: int = Field(default=16, ge=2, description="Points on the path of integrated gradients.")
    num_noise_images: int = Field(default=16, ge=1, description="Noise images that a student is asked to explain.")
    num_bootstrap: int = Field(default=1000, ge=100, le=20_000, description="Patient resamples behind an interval.")
    seed: int = Field(default=0, ge=0, description="Seed of resamples, noise images and randomised weights.")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `pointing_grid` out where it is null: runs that were begun before it existed keep their hash."""
        found: dict[str, Any] = handler(self)
        if self.pointing_grid is None:
            found.pop("pointing_grid", None)
        return found
