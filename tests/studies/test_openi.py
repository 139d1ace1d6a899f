"""Open-i from directory to batch: XML in a folder or an archive, PNG or DICOM, and the two Kaggle tables.

The files have the layout of the genuine ones and content of our own. What an archive of strangers may hold is here too.
"""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from kdistill.errors import InputError, PolicyError
from kdistill.observations import INDEX
from kdistill.pipeline.data_check import check_data
from kdistill.studies import store
from kdistill.studies.config import OpeniStudies
from kdistill.studies.sources.openi import film_key, read_openi
from kdistill.studies.sources.openi_reports import LeftOut, iter_reports, parse_report
from kdistill.studies.sources.openi_terms import labels_of_terms
from kdistill.studies.sources.read import read_source

from .batches import SIZE, first_batch, publish
from .test_dicom import dicom

REPORTS = {
    "1": ("The heart is enlarged. No effusion.", "Cardiomegaly.", ("Cardiomegaly/mild",), ("1_IM-0001-3001",)),
    "2": ("Clear lungs.", "Normal XXXX.", ("normal",), ("IM-0002-1001", "IM-0002-2001")),
    "10": ("", "Small left effusion.", ("Pleural Effusion/left/small",), ("IM-0010-1001",)),
    "11": ("No image of this one.", "", (), ()),
    "12": ("XXXX XXXX.", "XXXX.", (), ("IM-0012-1001",)),
    "13": ("", "", (), ("IM-0013-1001",)),
}


def xml(number, findings, impression, terms, images):
    """One report as the NLM writes it (shortened where nothing is read)."""
    major = "".join(f"<major>{term}</major>" for term in terms)
    films = "".join(f'<parentImage id="CXR{number}_{name}"><caption>2 views</caption></parentImage>' for name in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><meta type="rr"/><uId id="CXR{number}"/>'
        '<MedlineCitation><Article><Abstract><AbstractText Label="COMPARISON">None.</AbstractText>'
        '<AbstractText Label="INDICATION">Cough &amp; fever.</AbstractText>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>'
        f"<MeSH>{major}<automatic>heart</automatic></MeSH>{films}</eCitation>"
    ).encode()


