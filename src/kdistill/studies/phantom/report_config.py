"""How noisy the phantom's reports are and what its literature is made of. Fixed before any arm is trained."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdistill.config import ConfigModel

Share = float


class NoiseConfig(ConfigModel):
    """Shares with which a report names, describes, hedges or omits what is on the image."""

    named: Share = Field(default=0.49, ge=0, le=1, description="share of findings stated by name")
    described: Share = Field(
        default=0.40, ge=0, le=1, description="share of findings described by a sign, without the name"
    )
    hedged: Share = Field(default=0.05, ge=0, le=1, description="share of findings stated as possible")
    omitted: Share = Field(default=0.06, ge=0, le=1, description="share of findings left out of the report")
    ambiguous: Share = Field(
        default=0.08, ge=0, le=1, description="share of described findings in an ambiguous wording"
    )
    sign_beside_name: Share = Field(
        default=0.15, ge=0, le=1, description="share of named findings with a sign beside the name"
    )
    mode_frame: Share = Field(
        default=0.70, ge=0, le=1, description="share of named findings in the first (usual) frame"
    )
    mode_noun: Share = Field(
        default=0.80, ge=0, le=1, description="share of named findings with the first (usual) noun"
    )
    telegraphic: Share = Field(default=0.60, ge=0, le=1, description="share of noun phrases without their article")
    severity_said: Share = Field(default=0.60, ge=0, le=1, description="share of wordings that state the severity")
    zone_said: Share = Field(default=0.70, ge=0, le=1, description="share of wordings that state the zone")
    denied_by_name: Share = Field(
        default=0.55, ge=0, le=1, description="share of normal regions that deny a condition by name"
    )
    shuffled_order: Share = Field(
        default=0.25, ge=0, le=1, description="share of reports in free instead of anatomical order"
    )
    impression_repeats: Share = Field(
        default=0.85, ge=0, le=1, description="share of named findings that the impression repeats"
    )
    min_words: int = Field(
        default=24, ge=5, description="shortest findings section aimed at with normal regions, words"
    )
    max_words: int = Field(
        default=36, ge=5, description="longest findings section to which a normal region is added, words"
    )

    @model_validator(mode="after")
    def _kinds_sum_to_one(self) -> NoiseConfig:
        total = self.named + self.described + self.hedged + self.omitted
        if abs(total - 1) > 1e-9:
            raise ValueError(f"named, described, hedged and omitted must sum to 1, not {total:g}")
        if self.max_words < self.min_words:
            raise ValueError("max_words is below min_words")
        return self


class LiteratureMix(ConfigModel):
    """Shares of the kinds of articles; what they leave of 1 are case reports."""

    review: Share = Field(default=0.37, ge=0, le=1, description="signs, mechanism and differential of one condition")
    mixed: Share = Field(default=0.07, ge=0, le=1, description="ambiguous signs and look-alikes")
    normal: Share = Field(default=0.15, ge=0, le=1, description="normal anatomy")
    off_topic: Share = Field(
        default=0.03, ge=0, le=1, description="no chest in it: to be dropped by the literature stage"
    )
    duplicate: Share = Field(default=0.02, ge=0, le=1, description="repeats an earlier article: to be dropped")
    retracted: Share = Field(
        default=0.01, ge=0, le=1, description="retracted, with signs of the wrong condition: to be dropped"
    )

    @model_validator(mode="after")
    def _leave_room_for_cases(self) -> LiteratureMix:
        if self.review + self.mixed + self.normal + self.off_topic + self.duplicate + self.retracted > 1:
            raise ValueError("the shares exceed 1")
        return self
