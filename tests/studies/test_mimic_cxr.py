"""MIMIC-CXR in its official layout: directory -> studies stage -> batch, and what stays apart on the way."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from kdistill.artifact import open_stage
from kdistill.distillation.collate import Collator, Visit
from kdistill.distillation.config import ArmConfig, DistillationConfig
from kdistill.distillation.targets import build_targets
from kdistill.errors import InputError
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.stage import build_labels
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.pipeline.data_check import check_data
from kdistill.pipeline.recipe import load_recipe
from kdistill.pipeline.stages import RunFolder, base_stages
from kdistill.student.configuration import KDistillConfig
from kdistill.studies import store
from kdistill.studies.config import CombinedStudies, MimicDicomStudies, MimicJpgStudies
from kdistill.studies.images import read_image
from kdistill.studies.sources.read import read_source
from kdistill.studies.stage import build_studies
from kdistill.teacher.tokenizer import train_tokenizer

from ..pipeline.tiny import write_recipe
from .mimic_layout import (
    CLEAR,
    EXAMS,
    changed,
    write_archive,
    write_dicom,
    write_jpg,
    write_reports,
    write_table,
    write_tables,
)


@pytest.fixture
def jpg(tmp_path):
    """Both data sets side by side: images and tables, reports as the zip."""
    write_jpg(tmp_path / "mimic-cxr-jpg", labelers=("chexpert", "negbio"))
    write_archive(tmp_path / "mimic-cxr" / "mimic-cxr-reports.zip")
    return MimicJpgStudies(
        path=str(tmp_path / "mimic-cxr-jpg"),
        reports_path=str(tmp_path / "mimic-cxr" / "mimic-cxr-reports.zip"),
        size_px=32,
    )


def build(config, out):
    with open_stage(out, stage="studies", config=config) as stage:
        build_studies(stage, config)
    return {study.study_id: study for study in store.load_studies(out)}, Counter(stage.counts)


def same_but_images(studies):
    return [study.model_copy(update={"images": (), "source": ""}) for study in studies]


def test_a_directory_becomes_studies(jpg, tmp_path):
    studies, counts = build(jpg, tmp_path / "studies")
    assert list(studies) == ["s50414267", "s53189527", "s51911762", "s57375967", "s58000001"]
    assert Counter(study.split for study in studies.values()) == {"train": 3, "validate": 1, "test": 1}
    study = studies["s50414267"]
    assert study.patient_id == "p10000032" and study.source == "mimic_cxr_jpg"
    assert study.indication == "___-year-old woman with cough."
    assert study.findings == "There is a small left pleural effusion. The heart is normal, as on ___."
    assert study.impression == "Small left effusion."
    assert store.load_images(tmp_path / "studies").shape == (7, 32, 32)
    kept = {name: n for name, n in counts.items() if n}
    assert kept == {"studies_train": 3, "studies_validate": 1, "studies_test": 1, "studies_without_label_row": 1}


def test_frontal_images_come_first_and_keep_view_and_dicom_id(jpg, tmp_path):
    studies, _ = build(jpg, tmp_path / "studies")
    first, second = studies["s50414267"].images
    assert (first.view_position, first.dicom_id) == ("PA", EXAMS[0].dicom_id(1))
    assert (second.view_position, second.dicom_id) == ("LATERAL", EXAMS[0].dicom_id(0))
    assert first.image_path == f"files/p10/p10000032/s50414267/{EXAMS[0].dicom_id(1)}.jpg"
    assert [image.view_position for image in studies["s57375967"].images] == ["AP", "LL"]
    pixels = read_image(tmp_path / "mimic-cxr-jpg" / first.image_path, 32)
    assert np.array_equal(store.load_images(tmp_path / "studies")[first.row], pixels)
    assert studies["s50414267"].view_position == "PA"


def test_a_study_of_lateral_views_is_left_out_by_name(tmp_path):
    write_jpg(tmp_path, changed(2, views=("LATERAL", "LL")))
    table = read_source(MimicJpgStudies(path=str(tmp_path)))
    assert table.left_out == [("s51911762", "no_frontal_image")] and len(table.studies) == 4
    assert len(read_source(MimicJpgStudies(path=str(tmp_path), frontal_only=False)).studies) == 5


def test_an_empty_view_is_unknown_and_stays(tmp_path):
    write_jpg(tmp_path, changed(2, views=("", "AP")))
    images = read_source(MimicJpgStudies(path=str(tmp_path))).studies[2].images
    assert [image.view_position for image in images] == ["AP", None]


@pytest.mark.parametrize("labeler", ["chexpert", "negbio"])
def test_labels_stand_in_the_projects_order_with_all_states(jpg, labeler):
    table = read_source(jpg.model_copy(update={"labels": labeler}))
    labels = table.studies[0].study.labels
    assert labels is not None and list(labels) == list(OBSERVATIONS)
    stated = {name: state for name, state in labels.items() if state is not None}
    assert stated == {"Pleural Effusion": 1, "Pneumonia": 0, "Edema": -1}
    assert table.studies[3].study.labels is None  # no row: the labelers found no text to label


def test_airspace_opacity_is_lung_opacity(tmp_path):
    write_jpg(tmp_path)
    names = ["Airspace Opacity" if name == "Lung Opacity" else name for name in OBSERVATIONS]
    row = ["10000032", "50414267", *("1.0" if name == "Airspace Opacity" else "" for name in names)]
    write_table(tmp_path / "mimic-cxr-2.0.0-chexpert", ["subject_id", "study_id", *names], [row])
    labels = read_source(MimicJpgStudies(path=str(tmp_path))).studies[0].study.labels
    assert labels is not None and labels["Lung Opacity"] == 1 and labels["Lung Lesion"] is None


def test_without_labels_none_are_carried(jpg):
    assert all(item.study.labels is None for item in read_source(jpg.model_copy(update={"labels": "none"})).studies)


def test_the_prior_is_the_nearest_earlier_study_of_the_patient(jpg):
    """Times are numbers: 80556.875 is eight in the morning, and as text it would come after 213014.531."""
    priors = {item.study.study_id: item.study.prior_study_id for item in read_source(jpg).studies}
    assert priors == {
        "s53189527": None,
        "s50414267": "s53189527",
        "s51911762": "s50414267",
        "s57375967": None,
        "s58000001": None,
    }


def test_studies_of_one_time_are_not_each_others_prior(tmp_path):
    write_jpg(tmp_path, changed(0, time="80556.875"))
    priors = {item.study.study_id: item.study.prior_study_id for item in read_source(config_of(tmp_path)).studies}
    assert priors["s50414267"] is None and priors["s53189527"] is None
    assert priors["s51911762"] in ("s50414267", "s53189527")


def test_a_study_without_a_date_has_no_prior_and_is_none(tmp_path):
    write_jpg(tmp_path, changed(0, date=""))
    priors = {item.study.study_id: item.study.prior_study_id for item in read_source(config_of(tmp_path)).studies}
    assert priors["s50414267"] is None and priors["s51911762"] == "s53189527"


def config_of(path, **settings):
    return MimicJpgStudies(path=str(path), size_px=32, **settings)


def test_gzip_or_not_zip_or_folder_give_the_same(jpg, tmp_path):
    write_jpg(tmp_path / "plain", gz=False)
    write_reports(tmp_path / "texts" / "mimic-cxr-reports")
    expected = [item.study for item in read_source(jpg).studies]
    for reports in ("texts", "texts/mimic-cxr-reports", "texts/mimic-cxr-reports/files", "mimic-cxr"):
        plain = config_of(tmp_path / "plain", reports_path=str(tmp_path / reports))
        assert [item.study for item in read_source(plain).studies] == expected


def test_a_table_that_was_unpacked_under_its_old_name_is_read(tmp_path):
    write_jpg(tmp_path, gz=False)
    for path in tmp_path.glob("*.csv"):
        path.rename(path.with_name(path.name + ".gz"))
    assert len(read_source(config_of(tmp_path)).studies) == 5


def test_without_reports_there_are_images_and_labels(tmp_path):
    write_jpg(tmp_path)
    studies = [item.study for item in read_source(config_of(tmp_path)).studies]
    assert len(studies) == 5 and not any(study.report for study in studies)


def test_a_hash_splits_by_patient_and_needs_no_table(tmp_path):
    write_jpg(tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    studies = [item.study for item in read_source(config_of(tmp_path, split="hash", test_share=0.99)).studies]
    assert len({s.split for s in studies if s.patient_id == "p10000032"}) == 1
    assert Counter(study.split for study in studies)["test"] >= 3


def test_groups_read_a_part_without_missing_the_rest(jpg, tmp_path):
    for path in (tmp_path / "mimic-cxr-jpg" / "files" / "p11").rglob("*.jpg"):
        path.unlink()
    table = read_source(jpg.model_copy(update={"groups": ("p10",)}))
    assert len(table.studies) == 4 and table.left_out == [] and table.counts["images_outside_groups"] == 1


@pytest.mark.parametrize("views_from", ["metadata", "dicom"])
def test_the_dicom_set_gives_the_same_studies(jpg, tmp_path, views_from):
    write_reports(write_dicom(tmp_path / "mimic-cxr"))
    config = MimicDicomStudies(
        path=str(tmp_path / "mimic-cxr"),
        tables_path=str(tmp_path / "mimic-cxr-jpg"),
        labels="chexpert",
        views_from=views_from,
        size_px=32,
    )
    expected, _ = build(jpg, tmp_path / "from_jpg")
    studies, _ = build(config, tmp_path / "from_dicom")
    assert same_but_images(studies.values()) == same_but_images(expected.values())
    first = studies["s50414267"].images[0]
    assert first.image_path.endswith(f"s50414267/{EXAMS[0].dicom_id(1)}.dcm") and first.view_position == "PA"


def test_the_dicom_set_stands_alone(tmp_path):
    write_reports(write_dicom(tmp_path))
    config = MimicDicomStudies(path=str(tmp_path), split="hash", views_from="dicom", size_px=32)
    assert len(read_source(config).studies) == 5


def test_combined_with_another_source(jpg, tmp_path):
    write_jpg(tmp_path / "other", [EXAMS[4]])
    config = CombinedStudies(sources=(jpg.model_copy(update={"groups": ("p10",)}), config_of(tmp_path / "other")))
    studies, counts = build(config, tmp_path / "studies")
    assert len(studies) == 5 and counts["studies_test"] == 1


def test_from_the_directory_to_a_batch(jpg, tmp_path):
    """The studies stage, the labels stage, targets, collator: what a training step on reports and labels is given."""
    folders = {name: tmp_path / "run" / name for name in ("studies", "labels")}
    studies, _ = build(jpg, folders["studies"])
    with open_stage(folders["labels"], stage="labels", config=RulesLabelerConfig()) as stage:
        build_labels(stage, RulesLabelerConfig(), folders["studies"])
    train = store.load_studies(folders["studies"], "train")
    tokenizer = train_tokenizer([study.report for study in studies.values()] * 2, 320)
    arm = ArmConfig(label_source="explicit", terms=("report", "label"))
    targets = build_targets(
        train,
        arm,
        DistillationConfig(),
        tokenizer,
        labels_dir=folders["labels"],
        rationales_dir=tmp_path / "no_rationales",
        seed=0,
        count=lambda name, n: None,
    )
    images = store.load_images(folders["studies"])
    batch = Collator(images, targets, KDistillConfig(image_size_px=32), 4)([Visit(n) for n in range(3)])
    assert tuple(batch["pixel_values"].shape) == (3, 1, 32, 32)
    # Columns of the data set: effusion stated, pneumonia denied, edema uncertain (counted as positive).
    stated = batch["label_targets"][0, [INDEX[name] for name in ("Pleural Effusion", "Pneumonia", "Edema")]]
    assert stated.tolist() == [1.0, 0.0, 1.0]
    assert batch["label_targets"][1, INDEX["No Finding"]] == 1.0
    row = batch["report"][0]["image_index"].tolist().index(0)
    tokens = [t for t in batch["report"][0]["input_ids"][row].tolist() if t]
    assert "small left pleural effusion" in tokenizer.decode(tokens)
    expected = (images[train[0].images[0].row].astype(np.float32) / 255 - 0.45) / 0.25
    # float32 of two orders of the same operations; the largest difference seen is 2.4e-7.
    assert np.allclose(batch["pixel_values"][0, 0].numpy(), expected, atol=1e-6)


def recipe_with(tmp_path, config):
    student = {"image_size_px": 32, "hidden_size": 32, "pooled_patch_grid": 2}
    return write_recipe(tmp_path / "r.yaml", studies=config.model_dump(mode="json"), student=student)


def test_a_recipe_names_it_and_data_check_reads_it(jpg, tmp_path):
    recipe = recipe_with(tmp_path, jpg)
    checked = check_data(str(recipe)).found
    assert checked.counts["studies"] == 5 and checked.counts["images"] == 7 and not checked.leaks
    assert checked.counts["studies_without_label_row"] == 1 and checked.counts["view PA"] == 3


def test_the_stage_is_made_again_when_tables_or_patients_change(jpg, tmp_path):
    def made_from():
        recipe = load_recipe(str(recipe_with(tmp_path, jpg)))
        return json.dumps(base_stages(recipe, RunFolder(tmp_path / "run"))[0].config["files"])

    before = made_from()
    image = tmp_path / "mimic-cxr-jpg" / EXAMS[0].folder / "new.jpg"
    image.write_bytes(b"x")
    assert made_from() == before  # the images are not walked
    (tmp_path / "mimic-cxr-jpg" / "files" / "p10" / "p10000999").mkdir()
    patients = made_from()
    assert patients != before
    write_tables(tmp_path / "mimic-cxr-jpg", changed(0, views=("LATERAL", "AP")))
    tables = made_from()
    assert tables != patients
    write_archive(tmp_path / "mimic-cxr" / "mimic-cxr-reports.zip", changed(0, report=CLEAR))
    assert made_from() != tables
    (tmp_path / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    made_from()  # a missing table is named when the stage is made


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["teacher={kind: lora, model: PATH_TO/a_causal_language_model, training: {steps: 2000}}"],
        ["student.vision={kind: transformers, path: PATH_TO/an_encoder, lora: {rank: 16}}"],
        ["student.language={kind: transformers, path: PATH_TO/llm, lora: {rank: 16}}", "distillation.weights.token=0"],
        ["studies.kind=mimic_cxr", "studies.tables_path=PATH_TO/mimic-cxr-jpg/2.1.0"],
    ],
)
def test_the_shipped_recipe_and_its_comments_parse(overrides):
    recipe = load_recipe("mimic_cxr", overrides)
    assert recipe.studies.kind == ("mimic_cxr" if "studies.kind=mimic_cxr" in overrides else "mimic_cxr_jpg")
    with pytest.raises(InputError, match="is missing"):  # the placeholders are no paths
        read_source(recipe.studies)
