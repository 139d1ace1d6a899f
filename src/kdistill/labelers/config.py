"""Settings of the labelers: `labeler: {kind: rules}` or `labeler: {kind: chexbert, checkpoint: FOLDER}`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdistill.config import ConfigModel


class RulesLabelerConfig(ConfigModel):
    """The project's own English rules for the 14 observations (no weights)."""

    kind: Literal["rules"] = "rules"


class ChexbertLabelerConfig(ConfigModel):
    """A CheXbert checkpoint (Smit et al. 2020, arXiv:2004.09167), converted once by `kdistill convert-chexbert`."""

    kind: Literal["chexbert"] = "chexbert"
    checkpoint: str = Field(description="Folder with model.safetensors and config.json (docs/labeler.md).")
    tokenizer: str | None = Field(
        default=None, description="BERT's vocab.txt, or its folder; the one in the checkpoint folder if left out."
    )
    batch_size: int = Field(default=16, ge=1, le=4096, description="Reports at a time; the labels do not depend on it.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is any.")


LabelerConfig = Annotated[RulesLabelerConfig | ChexbertLabelerConfig, Field(discriminator="kind")]
