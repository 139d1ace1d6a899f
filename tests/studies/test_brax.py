"""BRAX in its exact layout with content of our own, from directory to batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdistill.errors import InputError
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.studies.config import BraxStudies
from kdistill.studies.sources.read import read_source

from .batches import SIZE, batch_of, build, draw, write_csv

BRAX_HEADER = [
    *("", "DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber", "StudyDate"),
    *OBSERVATIONS,
    *("ViewPosition", "Rows", "Columns", "Manufacturer"),
]


def brax_row(patient: str, accession: str, image: str, view: str = "PA", **cells: str) -> dict[str, str]:
    where = f"id_{patient}/Study_{accession}/Series_1/image-{image}"
    return {
        **{"DicomPath": f"Anonymized_DICOMs/{where}.dcm", "PngPath": f"images/{where}.png", "PatientID": patient},
        **{"PatientSex": "F", "PatientAge": "85 or more", "AccessionNumber": accession, "ViewPosition": view},
        **cells,
    }


BRAX = [
    brax_row("a", "10", "1", "L", Pneumonia="-1", Edema="0", **{"No Finding": "0"}),
    brax_row("a", "10", "2", "PA", Pneumonia="-1", Edema="0", **{"No Finding": "0"}),
    brax_row("b", "10", "3", PatientSex="O", PatientAge="40", **{"No Finding": "1"}),
    brax_row("c", "11", "4", "RL"),
]


def write_brax(root: Path, rows: list[dict], name: str = "master_spreadsheet_update.csv") -> Path:
    write_csv(root / name, BRAX_HEADER, rows)
    for seed, row in enumerate(rows):
        draw(root / row["PngPath"], seed)
    return root


def test_brax_from_directory_to_batch(tmp_path):
    root = write_brax(tmp_path / "brax", BRAX)
    config = BraxStudies(path=str(root), size_px=SIZE, validate_share=0.0, test_share=0.0)
    built = build(config, tmp_path)
    assert list(built.studies) == ["brax-a-10", "brax-b-10"]  # an accession number is one of its patient's
    study = built.studies["brax-a-10"]
    assert (study.age, study.sex, [image.view_position for image in study.images]) == (85, "F", ["PA", "L"])
    assert study.labels is not None
    assert (study.labels["Pneumonia"], study.labels["Edema"], study.labels["No Finding"]) == (-1, 0, None)
    assert not study.report and built.studies["brax-b-10"].sex == "O"
    assert built.counts["rejected_no_frontal_image"] == 1
    batch = batch_of(built, tmp_path)
    assert batch["pixel_values"].shape == (2, 1, SIZE, SIZE)
    columns = [INDEX["Edema"], INDEX["No Finding"], INDEX["Fracture"]]
    expected = np.array([[0, np.nan, np.nan], [np.nan, 1, np.nan]], dtype=np.float32)
    assert np.array_equal(batch["label_targets"][:, columns].numpy(), expected, equal_nan=True)


def test_brax_mistakes_and_the_older_name_of_the_table(tmp_path):
    rows = [
        brax_row("a", "", "1"),
        brax_row("a", "1", "2", Edema="9"),
        {**brax_row("a", "2", "3"), "PngPath": "../x.png"},
    ]
    write_csv(tmp_path / "master_spreadsheet.csv", BRAX_HEADER, rows)
    with pytest.raises(InputError) as caught:
        read_source(BraxStudies(path=str(tmp_path)))
    for part in ("line 2: PatientID", "line 3: Edema: label '9'", "line 4: PngPath leads out"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="master_spreadsheet_update"):
        read_source(BraxStudies(path=str(tmp_path / "empty")))


def test_brax_can_be_read_as_dicom(tmp_path):
    root = write_brax(tmp_path / "brax", BRAX)
    (item, *_) = read_source(BraxStudies(path=str(root), images="dicom")).studies
    assert item.images[0].path == root / BRAX[1]["DicomPath"]
