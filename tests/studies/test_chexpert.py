"""CheXpert in its exact layout with content of our own, from directory to batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdistill.errors import InputError, PolicyError
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.studies.config import CheXpertStudies
from kdistill.studies.sources.read import read_source
from kdistill.studies.table import split_of

from .batches import SIZE, batch_of, build, draw, write_csv

#: The tables' own order of the observations, which is not the labeler's.
COLUMNS = [
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
]
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]


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
        "valid.csv line 2: Fracture: label is not",
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
