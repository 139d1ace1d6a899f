"""FAULTS 21 to 24: tables with mistakes, images that are missing, leaks between splits, odd reports."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from kdistill.artifact import open_stage
from kdistill.errors import InputError, PolicyError
from kdistill.studies import store
from kdistill.studies.config import CombinedStudies, CovidNotesStudies, FolderStudies, NihStudies
from kdistill.studies.sources.covid_notes import read_covid_notes
from kdistill.studies.sources.folder import read_folder
from kdistill.studies.sources.nih_cxr14 import read_nih
from kdistill.studies.stage import build_studies
from kdistill.studies.table import split_of

COLUMNS = [
    "study_id",
    "patient_id",
    "image_path",
    "split",
    "findings",
    "impression",
    "Edema",
    "truth:Edema",
    "mask:Edema",
]


def film(seed, size=48):
    return np.random.default_rng(seed).integers(0, 255, (size, size), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Writes a data folder; rows are dicts, images follow their names unless `missing`."""

    def write(rows, *, columns=COLUMNS, bom=False, crlf=False, missing=(), pixels=None):
        (tmp_path / "images").mkdir(exist_ok=True)
        with (tmp_path / "studies.csv").open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\r\n" if crlf else "\n", restval="")
            writer.writeheader()
            writer.writerows(rows)
        for number, row in enumerate(rows):
            for name in (row.get("image_path"), row.get("mask:Edema")):
                if name and name not in missing and ".." not in name:
                    image = pixels[number] if pixels and name == row["image_path"] else film(number)
                    Image.fromarray(image).save(tmp_path / name)
        return FolderStudies(path=str(tmp_path), size_px=32)

    return write


def row(number, **more):
    return {"study_id": f"s{number}", "patient_id": f"p{number}", "image_path": f"images/{number}.png", **more}


def build(config, tmp_path):
    with open_stage(tmp_path / "out" / "studies", stage="studies", config=config) as stage:
        build_studies(stage, config)
    return tmp_path / "out" / "studies", dict(stage.counts)


def test_a_folder_becomes_studies_images_and_truth_apart(folder, tmp_path):
    rows = [
        row(1, split="train", findings="Edema.", Edema="1", **{"truth:Edema": "1"}),
        row(2, split="test", impression="Clear.", Edema="", **{"truth:Edema": "1", "mask:Edema": "images/m.png"}),
        row(3, split="validate", Edema="-1.0"),
    ]
    out, counts = build(folder(rows), tmp_path)
    studies = store.load_studies(out)
    assert [s.split for s in studies] == ["train", "test", "validate"]
    assert [s.labels for s in studies] == [{"Edema": 1}, {"Edema": None}, {"Edema": -1}]
    assert store.load_images(out).shape == (3, 32, 32)
    truth = store.load_truth(out)
    assert truth is not None and list(truth) == ["s2"] and truth["s2"].truth == {"Edema": 1}
    masks = store.load_masks(out)
    assert masks is not None and masks.shape == (1, 32, 32) and set(np.unique(masks)) <= {0, 1}
    assert counts == {"studies_train": 1, "studies_test": 1, "studies_validate": 1}
    assert "truth" not in (out / "studies.jsonl").read_text()


def test_bom_crlf_spaces_and_unicode_are_welcome(folder, tmp_path):
    rows = [{**row(1), "image_path": "images/Bild größe 1.png", "patient_id": "Å 1"}]
    out, _ = build(folder(rows, bom=True, crlf=True), tmp_path)
    assert store.load_studies(out)[0].patient_id == "Å 1"


def test_all_mistakes_of_a_table_are_named_with_their_lines(folder):
    rows = [
        row(1, Edema="2"),
        row(1),
        row(1, findings="other"),
        row(2, split="dev"),
        {**row(3), "patient_id": ""},
        {**row(4), "image_path": "../../etc/passwd"},
    ]
    rows[2]["image_path"] = "images/9.png"
    with pytest.raises(InputError) as caught:
        read_folder(folder(rows))
    text = str(caught.value)
    for part in (
        "line 2: Edema: label '2'",
        "line 5: split is not train",
        "line 6: study_id",
        "line 7: image_path leads out",
    ):
        assert part in text


def test_duplicate_and_contradicting_rows_of_a_study_are_named(folder):
    rows = [row(1), row(1), {**row(1, findings="x"), "image_path": "images/b.png"}]
    with pytest.raises(
        InputError, match=r"line 3: duplicate study.*\n.*line 4: the study stands above with another findings"
    ):
        read_folder(folder(rows))


def test_at_most_fifty_problems_are_listed(folder):
    with pytest.raises(InputError, match="and 10 more"):
        read_folder(folder([row(n, Edema="7") for n in range(60)]))


