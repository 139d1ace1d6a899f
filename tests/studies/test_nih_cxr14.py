"""NIH ChestX-ray14 in its official layout, content of our own: from directory to batch; boxes for evaluation only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdistill.audit.material import TextReader, load_cases
from kdistill.errors import InputError, PolicyError
from kdistill.evaluation.cohort import load_cohort, load_reference
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX
from kdistill.pipeline.report_cases import load_known
from kdistill.pipeline.stages import fingerprint
from kdistill.studies import store
from kdistill.studies.config import NihStudies
from kdistill.studies.sources.nih_cxr14 import read_nih
from kdistill.studies.table import split_of
from kdistill.studies.totals import Totals, totals, totals_lines

from .batches import SIZE, batch_of, build, draw

#: The release of 2017 ends every line in a comma.
HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_2020 = HEADER_2017.removesuffix(",").replace("Patient Gender", "Patient Sex")
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
#: (image, labels, folder); the patients of the first three are in the official training list.
FILMS = [
    ("00000001_000.png", "Cardiomegaly|Emphysema", "images_001/images"),
    ("00000001_001.png", "No Finding", "images_001/images"),
    ("00000002_000.png", "Mass", "images_002/images"),
    ("00000003_000.png", "Effusion|Infiltration", "images_012/images"),
    ("00000003_001.png", "Pneumonia|Fibrosis", "images"),
]


def line(image: str, labels: str, end: str = ",") -> str:
    patient = int(image.split("_")[0])
    return f"{image},{labels},0,{patient},058Y,M,PA,2682,2749,0.143,0.143{end}"


@pytest.fixture
def nih(tmp_path):
    """Writes a release; films of patients 1 and 2 stand in the training list, the others in the test list."""

    def write(films=FILMS, *, table="Data_Entry_2017.csv", newline="\n", boxes=(), side_px=1024) -> Path:
        root = tmp_path / "nih"
        root.mkdir(exist_ok=True)
        end, header = (",", HEADER_2017) if table == "Data_Entry_2017.csv" else ("", HEADER_2020)
        lines = [header, *(line(image, labels, end) for image, labels, _ in films)]
        (root / table).write_text(newline.join(lines) + newline, newline="")
        trained = [image for image, *_ in films if image.startswith(("00000001", "00000002"))]
        (root / "train_val_list.txt").write_text(newline.join(trained) + newline, newline="")
        tested = [image for image, *_ in films if image not in trained]
        (root / "test_list.txt").write_text(newline.join(tested), newline="")
        for seed, (image, _, folder) in enumerate(films):
            draw(root / folder / image, seed, size=(side_px, side_px))
        if boxes:
            (root / "BBox_List_2017.csv").write_text("\n".join([BOX_HEADER, *boxes]) + "\n")
        return root

    return write


def config(root: Path, **more) -> NihStudies:
    return NihStudies(path=str(root), size_px=SIZE, **{"validate_share": 0.0, **more})


@pytest.mark.parametrize("table", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_official_layout_from_directory_to_batch(nih, tmp_path, table):
    built = build(config(nih(table=table, side_px=64)), tmp_path)
    assert {study.study_id: study.split for study in built.studies.values()} == {
        **dict.fromkeys(["nih-00000001_000", "nih-00000001_001", "nih-00000002_000"], "train"),
        **dict.fromkeys(["nih-00000003_000", "nih-00000003_001"], "test"),
    }
    first, mass = built.studies["nih-00000001_000"], built.studies["nih-00000002_000"]
    assert (first.sex, first.age, first.view_position, first.patient_id) == ("M", 58, "PA", "nih-1")
    assert first.labels is not None and mass.labels is not None
    assert (first.labels["Cardiomegaly"], first.labels["Edema"], first.labels["No Finding"]) == (1, 0, None)
    assert not {"Enlarged Cardiomediastinum", "Fracture", "Support Devices"} & set(first.labels)
    # A mass is an opacity: the label's absence does not deny it. A pneumonia need not be called a consolidation.
    assert (mass.labels["Lung Lesion"], mass.labels["Lung Opacity"]) == (1, None)
    pneumonia = built.studies["nih-00000003_001"].labels
    assert pneumonia is not None
    assert (pneumonia["Pneumonia"], pneumonia["Consolidation"], pneumonia["Lung Opacity"]) == (1, None, None)
    batch = batch_of(built, tmp_path)
    assert batch["pixel_values"].shape == (3, 1, SIZE, SIZE)
    assert batch["label_targets"][:, INDEX["Cardiomegaly"]].tolist() == [1, 0, 0]
    assert torch.isnan(batch["label_targets"][:, INDEX["Fracture"]]).all()
    assert batch["label_targets"][1, INDEX["No Finding"]] == 1


def test_official_lists_leave_validation_to_the_patient_hash(nih):
    films = [(f"0000000{1 + n % 2}_{n:03d}.png", "No Finding", "images") for n in range(4)]
    found = {
        i.study.patient_id: i.study.split for i in read_nih(config(nih(films, side_px=40), validate_share=0.6)).studies
    }
    assert found == {name: split_of(name, validate_share=0.6, test_share=0) for name in ("nih-1", "nih-2")}
    by_hash = read_nih(config(nih(side_px=40), split="hash", test_share=0.5))
    assert all(i.study.split == split_of(i.study.patient_id, validate_share=0, test_share=0.5) for i in by_hash.studies)


def test_a_folder_with_labels_csv_stays_as_it_was(tmp_path):
    draw(tmp_path / "films" / "a.jpg", 1)
    (tmp_path / "labels.csv").write_text(
        "image,Image Index,Finding Labels,Patient ID\nfilms/a.jpg,00000002_000.png,Mass,2\n"
    )
    (item,) = read_nih(config(tmp_path, test_share=1 - 1e-9)).studies
    assert item.study.split == "test" and item.images[0].path == tmp_path / "films" / "a.jpg"
    assert item.study.labels is not None and item.study.labels["Lung Opacity"] == 0
    with pytest.raises(InputError, match=r"train_val_list\.txt: cannot be read"):
        read_nih(config(tmp_path, split="official"))


def test_bom_and_crlf_are_welcome(nih):
    plain = [item.study for item in read_nih(config(nih(side_px=40))).studies]
    root = nih(side_px=40, newline="\r\n")
    for name in ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"):
        (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    assert [item.study for item in read_nih(config(root)).studies] == plain


def test_all_mistakes_of_the_table_at_once(nih):
    films = [
        ("00000001_000.png", "Cardiomegaly|Tuberculosis", "images"),
        ("00000001_001.png", "Edema", "images"),
        ("00000001_001.png", "Edema", "images"),
        ("00000002_000.png", "No Finding|Edema", "images"),
        ("00000002_001.png", "", "images"),
    ]
    with pytest.raises(InputError) as caught:
        read_nih(config(nih(films, side_px=40)))
    for part in (
        "line 2: Finding Labels: Tuberculosis is no label",
        "line 4: the same Image Index",
        "line 5: Finding Labels: No Finding beside another",
        "line 6: Finding Labels:",
    ):
        assert part in str(caught.value)


def test_lists_that_share_an_image_or_a_patient_are_refused(nih):
    root = nih(side_px=40)
    (root / "test_list.txt").write_text("00000003_000.png\n00000002_000.png\n")
    with pytest.raises(InputError, match=r"test_list.txt.*\n.*line 2: the image stands in train_val_list.txt too"):
        read_nih(config(root))
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n")
    (root / "test_list.txt").write_text("00000001_001.png\n")
    with pytest.raises(PolicyError, match="1 patients stand in more than one split"):
        read_nih(config(root))


def test_images_in_no_list_or_not_here_are_counted(nih, tmp_path):
    root = nih(side_px=40)
    (root / "test_list.txt").write_text("00000003_000.png\n")
    (root / "images_012/images/00000003_000.png").unlink()
    built = build(config(root, max_rejected_share=0.5), tmp_path)
    assert built.counts == {
        "rejected_in_neither_official_list": 1,
        "rejected_image_unusable": 1,
        "rejected_study_without_image": 1,
        "studies_train": 3,
    }


BOXES = [
    "00000003_000.png,Effusion,256,512,128,64,,,",
    "00000003_000.png,Effusion,0,0,64,64,,,",
    "00000003_001.png,Pneumonia,512,0,512,1024,,,",
    "00000001_000.png,Cardiomegaly,1,1,9,9,,,",
    "00000003_001.png,Hernia,1,1,9,9,,,",
]


@pytest.mark.parametrize("side_px", [1024, 128])
def test_boxes_of_test_films_become_regions_for_evaluation_only(nih, tmp_path, side_px):
    built = build(config(nih(boxes=BOXES, side_px=side_px)), tmp_path)
    truth, masks = store.load_truth(built.dir), store.load_masks(built.dir)
    assert truth is not None and masks is not None
    assert {name: sorted(line.masks) for name, line in truth.items()} == {
        "nih-00000003_000": ["Pleural Effusion"],
        "nih-00000003_001": ["Pneumonia"],
    }
    expected = np.zeros((SIZE, SIZE), dtype=np.uint8)
    expected[16:18, 8:12] = 1  # 1024 pixels of the original are 32 here
    expected[0:2, 0:2] = 1
    assert np.array_equal(masks[truth["nih-00000003_000"].masks["Pleural Effusion"]], expected)
    half = masks[truth["nih-00000003_001"].masks["Pneumonia"]]
    assert half[:, 16:].all() and not half[:, :16].any()
    assert "mask" not in (built.dir / "studies.jsonl").read_text()


def test_regions_alone_are_no_truth_to_score_against(nih, tmp_path):
    built = build(config(nih(boxes=BOXES)), tmp_path)
    cases = load_cases(built.dir)
    assert len(cases.truth) == len(cases.studies) == 2 and cases.truth_matrix() is None
    cohort = load_cohort(built.dir, "test")
    assert load_reference("truth", cohort, built.dir, tmp_path, RuleLabeler()) is None
    found = load_reference("labels", cohort, built.dir, tmp_path, RuleLabeler())
    assert found is not None and found[0].states[0, INDEX["Pleural Effusion"]] == 1
    known, source = load_known(tmp_path, cohort.studies, TextReader())
    assert source != "ground truth" and known["nih-00000003_000"] == {"Pleural Effusion", "Lung Opacity"}


def test_a_box_table_with_mistakes_is_refused_with_lines(nih):
    root = nih(side_px=40, boxes=[*BOXES, "00000003_001.png,Mass,a,1,1,1,,,"])
    with pytest.raises(InputError, match="line 7: is no image of NIH with four numbers"):
        read_nih(config(root))


def test_a_changed_list_changes_the_fingerprint(nih):
    root = nih(side_px=40)
    before = fingerprint([str(root)])
    (root / "test_list.txt").write_text((root / "test_list.txt").read_text().replace("3_000", "4_000"))
    assert fingerprint([str(root)]) != before


def test_totals_count_every_state_by_split(nih):
    studies = [item.study for item in read_nih(config(nih(side_px=40))).studies]
    found = totals([*studies, studies[0].model_copy(update={"labels": {"Edema": -1}})])
    assert list(found) == ["train", "test"]
    assert found["train"]["Cardiomegaly"] == Totals(positive=1, negative=2, uncertain=0, unknown=1)
    assert found["train"]["Edema"] == Totals(negative=3, uncertain=1)
    assert found["train"]["No Finding"] == Totals(positive=1, unknown=3)
    assert found["test"]["Fracture"] == Totals(unknown=2)
    assert all(sum(counts) == {"train": 4, "test": 2}[split] for split in found for counts in found[split].values())
    lines = totals_lines(found)
    assert len(lines) == 2 * 15 and lines[3].split() == ["Cardiomegaly", "1", "2", "0", "1"]
