"""Where studies come from. One line of a recipe chooses the source: `studies: {kind: folder, path: my_data}`."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

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
    """NIH ChestX-ray14 as NIH gives it, or a part of it: labels.csv (the Data_Entry columns and `image`) and images."""

    kind: Literal["nih_cxr14"] = "nih_cxr14"
    split: Literal["official", "hash"] | None = Field(
        default=None,
        description="official: by train_val_list.txt and test_list.txt; hash: by patient. Not said: official, but a "
        "folder with labels.csv by hash.",
    )


class CovidNotesStudies(ImageSource):
    """COVID-19 Image Data Collection: metadata.csv with `clinical_notes`, and the images; notes on CT are left out."""

    kind: Literal["covid_notes"] = "covid_notes"


def _inside(name: str) -> str:
    if os.path.normpath(name).startswith(("..", "/")):
        raise ValueError("must lie below `path`: make `path` the folder that holds both")
    return name


#: A file or folder below `path`: the studies stage names images relative to it.
InnerPath = Annotated[str, AfterValidator(_inside)]


class CheXpertSource(ImageSource):
    """What CheXpert and CheXpert Plus share."""

    valid_as: Literal["validate", "test"] = Field(
        default="test",
        description="What the official valid part is. What no official part serves is split off train by patient hash.",
    )


class CheXpertStudies(CheXpertSource):
    """CheXpert-v1.0 or -small: train.csv, valid.csv, a test table where present, and the images; no reports."""

    kind: Literal["chexpert"] = "chexpert"
    train_table: Literal["train.csv", "train_cheXbert.csv", "train_visualCheXbert.csv"] = Field(
        default="train.csv",
        description="Whose labels the training part has: CheXpert labeler, CheXbert, VisualCheXbert.",
    )


class CheXpertPlusStudies(CheXpertSource):
    """CheXpert Plus: the reports to CheXpert's images, which are read as PNG or DICOM."""

    kind: Literal["chexpert_plus"] = "chexpert_plus"
    table: InnerPath = Field(default="df_chexpert_plus_240401.csv", description="Name of the table, in the folder.")
    images: Literal["png", "dicom"] = Field(default="png", description="Which of the two forms to read.")
    image_root: InnerPath | None = Field(
        default=None,
        description="Folder below `path` that holds train and valid. Not said: PNG or DICOM, as `images` says.",
    )
    labels: Literal["none", "findings", "impression", "report"] = Field(
        default="none",
        description="Take the CheXbert labels of this section (labels_dir/<section>_fixed.json); none: the run's "
        "labeler reads the reports.",
    )
    labels_dir: InnerPath = Field(
        default="chexbert_labels", description="Folder of the CheXbert label files, below `path`."
    )


class BraxStudies(ImageSource):
    """BRAX: images and labels mined from Portuguese reports, which are not public."""

    kind: Literal["brax"] = "brax"
    images: Literal["png", "dicom"] = Field(default="png", description="Which of the two forms to read.")


class OpeniStudies(ImageSource):
    """Indiana University films and reports (Open-i): XML reports and image folders, or the two Kaggle tables."""

    kind: Literal["openi"] = "openi"
    reports: InnerPath | None = Field(
        default=None,
        description="Folder or .tgz of the XML reports, within path; found by its usual name if not given.",
    )
    images: InnerPath | None = Field(
        default=None, description="Folder of the images, within path; found by its usual name if not given."
    )
    mesh_labels: bool = Field(
        default=False,
        description="Take the indexers' MeSH terms as positive labels. They are also the labeler's evaluation "
        "reference, and they beat what the report says: off by default.",
    )
    max_archive_mb: int = Field(
        default=256, ge=1, description="An archive of reports that unpacks to more than this is refused (archives.py)."
    )