def test_a_missing_column_is_named_beside_those_that_exist(folder):
    config = folder([{"study_id": "1", "patient_id": "1"}], columns=["study_id", "patient_id"])
    with pytest.raises(InputError, match="image_path.*\n.*study_id, patient_id"):
        read_folder(config)


def test_ragged_rows_and_bad_bytes_are_named(tmp_path):
    table = tmp_path / "studies.csv"
    table.write_text("study_id,patient_id,image_path\na,b\n")
    with pytest.raises(InputError, match="line 2: 2 fields"):
        read_folder(FolderStudies(path=str(tmp_path)))
    table.write_bytes(b"study_id,patient_id,image_path\n\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_folder(FolderStudies(path=str(tmp_path)))


def test_several_images_make_one_study(folder, tmp_path):
    rows = [row(1), {**row(1), "image_path": "images/1b.png"}]
    out, _ = build(folder(rows), tmp_path)
    assert [image.row for image in store.load_studies(out)[0].images] == [0, 1]


def test_missing_and_unreadable_images_are_quarantined_and_counted(folder, tmp_path):
    config = folder([row(n) for n in range(30)], missing=("images/3.png",))
    out, counts = build(config, tmp_path)
    assert counts["rejected_image_unusable"] == 1 and len(store.load_studies(out)) == 29
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"item": "3.png", "reason": "image_unusable"}]


def test_too_many_missing_images_fail_the_run(folder, tmp_path):
    config = folder([row(n) for n in range(10)], missing=("images/3.png",))
    with pytest.raises(InputError, match="1 of 10 studies"):
        build(config, tmp_path)


def test_a_patient_in_two_splits_is_refused(folder):
    rows = [row(1, split="train"), {**row(2, split="test"), "patient_id": "p1"}]
    with pytest.raises(PolicyError, match="1 patients stand in more than one split") as caught:
        read_folder(folder(rows))
    assert caught.value.exit_code == 3


def test_equal_pixels_in_two_splits_are_refused(folder, tmp_path):
    rows = [row(1, split="train"), row(2, split="test")]
    with pytest.raises(PolicyError, match="equal pixels"):
        build(folder(rows, pixels=[film(0), film(0)]), tmp_path)


def test_the_split_is_a_function_of_the_patient_alone():
    shares = [split_of(f"patient {n}", validate_share=0.2, test_share=0.3) for n in range(4000)]
    # Three standard deviations of a binomial share at n = 4000 are 0.022.
    assert abs(shares.count("test") / 4000 - 0.3) < 0.025 and abs(shares.count("validate") / 4000 - 0.2) < 0.025


def test_nih_rows_are_mapped_where_it_is_sound(shared_data):
    table = read_nih(NihStudies(path=str(shared_data / "nih_cxr14_extra")))
    assert len(table.studies) == 88
    labels = table.studies[0].study.labels
    assert labels is not None and "Fracture" not in labels and "Support Devices" not in labels
    assert not any(item.study.report for item in table.studies)


def test_notes_about_a_ct_are_left_out(shared_data):
    table = read_covid_notes(CovidNotesStudies(path=str(shared_data / "covid_cxr_notes")))
    assert len(table.studies) + len(table.left_out) == 194
    assert not any("tomograph" in item.study.findings.lower() for item in table.studies)
    assert sum(reason == "note_describes_ct" for _, reason in table.left_out) >= 20


def test_combined_sources_share_no_patient(shared_data, tmp_path):
    config = CombinedStudies(
        sources=(
            NihStudies(path=str(shared_data / "nih_cxr14_extra"), size_px=32),
            CovidNotesStudies(path=str(shared_data / "covid_cxr_notes"), size_px=32),
        )
    )
    out, counts = build(config, tmp_path)
    studies = store.load_studies(out)
    assert {s.source for s in studies} == {"nih_cxr14_extra", "covid_cxr_notes"}
    patients = {}
    for study in studies:
        patients.setdefault(study.patient_id, set()).add(study.split)
    assert all(len(splits) == 1 for splits in patients.values())
    assert counts["rejected_note_describes_ct"] >= 20


def test_sources_whose_ids_meet_are_refused(tmp_path, folder):
    first = folder([row(n) for n in range(4)])
    twice = CombinedStudies(sources=(first, first.model_copy(update={"size_px": 32})))
    with (
        pytest.raises(InputError, match="stand for more than one study"),
        open_stage(tmp_path / "stage", stage="studies", config=twice) as stage,
    ):
        build_studies(stage, twice)


@pytest.mark.parametrize("age", ["nan", "inf", "old"])
def test_an_age_that_is_no_number_is_unknown(folder, age):
    table = read_folder(folder([{**row(0), "age": age}], columns=[*COLUMNS, "age"]))
    assert table.studies[0].study.age is None
