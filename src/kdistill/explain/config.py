"""Settings of an explanation. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from pydantic import Field

from kdistill.config import ConfigModel
from kdistill.explain.explanation import QualityPolicy

ExplainFormat = Literal["json", "html", "pdf", "fhir", "dicom-sr", "dicom-sc"]
#: Written where --format is not given: what needs nothing but the image.
DEFAULT_FORMATS: Final[tuple[ExplainFormat, ...]] = ("json", "html")
#: Format -> ending of its file.
ENDINGS: Final[Mapping[ExplainFormat, str]] = MappingProxyType(
    {
        "json": ".json",
        "html": ".html",
        "pdf": ".pdf",
        "fhir": ".fhir.json",
        "dicom-sr": ".sr.dcm",
        "dicom-sc": ".sc.dcm",
    }
)


class ExplainConfig(ConfigModel):
    """When a probability is called indeterminate, when the model stays silent, when a sentence counts as cited."""

    indeterminate_logits: float = Field(
        default=0.4,
        ge=0,
        description="Half-width of the band around the threshold, in logits, that is called indeterminate.",
    )
    quality: QualityPolicy = Field(
        default="refuse",
        description="What follows when the image does not look like an upright frontal chest film (docs/quality.md): "
        "no report, a warning beside the report, or no look at all.",
    )
    min_citation_similarity: float = Field(
        default=0.92,
        gt=0,
        le=1,
        description="Share of equal words (longest matching blocks) at which a sentence is a near-verbatim quotation.",
    )
    min_citation_words: int = Field(
        default=4, ge=1, description="Shorter sentences are never matched to a quotation: they would match by accident."
    )
    batch_size: int = Field(default=64, ge=1, description="Images read at once.")
