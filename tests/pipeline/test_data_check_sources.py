"""`data check` by source: which films a sentence means, sources that differ, masks, unnamed patients, empty data sets,
and what a wrong key or kind is told."""

from __future__ import annotations

import csv
import io
import re
import shutil
import tarfile
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kdistill.cli.data import KINDS
from kdistill.errors import ConfigError, InputError
from kdistill.pipeline.data_check import check_data
from kdistill.pipeline.data_check_page import render_page
from kdistill.pipeline.recipe import load_recipe
from kdistill.studies.config import FileSource
from kdistill.studies.phantom.write import config_for, write_folder

from ..studies.dicom_files import dicom
from .tiny import kdistill, write_recipe


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Six phantom films as a plain folder."""
    folder = tmp_path_factory.mktemp("phantoms") / "set"
    write_folder(folder, config_for(6, seed=11, size_px=128), False, lambda done, total: None)
    return folder


def copied(phantoms, tmp_path):
    """A copy of the films, and the rows of its table."""
    folder = shutil.copytree(phantoms, tmp_path / "set")
    with (folder / "studies.csv").open(newline="", encoding="utf-8") as file:
        return folder, list(csv.DictReader(file))


def write_rows(folder, rows):
    with (folder / "studies.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_quality_warnings_say_which_films(phantoms, tmp_path):
    folder, rows = copied(phantoms, tmp_path)
    for number in (1, 4):
        path = folder / rows[number]["image_path"]
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    warnings = check_data(str(folder)).found.warnings
    said = "2 of 6 readable images: upside down. The film looks upside down. Seen in studies.csv lines 3, 6"
    assert said in warnings
    Image.open(folder / rows[0]["image_path"]).rotate(180).save(folder / rows[0]["image_path"])
    loose = [text for text in check_data(str(folder / "images"), kind="images").found.warnings if "upside" in text]
    assert len(loose) == 1 and re.search(r"Seen in files \d+, \d+, \d+$", loose[0])


def dicom_folder(folder, modality):
    """One study whose DICOM file says this modality."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    (folder / "a.dcm").write_bytes(dicom(pixels, Modality=modality))
    (folder / "studies.csv").write_text(f"study_id,patient_id,image_path\n{modality},{modality},a.dcm\n")
    return str(folder)


def test_each_source_of_a_combination_is_read_with_its_own_setting(tmp_path):
    sources = [
        {"kind": "folder", "path": dicom_folder(tmp_path / "one", "MR"), "require_chest": False},
        {"kind": "folder", "path": dicom_folder(tmp_path / "two", "CT")},
    ]
    snippet = tmp_path / "mine.yaml"
    snippet.write_text(yaml.safe_dump({"studies": {"kind": "combined", "sources": sources}}))
    found = check_data(str(snippet)).found
    # Checked as strict as the strictest, the MR would be called unusable too; as lenient, neither would.
    assert list(found.unusable) == ["two/studies.csv line 2"]


def test_masks_are_counted_and_those_of_one_bit_are_named(phantoms, tmp_path):
    folder, rows = copied(phantoms, tmp_path)
    for row in rows:
        row["split"] = "test"
    masks = [(n, v) for n, row in enumerate(rows, start=2) for k, v in row.items() if k.startswith("mask:") and v]
    line, path = masks[0]
    Image.open(folder / path).convert("1").save(folder / path)
    write_rows(folder, rows)
    checked = check_data(str(folder))
    assert (checked.found.counts["masks"], checked.found.counts["masks unusable"]) == (len(masks), 1)
    (sentence,) = [text for text in checked.found.warnings if "masks" in text]
    assert sentence.startswith(f"1 of {len(masks)} masks would be left out (a mask is a 1-bit picture")
    assert f"studies.csv line {line}; save masks as 8-bit PNG" in sentence
    assert "<span>masks unusable</span>" in render_page(checked)
    assert "masks" not in check_data(str(folder), images=False).found.counts


def openi_folder(folder, report):
    (folder / "NLMCXR_png").mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)).save(
        folder / "NLMCXR_png" / "CXR1_1_IM-0001-3001.png"
    )
    (folder / "ecgen-radiology").mkdir()
    (folder / "ecgen-radiology" / "1.xml").write_text(report)
    return str(folder)


REPORT = (
    "<eCitation><uId id='CXR1'/><Abstract><AbstractText Label='FINDINGS'>Clear.</AbstractText></Abstract>"
    "<parentImage id='CXR1_1_IM-0001-3001'/></eCitation>"
)


def test_a_set_that_names_no_patients_says_so(tmp_path, phantoms):
    found = check_data(openi_folder(tmp_path / "openi", REPORT), kind="openi").found
    assert any(text.startswith("openi names no patients: every report is taken for") for text in found.warnings)
    assert not any("names no patients" in text for text in check_data(str(phantoms), images=False).found.warnings)


