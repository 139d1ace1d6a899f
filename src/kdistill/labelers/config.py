"""Settings of the labeler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdistill.config import ConfigModel


class LabelerConfig(ConfigModel):
    """Which labeler reads the reports."""

    kind: Literal["rules"] = Field(
        default="rules", description="rules: the project's own English rules for the 14 observations (no weights)"
    )
