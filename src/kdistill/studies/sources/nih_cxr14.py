"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): images and text-mined labels, no reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kdistill.observations import INDEX, LabelState
from kdistill.records import Study
from kdistill.studies.config import NihStudies
from kdistill.studies.sources.common import SourceImage, SourceStudy, SourceTable
from kdistill.studies.table import cell, read_rows, split_of

#: NIH label -> CheXpert observation, where the mapping is sound. Emphysema, Fibrosis and Hernia have none.
NIH_TO_OBSERVATION: Final[Mapping[str, str]] = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural_Thickening": "Pleural Other",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Infiltration": "Lung Opacity",
    "No Finding": "No Finding",
}


def read_nih(config: NihStudies) -> SourceTable:
    """Read NIH ChestX-ray14 rows: images and text-mined labels, no reports. Labels of the 11 mapped observations are
    1 or 0; the three that NIH does not label stay unknown. "No Finding" is 1 or unknown, as CheXpert has it.

    Raises:
        InputError: The table cannot be read.
    """
    folder = Path(config.path)
    table = SourceTable([])
    for _, row in read_rows(folder / "labels.csv", ("image", "Image Index", "Finding Labels", "Patient ID")):
        names = row["Finding Labels"].split("|")
        mapped = {NIH_TO_OBSERVATION[name] for name in names if name in NIH_TO_OBSERVATION}
        labels: dict[str, LabelState] = {name: int(name in mapped) for name in set(NIH_TO_OBSERVATION.values())}  # type: ignore[misc]
        labels["No Finding"] = 1 if "No Finding" in mapped else None
        patient_id = f"nih-{row['Patient ID']}"
        study = Study(
            study_id=f"nih-{Path(row['Image Index']).stem}",
            patient_id=patient_id,
            split=split_of(patient_id, validate_share=config.validate_share, test_share=config.test_share),
            images=(),
            source=folder.name,
            view_position=row.get("View Position") or None,
            sex=row.get("Patient Gender") or None,
            age=cell(row, "Patient Age", float),
            labels=dict(sorted(labels.items(), key=lambda item: INDEX[item[0]])),
        )
        table.studies.append(SourceStudy(study, [SourceImage(folder / row["image"], study.view_position)]))
    return table
