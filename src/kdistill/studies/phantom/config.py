"""Settings of the phantom world. They are fixed before any student is trained."""

from __future__ import annotations

from pydantic import Field, field_validator

from kdistill.config import ConfigModel
from kdistill.observations import FINDINGS


class PhantomConfig(ConfigModel):
    """How many phantom studies, of what size, and how strongly the shortcut is tied to its observation."""

    size_px: int = Field(default=128, ge=32, le=1024, description="Side of the square images, in pixels.")
    num_train: int = Field(default=3000, ge=1, description="Number of training studies (one patient each).")
    num_validate: int = Field(
        default=400, ge=0, description="Number of validation studies, distributed as in training."
    )
    num_test: int = Field(default=600, ge=0, description="Number of test studies; the shortcut is independent there.")
    num_pairs: int = Field(
        default=240,
        ge=0,
        description="Number of counterfactual pairs, a quarter each removed, added, moved and shortcut.",
    )
    healthy_share: float = Field(
        default=0.30, ge=0, le=1, description="Share of studies without any finding but devices."
    )
    shortcut_observation: str = Field(
        default="Edema",
        description="Observation whose films carry the portable tag in training: failing patients are filmed in bed.",
    )
    shortcut_if_present: float = Field(
        default=0.9, ge=0, le=1, description="P(tag | observation present) in training and validation."
    )
    shortcut_if_absent: float = Field(
        default=0.1, ge=0, le=1, description="P(tag | observation absent) in training and validation."
    )
    seed: int = Field(default=0, ge=0, description="Seed of all patients, findings, films and pairs.")

    @field_validator("shortcut_observation")
    @classmethod
    def _is_a_finding(cls, value: str) -> str:
        if value not in FINDINGS:
            raise ValueError(f"must be one of {list(FINDINGS)}")
        return value
