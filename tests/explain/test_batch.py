from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from kdistill.errors import InputError
from kdistill.explain.batch import explain_files, file_stem, find_images
from kdistill.explain.build import ExplanationContext
from kdistill.explain.explanation import Explanation

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


def run(folder: Path, out: Path, reader: FixedReader, context: ExplanationContext) -> list[Explanation]:
    return list(explain_files([folder], reader, context, out_dir=out))


def test_folder(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    out, reader = tmp_path / "out", FixedReader(make_reading({"Edema": 0.9}))
    found = run(folder, out, reader, context)
    assert [e.study_id for e in found] == ["a.png", "sub/a.png"]
    assert found[0].image_sha256 != found[1].image_sha256
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [r["item"] for r in rejected] == ["broken.png"] and "cut short" in rejected[0]["reason"]
    stem = file_stem("sub/a.png")
    assert Explanation.model_validate_json((out / f"{stem}.json").read_text()) == found[1]
    assert (out / f"{stem}.html").read_text().startswith("<!DOCTYPE html>")


def test_rerun_goes_on_where_it_stopped(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    out, reader = tmp_path / "out", FixedReader(make_reading())
    run(folder, out, reader, context)
    (out / f"{file_stem('a.png')}.json").unlink()
    assert [e.study_id for e in run(folder, out, reader, context)] == ["a.png"]
    # Another image under the same name is another study.
    Image.fromarray(radiograph(seed=2)).save(folder / "a.png")
    assert [e.study_id for e in run(folder, out, reader, context)] == ["a.png"]
    assert reader.asked == [2, 1, 1] and len((out / "rejected.jsonl").read_text().splitlines()) == 1


def test_one_bad_file_raises(folder: Path, tmp_path: Path, context: ExplanationContext) -> None:
    with pytest.raises(InputError, match="cut short"):
        list(explain_files([folder / "broken.png"], FixedReader(make_reading()), context, out_dir=tmp_path / "out"))
    with pytest.raises(InputError, match="no such file"):
        find_images([tmp_path / "nowhere"])


def test_names_cannot_leave_the_folder() -> None:
    stem = file_stem("../../etc/passwd\n")
    assert "/" not in stem and "." not in stem and "\n" not in stem
    assert file_stem("a/b") != file_stem("a_b")