def films(folder, names, suffix=".png"):
    for number, name in enumerate(names):
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 4095, (40, 40))
        if suffix == ".dcm":
            path.write_bytes(dicom(pixels))
        else:
            Image.fromarray((pixels // 16).astype(np.uint8)).save(path)


def png_names():
    return [f"CXR{number}_{name}" for number, (*_, images) in REPORTS.items() for name in images]


@pytest.fixture
def xml_folder(tmp_path):
    """ecgen-radiology/*.xml and NLMCXR_png/*.png."""
    data = tmp_path / "openi"
    (data / "ecgen-radiology").mkdir(parents=True)
    for number, report in REPORTS.items():
        (data / "ecgen-radiology" / f"{number}.xml").write_bytes(xml(number, *report))
    films(data / "NLMCXR_png", png_names())
    return data


def config(data, **more):
    return OpeniStudies(path=str(data), size_px=SIZE, **more)


def tar(path, members, *, compress=True):
    """Write an archive; a member is bytes, or a TarInfo of another kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(buffer.getvalue()) if compress else buffer.getvalue())


def test_reports_and_films_become_studies(xml_folder):
    table = read_source(config(xml_folder))
    assert [item.study.study_id for item in table.studies] == ["openi-CXR1", "openi-CXR2", "openi-CXR10"]
    first, second, _ = table.studies
    assert (first.study.indication, first.study.findings, first.study.impression) == (
        "Cough & fever.",
        "The heart is enlarged. No effusion.",
        "Cardiomegaly.",
    )
    assert [image.path.name for image in second.images] == ["CXR2_IM-0002-1001.png", "CXR2_IM-0002-2001.png"]
    assert second.images[0].view_position is None and first.study.labels is None
    assert {item.study.patient_id == item.study.study_id for item in table.studies} == {True}
    assert sorted(reason for _, reason in table.left_out) == [
        "report_empty",
        "report_of_placeholders_only",
        "report_without_image",
    ]
    assert table.counts == {"reports_with_placeholders": 1}


def test_from_directory_to_batch(xml_folder, tmp_path):
    batch = first_batch(config(xml_folder, validate_share=0, test_share=0), tmp_path / "run")
    assert batch["pixel_values"].shape == (3, 1, SIZE, SIZE)
    assert len(batch["report"][0]["image_index"]) == 3
    labels = batch["label_targets"].numpy()
    heart, effusion = INDEX["Cardiomegaly"], INDEX["Pleural Effusion"]
    assert labels[0, heart] == 1 and labels[0, effusion] == 0 and labels[2, effusion] == 1


def test_an_archive_is_read_in_place_as_the_folder_is(xml_folder, tmp_path):
    folder = [item.study for item in read_openi(config(xml_folder)).studies]
    for number in REPORTS:
        (xml_folder / "ecgen-radiology" / f"{number}.xml").unlink()
    (xml_folder / "ecgen-radiology").rmdir()
    members = [(f"ecgen-radiology/{number}.xml", xml(number, *report)) for number, report in REPORTS.items()]
    for name, compress in (("NLMCXR_reports.tgz", True), ("ecgen-radiology.tar.gz", False)):
        tar(xml_folder / name, members, compress=compress)
        assert [item.study for item in read_openi(config(xml_folder)).studies] == folder
        (xml_folder / name).unlink()
    assert [path.name for path in xml_folder.iterdir()] == ["NLMCXR_png"]


def test_the_dicom_films_are_found_under_their_other_names(xml_folder, tmp_path):
    for path in (xml_folder / "NLMCXR_png").iterdir():
        path.unlink()
    (xml_folder / "NLMCXR_png").rmdir()
    films(xml_folder / "NLMCXR_dcm", [f"{n.split('_')[0][3:]}/{film_key(n)}" for n in png_names()], ".dcm")
    studies, counts = publish(config(xml_folder), tmp_path / "run")
    assert "rejected_image_unusable" not in counts
    assert store.load_studies(studies)[0].images[0].image_path == "NLMCXR_dcm/1/1_IM-0001-3001.dcm"


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(rows)


def kaggle(data, *, lateral_first=True):
    """indiana_reports.csv, indiana_projections.csv and images/images_normalized."""
    header = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    rows = [[n, ";".join(r[2]), "", "2 views", "Cough & fever.", "None.", r[0], r[1]] for n, r in REPORTS.items()]
    names = [(n, f"{film_key(f'CXR{n}_{name}')}.dcm.png") for n, (*_, images) in REPORTS.items() for name in images]
    views = [
        [n, name, "Lateral" if lateral_first and name.endswith("1001.dcm.png") else "Frontal"] for n, name in names
    ]
    write_csv(data / "indiana_reports.csv", [header, *rows])
    write_csv(data / "indiana_projections.csv", [["uid", "filename", "projection"], *views])
    films(data / "images" / "images_normalized", [name.removesuffix(".png") for _, name in names])


def test_the_kaggle_tables_give_the_same_studies_and_views(xml_folder, tmp_path):
    data = tmp_path / "kaggle"
    data.mkdir()
    kaggle(data)
    ours, theirs = (read_source(config(d)).studies for d in (xml_folder, data))
    # The only film of report 10 is called lateral here.
    assert [i.study.study_id for i in theirs] == ["openi-CXR1", "openi-CXR2"]
    assert [(i.study.findings, i.study.split) for i in theirs] == [(i.study.findings, i.study.split) for i in ours[:2]]
    assert [image.view_position for image in theirs[1].images] == ["FRONTAL", "LATERAL"]
    assert theirs[1].images[0].path.name == "2_IM-0002-2001.dcm.png" and theirs[1].study.view_position == "FRONTAL"


def test_the_kaggle_views_serve_the_xml_reports_too(xml_folder):
    kaggle(xml_folder)
    table = read_source(config(xml_folder, images="NLMCXR_png"))
    assert table.studies[1].images[0].path.name == "CXR2_IM-0002-2001.png"


def test_a_film_that_is_missing_is_quarantined(xml_folder, tmp_path):
    (xml_folder / "NLMCXR_png" / "CXR2_IM-0002-2001.png").unlink()
    studies, counts = publish(config(xml_folder), tmp_path / "run")
    assert counts["rejected_image_unusable"] == 1 and counts["reports_with_placeholders"] == 1
    assert [len(study.images) for study in store.load_studies(studies)] == [1, 1, 1]


def test_terms_are_labels_only_on_request_and_never_negative(xml_folder):
    assert all(item.study.labels is None for item in read_openi(config(xml_folder)).studies)
    labels = [item.study.labels for item in read_openi(config(xml_folder, mesh_labels=True)).studies]
    assert labels == [{"Cardiomegaly": 1}, {"No Finding": 1}, {"Pleural Effusion": 1}]
    assert labels_of_terms(["Nodules/lung", "Density/lung"]) == {}


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE eCitation [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(8))
    + "]><eCitation><uId id='CXR1'/><Abstract><AbstractText Label='FINDINGS'>&i;</AbstractText></Abstract></eCitation>"
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "xml_damaged"),
        (b"<eCitation><uId id='CXR1'/>", "xml_damaged"),
        (b"<html/>", "xml_is_no_report"),
        (b"<eCitation><uId id='../../x'/></eCitation>", "xml_is_no_report"),
        (b"<eCitation/>" + bytes(3), "xml_damaged"),
        (BOMB.encode(), "xml_declares_entities"),
        (
            b"<!DOCTYPE eCitation [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><eCitation><uId id='C1'/>&x;</eCitation>",
            "xml_declares_entities",
        ),
        (b"<eCitation>" + b"<a>" * 300 + b"</a>" * 300 + b"</eCitation>", "xml_damaged"),
    ],
)
def test_a_report_that_is_none_is_left_out_with_its_reason(data, reason):
    assert parse_report(data, "7.xml") == LeftOut("7.xml", reason)


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


GOOD = xml("1", "Clear lungs.", "Normal.", (), ())


def test_what_is_no_report_is_passed_over_and_a_large_file_left_out(tmp_path):
    path = tmp_path / "a.tgz"
    members = [("readme.txt", b"hello"), ("big.xml", b"<a>" + b" " * 3_000_000), ("x/2.xml", GOOD), ("._2.xml", b"x")]
    tar(path, members)
    big, report = iter_reports(path, 256)
    assert big == LeftOut("big.xml", "too_large") and report.findings == "Clear lungs."
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz"]


@pytest.mark.parametrize(
    ("name", "member", "words"),
    [
        ("../../slip.xml", GOOD, "leads out"),
        ("x.xml", link("x.xml", "/etc/passwd"), "link"),
        ("1.xml", GOOD, "a name twice"),
        ("a\x1b[31m.xml", GOOD, "control characters"),
        ("/".join("abcdefghijklmnopqrstuvwxyz") + ".xml", GOOD, "deep"),
    ],
)
def test_an_unsafe_archive_of_reports_is_refused_as_any_other(tmp_path, name, member, words):
    tar(path := tmp_path / "a.tgz", [("1.xml", GOOD), (name, member)])
    with pytest.raises(PolicyError, match=words):
        list(iter_reports(path, 256))


def test_an_unsafe_archive_is_no_leak_to_data_check(xml_folder):
    """It is refused with its own words: nothing was found out about splits."""
    shutil.rmtree(xml_folder / "ecgen-radiology")
    tar(xml_folder / "NLMCXR_reports.tgz", [("../1.xml", GOOD)])
    with pytest.raises(PolicyError, match="leads out"):
        check_data(str(xml_folder), kind="openi")


def test_what_an_archive_unpacks_to_is_counted(tmp_path):
    path = tmp_path / "bomb.tgz"
    tar(path, [(f"{n}.txt", bytes(900_000)) for n in range(40)])  # 36 MB from 36 kB
    assert path.stat().st_size < 200_000
    start = time.perf_counter()
    with pytest.raises(PolicyError, match=r"more than 10,000,000 bytes(.|\n)*raise max_archive_mb"):
        list(iter_reports(path, 10))
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("cut", [0, 3, 100, -20])
def test_a_damaged_archive_is_named(tmp_path, cut):
    path = tmp_path / "NLMCXR_reports.tgz"
    tar(path, [(f"{n}.xml", xml(n, *REPORTS["1"])) for n in range(50)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"NLMCXR_reports.tgz.*\n.*(download it again|Give a .zip or a .tar.gz)"):
        list(iter_reports(path, 256))


def test_what_is_not_there_is_named_with_the_names_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no folder of images.*\n.*NLMCXR_png"):
        read_openi(config(tmp_path))
    (tmp_path / "NLMCXR_png").mkdir()
    with pytest.raises(InputError, match=r"no reports.*\n.*NLMCXR_reports.tgz"):
        read_openi(config(tmp_path))
    (tmp_path / "ecgen-radiology").mkdir()
    write_csv(tmp_path / "indiana_projections.csv", [["uid", "filename", "projection"], ["1", "a.png", "oblique"]])
    with pytest.raises(InputError, match="line 2: projection 'oblique'"):
        read_openi(config(tmp_path))


def test_the_genuine_reports_are_all_read(shared_data):
    reports = list(iter_reports(shared_data / "openi_reports" / "ecgen-radiology.tar.gz", 256))
    assert len(reports) == 2925 and not any(isinstance(report, LeftOut) for report in reports)
    assert sum(bool(report.findings) for report in reports) == 2544
    assert sum(bool(report.impression) for report in reports) == 2896
    assert sum(len(report.image_ids) for report in reports) == 5528
    keys = [film_key(name) for report in reports for name in report.image_ids]
    assert len(set(keys)) == len(keys)
