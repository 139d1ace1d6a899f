"""`data check`: leaks fail, everything else is said with its line; the page shows no id of a patient."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdistill.errors import ConfigError, InputError
from kdistill.observations import OBSERVATIONS
from kdistill.pipeline.data_check import check_data
from kdistill.pipeline.data_check_labels import shift_warnings, totals
from kdistill.pipeline.data_check_page import render_page
from kdistill.records import Study

from .tiny import kdistill

COLUMNS = ["study_id", "patient_id", "image_path", "split", "view_position", "report", "impression", *OBSERVATIONS]


def film(seed, size=96):
    coarse = Image.fromarray(np.random.default_rng(seed).random((16, 16)).astype(np.float32))
    return (np.clip(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)), 0, 1) * 255).astype(np.uint8)


def row(number, split="train", **more):
    patient = f"Patient-{number}-Mueller"
    return {"study_id": f"s{number}", "patient_id": patient, "image_path": f"i/{number}.png", "split": split, **more}


@pytest.fixture
def folder(tmp_path):
    """Writes studies.csv and a film for each row; `pixels` replaces films by the row's number, None leaves one out."""

    def write(rows, pixels=None):
        (tmp_path / "set" / "i").mkdir(parents=True)
        with (tmp_path / "set" / "studies.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        for number, cells in enumerate(rows):
            image = (pixels or {}).get(number, film(number))
            if image is not None:
                Image.fromarray(image).save(tmp_path / "set" / cells["image_path"])
        return str(tmp_path / "set")

    return write


def texts(found):
    return "\n".join([*found.leaks, *found.warnings])


def test_a_clean_set_has_no_leak_and_counts_that_add_up(folder):
    rows = [row(n, ("train", "validate", "test")[n % 3], report=f"Film {n} is clear.", Edema="0") for n in range(12)]
    found = check_data(folder(rows)).found
    assert found.leaks == () and found.unusable == {}
    assert found.counts["studies"] == found.counts["images"] == found.counts["patients"] == 12
    assert sum(found.counts[f"split {s}"] for s in ("train", "validate", "test")) == 12
    assert found.totals["train"] == {"Edema": {"1": 0, "0": 4, "-1": 0, "null": 0}} | {
        name: {"1": 0, "0": 0, "-1": 0, "null": 4} for name in OBSERVATIONS if name != "Edema"
    }
    assert found.formats == {s: {"PNG, 8 bit": 4} for s in ("train", "validate", "test")}


def test_a_patient_in_two_splits_is_named_by_lines_only(folder):
    rows = [row(1), row(2), {**row(3, "test"), "patient_id": row(1)["patient_id"]}]
    found = check_data(folder(rows)).found
    assert "one patient: train in line 2; test in line 4" in texts(found)
    assert "Mueller" not in found.model_dump_json()


def other_export(pixels):
    """Smaller, brighter, recompressed: the same film."""
    buffer = io.BytesIO()
    Image.fromarray((255 * (pixels / 255) ** 0.8).astype(np.uint8)).resize((80, 80)).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def test_the_same_film_is_a_leak_across_splits_and_a_warning_within(folder):
    rows = [row(n, "test" if n >= 8 else "train") for n in range(10)]
    pixels = {2: other_export(film(1)), 8: other_export(film(3)), 9: 255 - film(4), 5: film(0)}
    found = check_data(folder(rows, pixels)).found
    assert found.leaks == (
        "studies.csv line 5 (train) and studies.csv line 10 (test) show the same film in two exports",
        "studies.csv line 6 (train) and studies.csv line 11 (test) show the same film, one of them inverted",
    )
    assert "studies show the same film in two exports: studies.csv line 3 and studies.csv line 4" in texts(found)
    assert (
        "1 pair of images of different studies have equal pixels: studies.csv line 2 and studies.csv line 7"
        in texts(found)
    )


def test_two_images_of_one_study_are_no_duplicates(folder):
    rows = [row(1), {**row(1), "image_path": "i/b.png"}, row(2)]
    found = check_data(folder(rows, {1: other_export(film(0))})).found
    assert "same film" not in texts(found)


def test_missing_files_are_counted_with_their_lines(folder):
    rows = [row(n) for n in range(4)]
    found = check_data(folder(rows, {1: None, 2: np.zeros((50, 50), dtype=np.uint8)})).found
    assert found.counts["images unusable"] == 2 and set(found.unusable) == {"studies.csv line 3", "studies.csv line 4"}
    assert "2 of 4 images are missing or cannot be used: studies.csv lines 3, 4" in texts(found)
    assert "a run would stop: 2 of 4 studies" in texts(found)


def test_labels_that_contradict_or_say_nothing(folder):
    rows = [
        row(1, **{"No Finding": "1", "Edema": "1"}),
        row(2, **{"No Finding": "1", "Support Devices": "1"}),
        row(3, **{"Edema": "1", "Lung Opacity": "0"}),
        row(4, "test", Edema="-1"),
        row(5, "test"),
    ]
    text = texts(check_data(folder(rows)).found)
    assert "1 studies are labelled No Finding and a finding at once: studies.csv line 2" in text
    assert "Edema without Lung Opacity 1" in text
    assert "split test has no positive study of Edema" in text
    assert "label columns are empty throughout: Enlarged Cardiomediastinum, Cardiomegaly" in text
    assert "1 of 5 studies have neither a label nor a report" in text
    assert "split validate is empty" in text


def test_reports_that_are_odd_repeated_or_shared_with_training(folder):
    rows = [row(n, report="The heart is normal. The lungs are clear.") for n in range(12)]
    rows += [row(20, "test", report="The heart is normal.  The lungs are CLEAR."), row(21, "test", report="___ ___")]
    rows += [row(22, report="Kein Pneumothorax. Das Herz ist nicht vergrößert."), row(23, report="Clear"), row(24)]
    rows += [row(25, report="clear lung " * 3000)]
    found = check_data(folder(rows)).found
    text = texts(found)
    for part in (
        "1 of 18 studies have no report: studies.csv line 18",
        "1 of 18 studies have a report of placeholders (___) only: studies.csv line 15",
        "1 of 18 studies have a report that is not English: studies.csv line 16",
        "1 of 18 studies have a report longer than 20000 characters: studies.csv line 19",
        "1 of 18 studies have a report of fewer than 3 words: studies.csv line 17",
        "13 of 17 reports share their wording with another study; the most frequent one stands in 13",
        "1 of 2 test reports stand word for word in training",
    ):
        assert part in text
    assert found.reports["train"]["reports"] == 15 and found.reports["train"]["longest"] == 6000


def labelled(split, positives, count):
    return [
        Study(study_id=f"{split}{n}", patient_id="p", split=split, images=(), labels={"Edema": int(n < positives)})
        for n in range(count)
    ]


def test_a_shift_of_prevalence_is_named_only_when_large_and_unlikely():
    def shifts(*groups):
        return shift_warnings(totals([study for group in groups for study in group]))

    assert shifts(labelled("train", 200, 1000), labelled("test", 100, 300)) == [
        "Edema is positive in 20% of 1000 train studies, in 33% of 300 test studies"
    ]
    assert shifts(labelled("train", 2, 10), labelled("test", 4, 10)) == []  # chance
    assert shifts(labelled("train", 2000, 100_000), labelled("test", 2400, 100_000)) == []  # sure, and of no weight


def test_formats_that_tell_the_splits_apart_are_named(folder, tmp_path):
    path = folder([row(n, "test" if n > 5 else "train") for n in range(8)])
    for number in (6, 7):
        Image.fromarray(film(number).astype(np.uint16) * 257).save(tmp_path / "set" / "i" / f"{number}.png")
    found = check_data(path).found
    assert "PNG, 16 bit is 0% of train, 100% of test" in texts(found)
    assert found.formats["test"] == {"PNG, 16 bit": 2}


def test_places_are_at_most_fifty(folder):
    found = check_data(folder([row(n, **{"No Finding": "1", "Edema": "1"}) for n in range(70)]), images=False).found
    (sentence,) = (text for text in found.warnings if "at once" in text)
    assert sentence.count(",") == 49 and sentence.endswith("and 20 more")
    assert found.counts["images"] == 0


def test_the_page_is_self_contained_and_names_no_patient(folder):
    rows = [row(n, "test" if n > 5 else "train", report="<script>alert(1)</script>", Edema="1") for n in range(8)]
    checked = check_data(folder(rows, {7: other_export(film(0)), 3: None}))
    page = render_page(checked)
    assert "Not fit for training: 1 leak between splits" in page
    assert "Research use only" in page and "No model wrote this page" in page and "A model wrote" not in page
    assert page.count("data:image/png;base64,") == 7
    for absent in ("Mueller", "<script>alert", 'src="http', "3.png", str(checked.found.source)):
        assert absent not in page
    assert "default-src 'none'" in page
    assert render_page(check_data(checked.found.source)) == page  # the sample is the same at every call


def test_an_archive_is_checked_and_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    path = folder([row(n) for n in range(3)])
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted((tmp_path / "set").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    done = kdistill("data", "check", str(tmp_path / "set.zip"), "--json", "--html", str(tmp_path / "p.html"))
    shown = json.loads(done.stdout)
    assert shown["counts"]["images"] == 3 and shown["source"].endswith("set.zip")
    assert "Data check of" in (tmp_path / "p.html").read_text()
    assert list((tmp_path / "tmp").iterdir()) == []
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("../studies.csv", "x")
    assert "leads out" in kdistill("data", "check", str(tmp_path / "bad.zip"), check=3).stderr
    assert path


def test_a_yaml_with_only_the_studies_section_is_enough(folder, tmp_path):
    path = folder([row(n) for n in range(3)])
    snippet = tmp_path / "mine.yaml"
    snippet.write_text(f"studies: {{kind: combined, sources: [{{kind: folder, path: {path}}}]}}\n")
    assert check_data(str(snippet)).found.counts["studies"] == 3
    snippet.write_text("studies: {kind: foldr, path: x}\n")
    with pytest.raises(InputError, match="foldr"):
        check_data(str(snippet))
    snippet.write_text("studies: {kind: folder, path: x}\nname: y\n")
    with pytest.raises(ConfigError):
        check_data(str(snippet))


def test_images_without_a_table(folder, tmp_path):
    path = folder([row(n) for n in range(3)], {2: other_export(film(0))})
    found = check_data(path, kind="images").found
    assert found.counts == {"images": 3, "images unusable": 0}
    assert "1 pair of images of different studies show the same film" in texts(found)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        check_data(str(tmp_path / "empty"), kind="images")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"labels.csv": "image,Image Index,Finding Labels,Patient ID\n"}, ["--kind nih_cxr14"]),
        ({"metadata.csv": "image,patientid,clinical_notes\n"}, ["--kind covid_notes"]),
        (
            {"data.csv": "image,patient_id,sex\n"},
            ["patient_id (here perhaps patient_id)", "image_path (here perhaps image)"],
        ),
        ({"a.dcm": "x", "b.dcm": "x"}, ["data deidentify", "--kind images"]),
        ({"a.png": "x"}, ["study_id, patient_id, image_path", "--kind images"]),
        ({"notes.txt": "x"}, ["no images"]),
    ],
)
def test_a_folder_without_studies_csv_says_what_to_do(files, words, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        check_data(str(tmp_path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_kind_names_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="nih_cxr14"):
        check_data(str(tmp_path), kind="mimc")


def test_real_sets_have_no_leak(shared_data):
    found = check_data(str(shared_data / "nih_cxr14_extra"), kind="nih_cxr14").found
    assert found.leaks == () and found.counts["images"] == 88 and found.counts["images unusable"] == 0
