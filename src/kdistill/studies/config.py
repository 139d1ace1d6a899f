"""Where studies come from. One line of a recipe chooses the source: `studies: {kind: folder, path: my_data}`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from kdistill.config import ConfigModel
from kdistill.studies.phantom.config import PhantomConfig


class PhantomStudies(PhantomConfig):
    """Studies of the phantom world, with ground truth, masks and counterfactual pairs."""

    kind: Literal["phantom"] = "phantom"


class ImageSource(ConfigModel):
    """What every source of image files shares."""

    path: str = Field(description="Folder of the data set, relative to the working directory.")
    size_px: int = Field(
        default=128, ge=32, le=1024, description="Side of the square image that the student sees, in pixels."
    )
    max_rejected_share: float = Field(
        default=0.05, ge=0, le=1, description="The run fails when a larger share of the listed images cannot be used."
    )
    first_view: Literal["frontal", "as_listed"] = Field(
        default="frontal", description="Which image of a study comes first (the student sees the first)."
    )
    frontal_only: bool = Field(
        default=True, description="Leave out studies all of whose images are stated to be no frontal view; counted."
    )
    require_chest: bool = Field(
        default=True,
        description="Leave out DICOM files that are no chest radiograph by their tags (modality, class, body part).",
    )
    validate_share: float = Field(default=0.15, ge=0, lt=1, description="Share of patients (by hash) for validation.")
    test_share: float = Field(default=0.25, ge=0, lt=1, description="Share of patients (by hash) for the test.")


class FolderStudies(ImageSource):
    """Any image-report data set: a folder with studies.csv and the images that it names (docs/data.md)."""

    kind: Literal["folder"] = "folder"


class NihStudies(ImageSource):
    """NIH ChestX-ray14 in folders that hold labels.csv (the Data_Entry columns and `image`) and the images it names."""

    kind: Literal["nih_cxr14"] = "nih_cxr14"


class CovidNotesStudies(ImageSource):
    """COVID-19 Image Data Collection: metadata.csv with `clinical_notes`, and the images; notes on CT are left out."""

    kind: Literal["covid_notes"] = "covid_notes"


FileSource = Annotated[FolderStudies | NihStudies | CovidNotesStudies, Field(discriminator="kind")]


class CombinedStudies(ConfigModel):
    """Several sources in one run; a patient of one source is never taken for a patient of another."""

    kind: Literal["combined"] = "combined"
    sources: tuple[FileSource, ...] = Field(min_length=1, description="The sources, in order.")
    confounds: tuple[str, ...] = Field(
        default=(),
        description="Sentences on what differs between the sources besides the findings; shown beside the scores.",
    )

    @field_validator("sources")
    @classmethod
    def _one_size(cls, sources: tuple[FileSource, ...]) -> tuple[FileSource, ...]:
        if len({source.size_px for source in sources}) > 1:
            raise ValueError("all sources need the same size_px")
        return sources


StudiesConfig = Annotated[
    PhantomStudies | FolderStudies | NihStudies | CovidNotesStudies | CombinedStudies, Field(discriminator="kind")
]
