from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kdistill.errors import InputError
from kdistill.explain.batch import Outcome, explain_files, file_stem, find_images
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import Explanation

from ..studies.dicom_files import dicom
from .conftest import FixedReader, make_reading, radiograph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    Image.fromarray(radiograph(seed=0)).save(source / "a.png")
    Image.fromarray(radiograph(seed=1)).save(source / "sub" / "a.png")
    (source / "broken.png").write_bytes((source / "a.png").read_bytes()[:100])
    (source / "studies.csv").write_text("study_id\n")
    return source


def run(folder: Path, out: Path, reader: FixedReader, context: ExplanationContext) -> list[Outcome]:
    return list(explain_files([folder], reader, context, out_dir=out, formats=("html",)))


def read_back(outcome: Outcome) -> Explanation:
    return Explanation.model_validate_json(outcome.files[0].read_text())


def test_folder(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    out, reader = tmp_path / "out", FixedReader(make_reading({"Edema": 0.9}))
    found = {outcome.study_id: outcome for outcome in run(folder, out, reader, context)}
    assert set(found) == {"a.png", "sub/a.png", "broken.png"} and found["broken.png"].files == ()
    first, second = read_back(found["a.png"]), read_back(found["sub/a.png"])
    assert (first.study_id, second.study_id) == ("a.png", "sub/a.png")
    assert first.image_sha256 == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest() != second.image_sha256
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [r["item"] for r in rejected] == ["broken.png"] and "cut short" in rejected[0]["reason"]
    assert found["a.png"].files[1].read_text().startswith("<!DOCTYPE html>")


def test_rerun_goes_on_where_it_stopped(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    out, reader = tmp_path / "out", FixedReader(make_reading())
    run(folder, out, reader, context)
    (out / f"{file_stem('a.png')}.json").unlink()
    again = {outcome.study_id: outcome for outcome in run(folder, out, reader, context)}
    assert not again["a.png"].was_done and again["sub/a.png"].was_done
    # Another image under the same name is another study.
    Image.fromarray(radiograph(seed=2)).save(folder / "a.png")
    run(folder, out, reader, context)
    assert reader.asked == [2, 1, 1] and len((out / "rejected.jsonl").read_text().splitlines()) == 1
    # A report that was withheld is asked for again by another policy.
    run(folder, out, reader, replace(context, config=ExplainConfig(quality="warn")))
    assert reader.asked == [2, 1, 1, 2]


def test_one_bad_file_raises(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    with pytest.raises(InputError, match="cut short"):
        run(folder / "broken.png", tmp_path / "out", FixedReader(make_reading()), context)
    with pytest.raises(InputError, match="no such file"):
        find_images([tmp_path / "nowhere"])


def test_names_cannot_leave_the_folder() -> None:
    stem = file_stem("../../etc/passwd\n")
    assert "/" not in stem and "." not in stem and "\n" not in stem
    assert file_stem("a/b") != file_stem("a_b")


def test_what_a_dicom_file_says_of_itself_becomes_a_flag(tmp_path: Path, context: ExplanationContext) -> None:
    pixels = radiograph(seed=3).astype(int)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    source = tmp_path / "in"
    source.mkdir()
    (source / "lateral.dcm").write_bytes(dicom(pixels, ViewPosition="LL", **eight))
    (source / "hand.dcm").write_bytes(dicom(pixels, BodyPartExamined="HAND", **eight))
    (source / "cut.dcm").write_bytes(dicom(pixels, **eight)[:-40])
    found = {o.study_id: o for o in run(source, tmp_path / "out", FixedReader(make_reading()), context)}
    assert found["hand.dcm"].files == () == found["cut.dcm"].files
    flags = [flag for flag in read_back(found["lateral.dcm"]).flags if flag.code == "file_note"]
    assert len(flags) == 1 and "lateral view" in flags[0].text
