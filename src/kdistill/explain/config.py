"""Settings of an explanation. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field

from kdistill.config import ConfigModel

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
    min_grey_range: Annotated[int, Field(ge=0, le=255)] = Field(
        default=24,
        description="Grey levels (of 255) between the 2nd and 98th percentile below which an image is called constant.",
    )
    min_neighbour_correlation: float = Field(
        default=0.6,
        ge=-1,
        le=1,
        description="Correlation of neighbouring pixels below which an image is called noise (radiographs: above 0.9).",
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
