"""CheXpert Plus in its exact layout with content of our own, from directory to batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from kdistill.errors import InputError, PolicyError
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.studies.config import CheXpertPlusStudies, CheXpertStudies, CombinedStudies
from kdistill.studies.sources.read import read_source

from .batches import SIZE, batch_of, build, draw, write_csv

PLUS_HEADER = [
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order"),
    *("report", "section_narrative", "section_clinical_history", "section_history", "section_comparison"),
    *("section_technique", "section_procedure_comments", "section_findings", "section_impression"),
    *("section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race", "ethnicity"),
    *("interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split"),
]


def report(part: str, patient: int, study: int, order: int, findings: str = "", impression: str = "", **cells) -> dict:
    name = f"{part}/patient{patient}/study{study}/view1_frontal"
    return {
        **{"path_to_image": f"{name}.jpg", "path_to_dcm": f"{name}.dcm", "frontal_lateral": "Frontal", "ap_pa": "PA"},
        **{"deid_patient_id": f"patient{patient}", "patient_report_date_order": str(order), "split": part},
        **{"section_findings": findings, "section_impression": impression, "age": "61.0", "sex": "Female"},
        **cells,
    }


PLUS = [
    report("train", 42142, 5, 3, "There is a small left pleural effusion.\nNo pneumothorax.", "1. Small effusion."),
    report("train", 42142, 1, 1, impression="No acute cardiopulmonary abnormality.", section_history="Cough."),
    report("train", 42142, 2, 2, "The heart is enlarged.", section_clinical_history="Dyspnea."),
    report("train", 7, 1, 1),
    report("valid", 64541, 1, 1, "Pulmonary edema."),
]


@pytest.fixture
def plus(tmp_path):
    """Writes a CheXpert Plus folder with PNG files."""

    def write(rows=PLUS, labels: list[dict] | None = None) -> Path:
        root = tmp_path / "chexpertplus"
        write_csv(root / "df_chexpert_plus_240401.csv", PLUS_HEADER, rows)
        for seed, row in enumerate(rows):
            draw((root / "PNG" / row["path_to_image"]).with_suffix(".png"), seed)
        if labels is not None:
            (root / "chexbert_labels").mkdir(exist_ok=True)
            lines = "".join(json.dumps(record) + "\n" for record in labels)
            (root / "chexbert_labels" / "impression_fixed.json").write_text(lines)
        return root

    return write


def plus_config(root: Path, **more) -> CheXpertPlusStudies:
    return CheXpertPlusStudies(path=str(root), size_px=SIZE, **{"validate_share": 0.0, **more})


def test_chexpert_plus_from_directory_to_batch(plus, tmp_path):
    built = build(plus_config(plus()), tmp_path)
    first = built.studies["chexpert-patient42142-study1"]
    third = built.studies["chexpert-patient42142-study5"]
    assert (first.prior_study_id, third.prior_study_id) == (None, "chexpert-patient42142-study2")
    assert built.studies["chexpert-patient42142-study2"].prior_study_id == "chexpert-patient42142-study1"
    assert (first.indication, first.impression) == ("Cough.", "No acute cardiopulmonary abnormality.")
    assert built.studies["chexpert-patient42142-study2"].indication == "Dyspnea."
    assert (third.findings, third.sex, third.age) == (PLUS[0]["section_findings"], "F", 61)
    assert third.labels is None and third.view_position == "PA"
    assert built.studies["chexpert-patient64541-study1"].split == "test"
    batch = batch_of(built, tmp_path)
    assert batch["pixel_values"].shape == (4, 1, SIZE, SIZE)
    assert batch["label_targets"][0, INDEX["Pleural Effusion"]] == 1  # read from the report by the rules
    assert batch["label_targets"][0, INDEX["Pneumothorax"]] == 0
    assert torch.isnan(batch["label_targets"][3]).all()  # without report or labels: nothing is known
    assert sum(len(texts["input_ids"]) for texts in batch["report"]) == 3


def label_line(path: str, **states: float) -> dict:
    return {"path_to_image": path, **dict.fromkeys(OBSERVATIONS), **states}


def test_chexpert_plus_labels_of_a_section_that_is_there(plus):
    labels = [
        label_line(PLUS[0]["path_to_image"], **{"Pleural Effusion": 1.0, "No Finding": 0.0, "Edema": -1.0}),
        label_line(PLUS[2]["path_to_image"], **{"No Finding": 1.0}),  # CheXbert on an empty impression
    ]
    found = {
        i.study.study_id: i.study.labels
        for i in read_source(plus_config(plus(labels=labels), labels="impression")).studies
    }
    third = found["chexpert-patient42142-study5"]
    assert third is not None
    assert (third["Pleural Effusion"], third["Edema"], third["No Finding"], third["Fracture"]) == (1, -1, None, None)
    assert found["chexpert-patient42142-study2"] is None


def test_chexpert_plus_mistakes_of_the_label_file_have_lines(plus):
    broken = label_line(PLUS[0]["path_to_image"], Edema=3.0)
    short = {name: value for name, value in label_line(PLUS[1]["path_to_image"]).items() if name != "Edema"}
    root = plus(labels=[broken, short, [1]])
    with pytest.raises(InputError) as caught:
        read_source(plus_config(root, labels="impression"))
    for part in ("line 1: label '3.0'", "line 2: Edema is missing", "line 3: is no JSON object"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"findings_fixed\.json"):
        read_source(plus_config(root, labels="findings"))


def test_chexpert_plus_mistakes_of_the_table_at_once(plus):
    rows = [
        *PLUS,
        report("dev", 8, 1, 1, path_to_image="train/patient8/study1/view1_frontal.jpg"),
        {**report("train", 9, 1, 1), "path_to_image": "somewhere.jpg"},
        report("train", 10, 1, 1, deid_patient_id="patient7"),
        {**report("train", 11, 1, 1), "patient_report_date_order": "soon"},
        PLUS[0],
    ]
    with pytest.raises(InputError) as caught:
        read_source(plus_config(plus(rows)))
    for part in (
        "line 8: split 'dev'",  # the first report goes over two lines
        "line 9: path_to_image",
        "line 10: deid",
        "line 11: patient_report",
        "line 13: the same image",
    ):
        assert part in str(caught.value), part


def test_chexpert_plus_dicom_paths_and_roots(plus, tmp_path):
    root = plus()
    with pytest.raises(InputError, match=r"chexpertplus/DICOM: has no folder.*\n.*image_root"):
        read_source(plus_config(root, images="dicom"))
    (root / "DICOM" / "Uncompressed" / "train").mkdir(parents=True)
    (item, *_) = read_source(plus_config(root, images="dicom", image_root="DICOM/Uncompressed")).studies
    assert item.images[0].path == root / "DICOM/Uncompressed/train/patient42142/study5/view1_frontal.dcm"
    with pytest.raises(ValidationError, match="must lie below"):
        plus_config(root, image_root="../CheXpert-v1.0-small")


def test_chexpert_plus_a_patient_in_both_parts_is_refused(plus):
    with pytest.raises(PolicyError, match="1 patients stand in more than one official part"):
        read_source(plus_config(plus([*PLUS, report("valid", 7, 2, 2)])))


def test_chexpert_and_chexpert_plus_are_not_combined(tmp_path):
    with pytest.raises(ValidationError, match="the same patients"):
        CombinedStudies(sources=(CheXpertStudies(path="a"), CheXpertPlusStudies(path="b")))
