"""VinDr-CXR from directory to batch: both layouts, votes of readers, and boxes that become evaluation-only masks."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from kdistill.errors import InputError
from kdistill.observations import INDEX
from kdistill.studies import store
from kdistill.studies.config import VinDrCxrStudies
from kdistill.studies.images import box_mask, to_square
from kdistill.studies.sources.read import read_source
from kdistill.studies.sources.vindr_cxr import read_vindr_cxr
from kdistill.studies.sources.vindr_votes import tally

from .batches import SIZE, first_batch, publish
from .test_dicom import dicom

#: Local labels, then global ones, in the order of image_labels_train.csv; the test table says "Other disease".
LABELS = [
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
]
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
HEIGHT, WIDTH = 80, 60
#: image -> reader -> labels that the reader marks.
TRAIN = {
    "aa": {"R1": ["Cardiomegaly", "Pneumonia"], "R2": ["Cardiomegaly"], "R3": ["No finding"]},
    "bb": {"R8": ["No finding"], "R9": ["No finding"], "R10": ["No finding"]},
    "cc": {"R1": ["ILD"], "R2": ["ILD", "Rib fracture"], "R3": ["ILD", "Clavicle fracture"]},
}
TEST = {"tt": ["Pleural effusion", "Aortic enlargement"], "uu": ["No finding"]}
TEST_BOXES = [
    ["tt", "Pleural effusion", 30.0, 60.0, 60.0, 80.0],
    ["tt", "Pleural effusion", 0.0, 70.0, 6.0, 80.0],
    ["tt", "Aortic enlargement", 20, 10, 40, 30],
    ["uu", "No finding", "", "", "", ""],
]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def film(path, number, ending=".dicom"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 4095, (HEIGHT, WIDTH))
    if ending == ".dicom":
        path.with_suffix(ending).write_bytes(dicom(pixels, PhotometricInterpretation="MONOCHROME1"))
    else:
        Image.fromarray((pixels // 16).astype(np.uint8)).save(path.with_suffix(ending))


def physionet(data, *, test_boxes=TEST_BOXES, ending=".dicom"):
    """train/, test/ and the four tables of annotations/."""
    tables = data / "annotations"
    rows = [
        [i, r, *(int(n in marked) for n in LABELS)] for i, readers in TRAIN.items() for r, marked in readers.items()
    ]
    write_csv(tables / "image_labels_train.csv", ["image_id", "rad_id", *LABELS], rows)
    names = ["Other disease" if name == "Other diseases" else name for name in LABELS]
    write_csv(
        tables / "image_labels_test.csv",
        ["image_id", *names],
        [[i, *(int(n in marked) for n in LABELS)] for i, marked in TEST.items()],
    )
    write_csv(tables / "annotations_train.csv", ["image_id", "rad_id", "class_name", *CORNERS], [])
    write_csv(tables / "annotations_test.csv", ["image_id", "class_name", *CORNERS], test_boxes)
    for number, name in enumerate([*TRAIN, *TEST]):
        film(data / ("train" if name in TRAIN else "test") / name, number, ending)
    return data


def kaggle(data, images=60):
    """train/ and train.csv: a row a box, or a reader's "No finding"."""
    rows = []
    for number in range(images):
        film(data / "train" / f"k{number}", number)
        for reader in ("R8", "R9", "R10"):
            sick = number % 2 and reader != "R10"
            box = [6.0, 8.0, 30.0, 40.0] if sick else [""] * 4
            rows.append([f"k{number}", "Consolidation" if sick else "No finding", 4 if sick else 14, reader, *box])
    write_csv(data / "train.csv", ["image_id", "class_name", "class_id", "rad_id", *CORNERS], rows)
    return data


def config(data, **more):
    return VinDrCxrStudies(path=str(data), size_px=SIZE, **more)


@pytest.mark.parametrize(
    ("vote", "heart", "pneumonia", "fracture"),
    [("majority", 1, 0, 1), ("any", 1, 1, 1), ("all", 0, 0, 0), ("unanimous", -1, -1, -1)],
)
def test_three_readers_vote(tmp_path, vote, heart, pneumonia, fracture):
    studies = [item.study for item in read_source(config(physionet(tmp_path), vote=vote, validate_share=0)).studies]
    first, second, third = studies[:3]
    assert first.labels is not None and third.labels is not None and second.labels is not None
    assert (first.labels["Cardiomegaly"], first.labels["Pneumonia"]) == (heart, pneumonia)
    assert third.labels["Fracture"] == fracture  # two readers, two kinds of fracture
    assert second.labels["No Finding"] == 1 and first.labels["No Finding"] is None
    assert third.labels["Lung Opacity"] is None and second.labels["Lung Opacity"] == 0
    assert not {"Enlarged Cardiomediastinum", "Support Devices"} & set(first.labels)


def test_votes_of_other_numbers_of_readers():
    assert [tally(1, 2, vote) for vote in ("majority", "any", "all", "unanimous")] == [-1, 1, 0, -1]
    assert [tally(k, 1, vote) for k in (0, 1) for vote in ("majority", "any", "all", "unanimous")] == [0] * 4 + [1] * 4