class PadChestStudies(ImageSource):
    """PadChest (BIMCV): the table of 160,000 images and their labels, and the folders of 16-bit PNG files."""

    kind: Literal["padchest"] = "padchest"
    table: InnerPath | None = Field(
        default=None, description="The table, .csv or .csv.gz, within path; found by its usual name if not given."
    )
    images: InnerPath = Field(default="", description="Folder that holds the numbered image folders, within path.")
    paediatric: Literal["leave_out", "keep"] = Field(
        default="leave_out", description="What to do with images that the table calls paediatric; counted."
    )
    labelled_by: Literal["any", "physician"] = Field(
        default="any", description="Keep all studies, or only those whose labels physicians gave (27%)."
    )
    spanish_report: Literal["leave_out", "findings"] = Field(
        default="leave_out",
        description="The reports are Spanish and stemmed: no labeler or writer here reads them. `findings` hands them "
        "on all the same.",
    )


class VinDrCxrStudies(ImageSource):
    """VinDr-CXR: DICOM films, each read by three radiologists (the test set: by five, in consensus), with boxes."""

    kind: Literal["vindr_cxr"] = "vindr_cxr"
    vote: Literal["majority", "any", "all", "unanimous"] = Field(
        default="majority",
        description="How readers make a label. majority: more than half 1, exactly half -1, else 0. any, all: 1 if any "
        "(all) readers mark it, else 0. unanimous: 1 or 0 where all agree, else -1.",
    )


class MimicSource(ImageSource):
    """What both forms of MIMIC-CXR share (docs/data.md: layout, tables, what is left out and why)."""

    reports_path: str | None = Field(
        default=None,
        description="The official mimic-cxr-reports.zip (read in place), or a folder with files/p10/p.../s....txt.",
    )
    split: Literal["official", "hash"] = Field(
        default="official",
        description="official: mimic-cxr-2.0.0-split.csv; hash: by patient, with validate_share and test_share.",
    )
    groups: tuple[Annotated[str, Field(pattern=r"^p1[0-9]$")], ...] | None = Field(
        default=None, min_length=1, description="Patient folders to read, as [p10, p11] for a partial copy; null: all."
    )


MimicLabels = Literal["chexpert", "negbio", "none"]


class MimicJpgStudies(MimicSource):
    """MIMIC-CXR-JPG 2.0.0 or 2.1.0: `path` holds files/ and the tables mimic-cxr-2.0.0-*.csv or .csv.gz.

    Without `reports_path` there are images and labels only: the JPG set has no reports.
    """

    kind: Literal["mimic_cxr_jpg"] = "mimic_cxr_jpg"
    labels: MimicLabels = Field(
        default="chexpert", description="Which labeler's table; none: labels are read from the reports."
    )


class MimicDicomStudies(MimicSource):
    """MIMIC-CXR 2.0.0 or 2.1.0 (DICOM): `path` holds files/ and cxr-record-list.csv or .csv.gz.

    Without `reports_path` the reports are looked for below `path`: the zip, or files/p10/p.../s....txt.
    """

    kind: Literal["mimic_cxr"] = "mimic_cxr"
    labels: MimicLabels = Field(
        default="none", description="Which labeler's table; none: labels are read from the reports."
    )
    tables_path: str | None = Field(
        default=None, description="Folder of the tables mimic-cxr-2.0.0-*.csv(.gz) of MIMIC-CXR-JPG; null: `path`."
    )
    views_from: Literal["metadata", "dicom"] = Field(
        default="metadata",
        description="Views and dates from mimic-cxr-2.0.0-metadata.csv, or from every DICOM header (slow).",
    )


FileSource = Annotated[
    FolderStudies
    | NihStudies
    | CovidNotesStudies
    | CheXpertStudies
    | CheXpertPlusStudies
    | BraxStudies
    | OpeniStudies
    | PadChestStudies
    | VinDrCxrStudies
    | MimicJpgStudies
    | MimicDicomStudies,
    Field(discriminator="kind"),
]


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
        if {"chexpert", "chexpert_plus"} <= {source.kind for source in sources}:
            raise ValueError("chexpert and chexpert_plus hold the same patients and images: take one of them")
        return sources


StudiesConfig = Annotated[PhantomStudies | CombinedStudies | FileSource, Field(discriminator="kind")]
