"""CheXpert, CheXpert Plus and BRAX in their exact layouts with content of our own, from directory to batch."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kdistill.errors import InputError, PolicyError
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.studies.config import BraxStudies, CheXpertPlusStudies, CheXpertStudies, CombinedStudies
from kdistill.studies.sources.read import read_source
from kdistill.studies.table import split_of

from .batches import SIZE, batch_of, build, draw

#: The tables' own order of the observations, which is not the labeler's.
COLUMNS = [
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
]
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]


def write_csv(path: Path, header: list[str], rows: list[dict], *, bom: bool = False, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator=end, restval="")
        writer.writeheader()
        writer.writerows(rows)


def film(part: str, patient: int, study: int = 1, view: str = "view1_frontal", **cells: str) -> dict[str, str]:
    """A row of train.csv or valid.csv."""
    kind = view.split("_")[1].capitalize()
    shown = {"Frontal/Lateral": kind, "AP/PA": "AP" if kind == "Frontal" else "", "Sex": "Male", "Age": "68"}
    name = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/{view}.jpg"
    return {"Path": name, **shown, **cells}


EXPERT = dict.fromkeys(COLUMNS, "0.0")
TRAIN = [
    film("train", 1, **{"No Finding": "1.0", "Pneumothorax": "0.0", "Support Devices": "1.0"}),
    film("train", 2, 1, "view2_lateral", Sex="Female", Edema="-1.0", Cardiomegaly="1.0"),
    film("train", 2, 1, "view1_frontal", Sex="Female", Edema="-1.0", Cardiomegaly="1.0"),
    film("train", 2, 2, Sex="Female", **{"AP/PA": "LL"}),
    film("train", 3, 1, "view1_lateral", Fracture="1.0"),
    film("train", 4, Sex="Unknown", **{"Pleural Effusion": "1.0"}),
]
VALID = [film("valid", 64541, **{**EXPERT, "Cardiomegaly": "1.0"}), film("valid", 64542, **EXPERT)]


@pytest.fixture
def chexpert(tmp_path):
    """Writes a release below `data`; images follow the rows unless `missing`."""

    def write(train=TRAIN, valid=VALID, *, folder="CheXpert-v1.0-small", missing=(), **style) -> Path:
        root = tmp_path / "data" / folder
        write_csv(root / "train.csv", HEADER, train, **style)
        write_csv(root / "valid.csv", HEADER, valid, **style)
        for seed, row in enumerate([*train, *valid]):
            name = row["Path"].removeprefix("CheXpert-v1.0-small/")
            if name not in missing and ".." not in name:
                draw(root / name, seed)
        return root

    return write


def config(root: Path, **more) -> CheXpertStudies:
    return CheXpertStudies(path=str(root), size_px=SIZE, **{"validate_share": 0.0, **more})


def test_chexpert_from_directory_to_batch(chexpert, tmp_path):
    built = build(config(chexpert()), tmp_path)
    one, several = built.studies["chexpert-patient00001-study1"], built.studies["chexpert-patient00002-study1"]
    assert one.labels is not None and several.labels is not None
    assert (one.labels["No Finding"], one.labels["Pneumothorax"], one.labels["Edema"]) == (1, 0, None)
    assert (several.labels["Edema"], several.labels["Cardiomegaly"], several.sex, several.age) == (-1, 1, "F", 68)
    assert [image.view_position for image in several.images] == ["AP", "LATERAL"]  # the frontal one comes first
    assert built.studies["chexpert-patient00002-study2"].view_position == "FRONTAL"
    assert built.studies["chexpert-patient00004-study1"].sex is None
    assert built.counts["rejected_no_frontal_image"] == 1
    batch = batch_of(built, tmp_path)
    assert batch["pixel_values"].shape == (4, 1, SIZE, SIZE) and torch.isfinite(batch["pixel_values"]).all()
    targets = batch["label_targets"]
    assert targets.shape == (4, 14)
    assert [targets[0, INDEX[n]].item() for n in ("No Finding", "Pneumothorax")] == [1, 0]
    assert torch.isnan(targets[0, INDEX["Edema"]])  # not mentioned, and no report to read: unknown, never 0
    assert targets[1, INDEX["Cardiomegaly"]] == 1


def test_chexpert_readers_labels_deny_no_finding_by_silence(chexpert):
    (labels,) = [
        item.study.labels for item in read_source(config(chexpert())).studies if "64541" in item.study.patient_id
    ]
    assert labels == {**dict.fromkeys(OBSERVATIONS, 0), "No Finding": None, "Cardiomegaly": 1}


def splits_of(root: Path, **more) -> dict[str, str]:
    return {item.study.patient_id: item.study.split for item in read_source(config(root, **more)).studies}


def test_chexpert_valid_part_serves_as_the_recipe_says_and_train_gives_the_rest(chexpert):
    train = [film("train", number) for number in range(1, 41)]
    root = chexpert(train)
    as_test = splits_of(root, validate_share=0.3)
    as_validate = splits_of(root, valid_as="validate", test_share=0.3)
    assert {as_test[f"chexpert-patient{n}"] for n in (64541, 64542)} == {"test"}
    assert {as_validate[f"chexpert-patient{n}"] for n in (64541, 64542)} == {"validate"}
    for number in range(1, 41):
        name = f"chexpert-patient{number:05d}"
        assert as_test[name] == split_of(name, validate_share=0.3, test_share=0.0)
        assert as_validate[name] == split_of(name, validate_share=0.0, test_share=0.3)
    assert set(as_test.values()) == set(as_validate.values()) == {"train", "validate", "test"}


@pytest.mark.parametrize(
    ("table", "column", "name"),
    [
        ("test.csv", "Path", "CheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg"),
        ("test_labels.csv", "Path", "test/patient64741/study1/view1_frontal.jpg"),
        ("groundtruth.csv", "Study", "CheXpert-v1.0/test/patient64741/study1"),
    ],
)
def test_chexpert_test_tables_of_three_origins(chexpert, table, column, name):
    root = chexpert()
    scored = [name for name in COLUMNS if name != "Fracture"]
    write_csv(root / table, [column, *scored], [{column: name, **dict.fromkeys(scored, "0"), "Edema": "1"}])
    draw(root / "test/patient64741/study1/view1_frontal.jpg", 99)
    found = {item.study.patient_id: item for item in read_source(config(root, valid_as="validate")).studies}
    item = found["chexpert-patient64741"]
    assert item.study.split == "test" and item.study.labels is not None
    assert item.study.labels["Edema"] == 1 and "Fracture" not in item.study.labels  # no column: absent, never 0
    assert [(image.path.is_file(), image.view_position) for image in item.images] == [(True, "FRONTAL")]
    assert "test" not in {study.study.split for study in found.values() if study is not item}


def test_chexpert_is_found_in_the_folder_and_below_it(chexpert, tmp_path):
    root = chexpert()
    inside, above = read_source(config(root)), read_source(config(root.parent))
    assert [i.study for i in inside.studies] == [i.study for i in above.studies] and len(inside.studies) == 6
    assert [i.images for i in inside.studies] == [i.images for i in above.studies]
    chexpert(folder="CheXpert-v1.0")
    with pytest.raises(InputError, match=r"2 folders.*CheXpert-v1.0, CheXpert-v1.0-small"):
        read_source(config(root.parent))
    with pytest.raises(InputError, match="0 folders"):
        read_source(config(tmp_path / "nowhere"))


def test_chexpert_as_the_large_download_unpacks(tmp_path):
    first, second = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)", tmp_path / "CheXpert-v1.0 batch 2 (train 1)"
    write_csv(first / "valid.csv", HEADER, VALID)
    write_csv(tmp_path / "train_visualCheXbert.csv", HEADER, [film("train", 1, Edema="1.0")])
    write_csv(first / "train.csv", HEADER, [film("train", 1)])
    draw(second / "patient00001/study1/view1_frontal.jpg", 1)
    for number in (64541, 64542):
        draw(first / f"valid/patient{number}/study1/view1_frontal.jpg", number)
    built = build(config(tmp_path), tmp_path / "out")
    assert built.counts == {"studies_train": 1, "studies_test": 2}
    (theirs,) = [
        item.study.labels
        for item in read_source(config(tmp_path, train_table="train_visualCheXbert.csv")).studies
        if item.study.split == "train"
    ]
    assert theirs is not None and theirs["Edema"] == 1


def test_chexpert_mistakes_of_all_tables_at_once(chexpert):
    train = [
        film("train", 1, Edema="2.0"),
        film("train", 1),
        film("train", 1, 2, "view1_frontal"),
        film("train", 1, 2, "view1_frontal"),
        {**film("train", 2), "Path": "CheXpert-v1.0-small/train/../../etc/passwd"},
    ]
    valid = [film("valid", 64541, Fracture="yes"), film("train", 64542)]
    with pytest.raises(InputError) as caught:
        read_source(config(chexpert(train, valid)))
    text = str(caught.value)
    for part in (
        "train.csv line 2: Edema: label '2.0'",
        "train.csv line 3: the same image",
        "train.csv line 5: the same image",
        "train.csv line 6: Path is not",
        "valid.csv line 2: Fracture: label 'yes'",
        "valid.csv line 3: Path is not .../valid/",
    ):
        assert part in text, part
    assert "patient0" not in text


def test_chexpert_a_missing_column_is_named(chexpert):
    root = chexpert()
    write_csv(root / "train.csv", [name for name in HEADER if name != "Edema"], [])
    with pytest.raises(InputError, match="column Edema is missing"):
        read_source(config(root))


def test_chexpert_bom_and_crlf_are_welcome(chexpert):
    plain = [item.study for item in read_source(config(chexpert())).studies]
    assert plain == [item.study for item in read_source(config(chexpert(bom=True, end="\r\n"))).studies]


def test_chexpert_images_with_different_labels_are_left_out(chexpert):
    train = [film("train", 1, Edema="1.0"), film("train", 1, 1, "view2_lateral", Edema="0.0"), film("train", 2)]
    table = read_source(config(chexpert(train)))
    assert table.left_out == [("chexpert-patient00001-study1", "labels_differ_between_images")]
    assert "chexpert-patient00001" not in {item.study.patient_id for item in table.studies}


def test_chexpert_a_patient_in_two_official_parts_is_refused(chexpert):
    with pytest.raises(PolicyError, match="1 patients stand in more than one official table") as caught:
        read_source(config(chexpert(valid=[film("valid", 2), film("valid", 64541)])))
    assert caught.value.exit_code == 3


def test_chexpert_missing_images_are_quarantined_and_counted(chexpert, tmp_path):
    root = chexpert(missing=("train/patient00004/study1/view1_frontal.jpg",))
    with pytest.raises(InputError, match="1 of 6 studies"):
        build(config(root), tmp_path)
    built = build(config(root, max_rejected_share=0.5), tmp_path)
    assert built.counts["rejected_image_unusable"] == 1 and len(built.studies) == 5


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