TABLES = {
    "folder": ("studies.csv", "study_id,patient_id,image_path"),
    "nih_cxr14": ("labels.csv", "image,Image Index,Finding Labels,Patient ID,Patient Age,Patient Sex,View Position"),
    "covid_notes": ("metadata.csv", "image,patientid,clinical_notes,view,sex,age,modality,finding"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_with_a_header_only_is_an_error(kind, tmp_path):
    name, header = TABLES[kind]
    (tmp_path / name).write_text(header + "\n")
    with pytest.raises(InputError, match="names no studies: its table has no rows") as caught:
        check_data(str(tmp_path), kind=kind)
    assert caught.value.exit_code == 2


def test_a_source_that_leaves_everything_out_says_why(tmp_path):
    with pytest.raises(InputError, match=r"gives no study: all were left out \(report_empty 1\)"):
        check_data(openi_folder(tmp_path / "openi", REPORT.replace("Clear.", "")), kind="openi")


@pytest.mark.parametrize("kind", [*typing.get_args(typing.get_args(FileSource)[0]), None])
def test_an_empty_folder_is_an_error_of_every_kind(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    name = kind.model_fields["kind"].default if kind else "images"
    with pytest.raises(InputError) as caught:
        check_data(str(tmp_path / "empty"), kind=name)
    assert caught.value.remedy


def reports_tar(path):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("ecgen-radiology/1.xml")
        info.size = len(REPORT)
        archive.addfile(info, io.BytesIO(REPORT.encode()))
    return path


def test_open_is_reports_alone_are_recognised(tmp_path):
    (tmp_path / "openi").mkdir()
    archive = reports_tar(tmp_path / "openi" / "ecgen-radiology.tar.gz")
    for source, said in ((archive.parent, "ecgen-radiology.tar.gz"), (archive, "XML files")):
        told = kdistill("data", "check", str(source), check=2).stderr
        assert f"holds Open-i's reports ({said}) and no films" in told and "NLMCXR_png" in told
    (tmp_path / "openi" / "NLMCXR_png").mkdir()
    with pytest.raises(InputError, match="--kind openi"):
        check_data(str(tmp_path / "openi"))


@pytest.mark.parametrize(
    ("file", "header", "kind"),
    [
        ("train.csv", "Path,Sex,Age,Frontal/Lateral,AP/PA", "chexpert"),
        ("df_chexpert_plus_240401.csv", "path_to_image", "chexpert_plus"),
        ("master_spreadsheet_update.csv", "DicomPath", "brax"),
        ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", "", "padchest"),
        ("annotations/image_labels_train.csv", "image_id", "vindr_cxr"),
        ("cxr-record-list.csv.gz", "", "mimic_cxr"),
        ("mimic-cxr-2.0.0-metadata.csv.gz", "", "mimic_cxr_jpg"),
    ],
)
def test_official_downloads_are_recognised(file, header, kind, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(header + "\n")
    with pytest.raises(InputError, match=f"--kind {kind}`"):
        check_data(str(tmp_path))


WRONG = [
    ("{kind: folder, path: x, sise_px: 64}", "studies.folder.sise_px: unknown key; did you mean 'size_px'?"),
    ("{kind: opni, path: x}", "there is no kind 'opni'; did you mean 'openi'? One of phantom, combined, folder,"),
    ("{path: x}", "studies: has no kind; one of phantom, combined, folder,"),
    (
        "{kind: combined, sources: [{kind: folder, path: x}, {kind: openi, path: x, imags: y}]}",
        "studies.combined.sources.1.openi.imags: unknown key; did you mean 'images'?",
    ),
    (
        "{kind: combined, sources: [{kind: nih_cxr_14, path: x}]}",
        "studies.combined.sources.0: there is no kind 'nih_cxr_14'; did you mean 'nih_cxr14'?",
    ),
    ("{kind: folder, path: x, imags: y}", "known keys: first_view,"),
]


@pytest.mark.parametrize(("studies", "words"), WRONG)
def test_a_wrong_key_or_kind_suggests_the_nearest(studies, words, tmp_path):
    (tmp_path / "only.yaml").write_text(f"studies: {studies}\n")
    with pytest.raises(ConfigError) as caught:
        check_data(str(tmp_path / "only.yaml"))
    assert words in str(caught.value) and "at least 1 item" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(write_recipe(tmp_path / "whole.yaml", studies=yaml.safe_load(studies))))
    assert words in str(caught.value)


def test_help_and_docs_name_every_kind():
    kinds = [member.model_fields["kind"].default for member in typing.get_args(typing.get_args(FileSource)[0])]
    assert f"{', '.join(kinds)}; or images (image files without a table)" == KINDS
    shown = kdistill("data", "check", "--help").stdout
    page = (Path(__file__).parents[2] / "docs" / "data_check.md").read_text(encoding="utf-8")
    assert all(kind in shown and f"`{kind}`" in page for kind in (*kinds, "images"))