def test_the_official_test_set_is_truth_and_never_a_label(tmp_path):
    out, counts = publish(config(physionet(tmp_path / "v"), validate_share=0), tmp_path / "run")
    studies = {study.study_id: study for study in store.load_studies(out)}
    assert [s.split for s in studies.values()] == ["train"] * 3 + ["test"] * 2
    assert studies["vindr-tt"].labels is None and studies["vindr-tt"].view_position == "PA"
    assert len({s.patient_id for s in studies.values()}) == 5
    truth = store.load_truth(out)
    assert truth is not None and set(truth) == {"vindr-tt", "vindr-uu"}
    assert truth["vindr-tt"].truth["Pleural Effusion"] == 1 and truth["vindr-tt"].truth["No Finding"] == 0
    assert truth["vindr-uu"].truth["No Finding"] == 1 and truth["vindr-uu"].truth["Edema"] == 0
    assert "Support Devices" not in truth["vindr-uu"].truth
    assert truth["vindr-tt"].masks == {"Pleural Effusion": 0} and truth["vindr-uu"].masks == {}
    assert counts["boxes_left_out_beside_copies"] == 0 and "boxes_outside_the_image" not in counts


def test_boxes_are_drawn_where_the_square_image_has_them(tmp_path):
    out, _ = publish(config(physionet(tmp_path / "v")), tmp_path / "run")
    masks = store.load_masks(out)
    assert masks is not None and masks.shape == (1, SIZE, SIZE)
    # 60 x 80 pixels become 24 x 32: columns 4 to 27. The boxes are the right half of the last quarter, and a corner.
    expected = np.zeros((SIZE, SIZE), dtype=np.uint8)
    expected[24:32, 4 + 12 : 4 + 24] = 1
    expected[28:32, 4 : 4 + 3] = 1
    assert np.array_equal(masks[0], expected)


def test_a_mask_lies_where_to_square_puts_the_same_pixels():
    for height, width in ((90, 60), (60, 90), (64, 64), (37, 101)):
        pixels = np.zeros((height, width), dtype=np.float32)
        box = (width * 0.25, height * 0.5, width * 0.75, height * 0.9)
        pixels[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])] = 1
        drawn, shown = box_mask([box], (height, width), 32).astype(bool), to_square(pixels, 32) > 127
        # Rounding and the filter's edge move a border by one pixel at most.
        assert not (shown & ~_grown(drawn)).any() and not (drawn & ~_grown(shown)).any() and drawn.any()


def _grown(mask):
    padded = np.pad(mask, 1)
    rolled = [np.roll(padded, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.any(rolled, axis=0)[1:-1, 1:-1]


def test_a_box_smaller_than_a_pixel_is_still_seen():
    assert box_mask([(10.1, 10.1, 10.2, 10.2)], (1000, 1000), 32).sum() == 1
    assert box_mask([(999.5, 999.5, 1000.9, 1000.9)], (1000, 1000), 32)[31, 31] == 1
    assert box_mask([], (100, 100), 32).sum() == 0


def test_boxes_beside_converted_copies_are_not_used(tmp_path):
    out, counts = publish(config(physionet(tmp_path / "v", ending=".png")), tmp_path / "run")
    assert counts["boxes_left_out_beside_copies"] == 1 and store.load_masks(out) is None


def test_boxes_that_do_not_fit_their_image_are_counted(tmp_path):
    boxes = [["tt", "Pleural effusion", 30.0, 60.0, 2000.0, 2500.0]]
    out, counts = publish(config(physionet(tmp_path / "v", test_boxes=boxes)), tmp_path / "run")
    assert counts["boxes_outside_the_image"] == 1 and store.load_masks(out) is None


def test_from_directory_to_batch(tmp_path):
    batch = first_batch(config(physionet(tmp_path / "v"), validate_share=0), tmp_path / "run")
    assert batch["pixel_values"].shape == (3, 1, SIZE, SIZE) and batch["report"] == []
    labels = batch["label_targets"].numpy()
    assert labels[0, INDEX["Cardiomegaly"]] == 1 and labels[1, INDEX["Cardiomegaly"]] == 0
    assert np.isnan(labels[:, INDEX["Support Devices"]]).all() and np.isnan(labels[2, INDEX["Lung Opacity"]])


def test_the_kaggle_layout_is_split_by_hash_and_lacks_the_labels_that_it_lacks(tmp_path):
    out, _ = publish(config(kaggle(tmp_path / "k")), tmp_path / "run")
    studies, truth = store.load_studies(out), store.load_truth(out)
    assert {s.split for s in studies} == {"train", "validate", "test"} and truth is not None
    kept = next(s for s in studies if s.split == "train" and int(s.study_id.removeprefix("vindr-k")) % 2)
    assert kept.labels is not None and kept.labels["Consolidation"] == 1 and kept.labels["Lung Lesion"] == 0
    assert not {"Pneumonia", "Edema", "Fracture"} & set(kept.labels)
    sick = [t for t in truth.values() if t.truth["Consolidation"]]
    assert sick and all(set(t.masks) == {"Consolidation"} for t in sick)


def test_mistakes_are_named_with_their_lines(tmp_path):
    data = physionet(
        tmp_path, test_boxes=[["zz", "Edema", 1, 1, 2, 2], ["tt", "Edema", 5, 5, 5, 9], ["tt", "Edema", "x", 1, 2, 3]]
    )
    with pytest.raises(
        InputError, match=r"line 2: image_id is not in the table(.|\n)*line 3: the box is empty(.|\n)*line 4: x_min"
    ):
        read_vindr_cxr(config(data))
    path = data / "annotations" / "image_labels_train.csv"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, first, first, rest[0].replace(",1", ",2"), *rest]))
    with pytest.raises(InputError, match=r"line 3: the same reader(.|\n)*line 4: Cardiomegaly is not 0 or 1"):
        read_vindr_cxr(config(data))
    path.write_text("image_id,rad_id,No finding\n1,R1,1\n")
    with pytest.raises(InputError, match="column Atelectasis"):
        read_vindr_cxr(config(data))


def test_a_folder_that_is_neither_layout_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no copy of VinDr-CXR.*\n.*image_labels_train.csv"):
        read_vindr_cxr(config(tmp_path))
