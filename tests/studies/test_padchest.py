"""PadChest from directory to batch: the table as the authors describe it, 16-bit PNG in numbered folders."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from kdistill.errors import InputError
from kdistill.observations import FINDINGS, INDEX, OBSERVATIONS
from kdistill.studies import store
from kdistill.studies.config import PadChestStudies
from kdistill.studies.sources.padchest import TABLES, read_padchest
from kdistill.studies.sources.padchest_labels import STATED, UNSURE, columns_of, parse_labels
from kdistill.studies.sources.read import read_source

from .batches import SIZE, first_batch, publish

#: All columns of the table in the README's order, behind the unnamed row number.
HEADER = [
    *("", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM"),
    *("ReportID", "Report", "MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence"),
]
ROWS = [
    {"ImageID": "a1.png", "StudyID": "s1", "PatientID": "p1", "Labels": "['cardiomegaly', ' pleural effusion']"},
    {"ImageID": "a2.png", "StudyID": "s1", "PatientID": "p1", "Projection": "L", "ImageDir": "7"},
    {
        **{"ImageID": "b.png", "StudyID": "s2", "PatientID": "p1", "Labels": "['normal']"},
        "StudyDate_DICOM": "20150301",
        "MethodLabel": "RNN_model",
    },
    {
        "ImageID": "c.png",
        "StudyID": "s3",
        "PatientID": "p2",
        "Labels": "['pneumonia', '']",
        "Projection": "AP_horizontal",
    },
    {"ImageID": "d.png", "StudyID": "s4", "PatientID": "p3", "Pediatric": "PED"},
    {"ImageID": "e.png", "StudyID": "s5", "PatientID": "p4", "Projection": "COSTAL"},
    {"ImageID": "f.png", "StudyID": "s6", "PatientID": "p5", "Projection": "EXCLUDE"},
    {"ImageID": "g.png", "StudyID": "s7", "PatientID": "p6", "Labels": "['exclude']"},
    {"ImageID": "h.png", "StudyID": "s8", "PatientID": "p7", "Labels": "['suboptimal study', 'cardiomegaly']"},
    {"ImageID": "i.png", "StudyID": "s9", "PatientID": "p8", "Labels": "nan"},
    {"ImageID": "j.png", "StudyID": "s10", "PatientID": "p9", "Labels": "['unchanged']"},
    {"ImageID": "k.png", "StudyID": "s11", "PatientID": "p10", "Projection": "L", "Labels": "['normal']"},
]
DEFAULTS = {
    **{"ImageDir": "0", "StudyDate_DICOM": "20140131", "PatientBirth": "1950.0", "PatientSex_DICOM": "F"},
    **{"Projection": "PA", "MethodProjection": "Manual review of DICOM fields", "Pediatric": "No"},
    **{"Report": "siluet cardiac aument . derram pleural .", "MethodLabel": "Physician"},
    "Labels": "['cardiomegaly', ' pleural effusion']",
}


@pytest.fixture
def padchest(tmp_path):
    """Writes the table and the images that it names."""

    def write(rows=ROWS, *, header=HEADER, name=TABLES[0]):
        data = tmp_path / "padchest"
        data.mkdir(exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, header, extrasaction="ignore", restval="")
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({"": str(number), **DEFAULTS, **row})
        table = text.getvalue().encode()
        (data / name).write_bytes(gzip.compress(table) if name.endswith(".gz") else table)
        for number, row in enumerate(rows):
            if ".." in row["ImageID"]:
                continue
            path = data / row.get("ImageDir", "0") / row["ImageID"]
            path.parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 65535, (44, 40)).astype(np.uint16)
            Image.fromarray(pixels).save(path)
        return data

    return write


def config(data, **more):
    return PadChestStudies(path=str(data), size_px=SIZE, **more)


def test_rows_become_studies_and_what_is_left_out_is_counted(padchest, tmp_path):
    out, counts = publish(config(padchest()), tmp_path / "run")
    studies = store.load_studies(out)
    assert [s.study_id for s in studies] == ["padchest-s1", "padchest-s2", "padchest-s3"]
    first, second, third = studies
    assert [i.image_path for i in first.images] == ["0/a1.png", "7/a2.png"]
    assert [i.view_position for i in first.images] == ["PA", "LATERAL"] and third.view_position == "AP_horizontal"
    assert (first.sex, first.age, second.age) == ("F", 64.0, 65.0)
    assert (first.prior_study_id, second.prior_study_id, third.prior_study_id) == (None, "padchest-s1", None)
    assert first.split == second.split and first.findings == "" and first.report == ""
    rejected = {name.removeprefix("rejected_"): n for name, n in counts.items() if name.startswith("rejected_")}
    assert rejected == {
        **{"paediatric": 1, "projection_costal": 1, "projection_exclude": 1, "label_exclude": 1, "no_labels": 1},
        **{"label_suboptimal_study": 1, "only_unchanged": 1, "no_frontal_image": 1},
    }
    assert counts["spanish_reports_left_out"] == 4


def test_from_directory_to_batch(padchest, tmp_path):
    batch = first_batch(config(padchest(name=TABLES[1]), validate_share=0, test_share=0), tmp_path / "run")
    assert batch["pixel_values"].shape == (3, 1, SIZE, SIZE) and batch["report"] == []
    labels = batch["label_targets"].numpy()
    heart, effusion, opacity = INDEX["Cardiomegaly"], INDEX["Pleural Effusion"], INDEX["Lung Opacity"]
    assert labels[0, heart] == labels[0, effusion] == 1 and labels[1, heart] == 0
    assert labels[1, INDEX["No Finding"]] == 1 and labels[2, INDEX["Pneumonia"]] == 1
    assert np.isnan(labels[2, opacity]) and labels[0, opacity] == 0  # a pneumonia leaves the opacity open
    # 16-bit grey over its whole range: noise lands around the middle and is not clipped to white.
    assert abs(float(batch["pixel_values"].mean()) * 0.25 + 0.45 - 0.5 * 40 / 44) < 0.05


def test_options(padchest):
    data = padchest()
    assert len(read_source(config(data, paediatric="keep")).studies) == 4
    physician = read_source(config(data, labelled_by="physician"))
    assert len(physician.studies) == 2
    assert "not_labelled_by_a_physician" in {reason for _, reason in physician.left_out}
    spanish = read_source(config(data, spanish_report="findings"))
    assert spanish.studies[0].study.findings.startswith("siluet") and spanish.counts["spanish_reports_left_out"] == 0


def test_images_may_lie_in_one_folder(padchest):
    data = padchest()
    (data / "images").mkdir()
    table = read_padchest(config(data, images="images"))
    assert table.studies[0].images[0].path == data / "images" / "a1.png"


def test_mistakes_are_named_with_their_lines(padchest):
    rows = [
        ROWS[0],
        {**ROWS[0], "ImageID": "x.png", "PatientID": "other"},
        {**ROWS[0], "ImageID": "../../etc/passwd"},
        {**ROWS[0], "ImageDir": ".."},
        {**ROWS[0], "Labels": "__import__('os').system('true')"},
        {**ROWS[0], "PatientID": ""},
    ]
    with pytest.raises(InputError) as caught:
        read_padchest(config(padchest(rows)))
    text = str(caught.value)
    for part in (
        "line 3: the study stands above with another patient",
        "line 4: ImageID or ImageDir is a path",
        "line 5: ImageID or ImageDir is a path",
        "line 6: Labels is no list of labels",
        "line 7: ImageID, StudyID and PatientID",
    ):
        assert part in text
    assert "other" not in text.replace("another", "")


def test_a_missing_table_or_column_is_named(padchest, tmp_path):
    with pytest.raises(InputError, match=r"no PadChest table.*\n.*160K_01.02.19.csv"):
        read_padchest(config(tmp_path))
    with pytest.raises(InputError, match="column Projection is missing"):
        read_padchest(config(padchest(header=[name for name in HEADER if name != "Projection"])))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", None),
        ("nan", None),
        ("[]", set()),
        ("['']", set()),
        (
            "['Pleural effusion', \"apical pleural thickening\" , ' mass ']",
            {"pleural effusion", "apical pleural thickening", "mass"},
        ),
    ],
)
def test_lists_of_labels(text, labels):
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    "text", ["['a'", "'a'", "['a' 'b']", "[1]", "['a', f()]", "[" * 5000, "['" + "a" * 20_000 + "']"]
)
def test_what_is_no_list_of_labels_is_refused(text):
    with pytest.raises(ValueError, match="is no list of labels"):
        parse_labels(text)


def test_what_labels_leave_open_is_no_zero():
    assert columns_of({"heart insufficiency"})["Edema"] is None
    assert columns_of({"costophrenic angle blunting"})["Pleural Effusion"] is None
    both = columns_of({"cardiomegaly", "unchanged"})
    assert both["Cardiomegaly"] == 1 and all(both[name] is None for name in FINDINGS if name != "Cardiomegaly")
    assert columns_of({"normal"}) == {name: int(name == "No Finding") for name in OBSERVATIONS}
    assert columns_of({"scoliosis"})["No Finding"] is None


def test_no_label_states_an_observation_and_leaves_it_open():
    for name, words in STATED.items():
        assert len(set(words)) == len(words) and not set(words) & set(UNSURE.get(name, ()))
    assert set(STATED) == set(FINDINGS) and set(UNSURE) <= set(FINDINGS)


@pytest.mark.parametrize("images", ["..", "/etc", "a/../../b"])
def test_images_outside_the_data_set_are_refused_by_the_recipe(tmp_path, images):
    with pytest.raises(ValidationError, match="must lie below"):
        config(tmp_path, images=images)
