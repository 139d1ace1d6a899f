"""Errors of `serve`, `explain`, `dicom listen` and `dicom send` that a user meets first: what, where, how to mend it.

All are told before a model is loaded, so that nobody waits for one only to read that the port is taken.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kdistill.dicom_network.run import Way, listen_run, send_files
from kdistill.errors import ConfigError, EnvironmentFault, InputError, KDistillError
from kdistill.explain.batch import explain_files
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.run import explain_images
from kdistill.labelers.rules import RuleLabeler
from kdistill.serve.run import serve_run

from ..explain.conftest import FixedReader, make_library, make_reading, radiograph

TOKEN = "a-token-of-enough-letters"
Ask = Callable[[Path], object]


def serve(run: str, **settings: object) -> Ask:
    return lambda folder: serve_run(folder / run, settings, announce=print)


def explained(images: str, out: str = "out", run: str = "run") -> Ask:
    return lambda folder: explain_images(folder / run, [folder / images], out_dir=folder / out)


def listen(out: str, outbox: str | None = None) -> Ask:
    def ask(folder: Path) -> object:
        way = Way(None, folder / out, folder / outbox if outbox else None)
        return listen_run(folder / "run", {}, way, announce=print)

    return ask


def sent(files: str) -> Ask:
    def ask(folder: Path) -> object:
        return send_files([folder / files], "A@127.0.0.1:104", aet="B", on_outcome=print)

    return ask


CASES: list[tuple[Ask, type[KDistillError], str, str]] = [
    (serve("nowhere"), InputError, "no such folder", "Give the folder of a run"),
    (serve("unfinished"), InputError, "has no student yet", "--resume"),
    (serve("empty"), InputError, "no folder student/", "Give the folder of a run"),
    (serve("run"), InputError, "has no student full", "There is: label seed-3"),
    (serve("run", token="short", host="0.0.0.0"), ConfigError, "--token .*fewer than 16", "secrets.token_urlsafe"),
    (serve("run", host="203.0.113.7", token=TOKEN), EnvironmentFault, "no address of this machine", "127.0.0.1"),
    (explained("nofile.png"), InputError, "no such file", "path"),
    (explained("empty"), InputError, "empty: there is no image", "PNG, JPEG or DICOM"),
    (explained("film.png", out="film.png"), EnvironmentFault, r"film.png: .*\(it is a file\)", "--out"),
    (explained("film.png", out="film.png/out"), EnvironmentFault, r"out: .*\(it is a file\)", "--out"),
    (listen("film.png"), EnvironmentFault, r"--out .*\(it is a file\)", "may write to"),
    (listen("out", "film.png"), EnvironmentFault, r"--outbox .*\(it is a file\)", "may write to"),
    (sent("nofile.dcm"), InputError, "nofile.dcm: no such file", "path"),
    (sent("empty"), InputError, "empty: there is no file", "Give DICOM files"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("empty", "unfinished", "run/student/label/seed-3"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "unfinished" / "recipe.yaml").write_text("name: unfinished\n")
    Image.fromarray(radiograph()).save(tmp_path / "film.png")
    return tmp_path


@pytest.mark.parametrize("number", range(len(CASES)))
def test_an_error_says_what_where_and_what_to_do(folder: Path, number: int) -> None:
    ask, kind, words, remedy = CASES[number]
    with pytest.raises(kind, match=words) as found:
        ask(folder)
    assert remedy in str(found.value.remedy)


def test_a_port_that_is_taken_is_told_before_the_run_is_looked_at(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"127.0.0.1:{port}: another program listens there") as found:
            serve_run(tmp_path / "nowhere", {"port": port}, announce=print)
        assert "--port" in str(found.value.remedy)


def test_a_result_that_cannot_be_written_stops_and_leaves_no_half_of_it(folder: Path) -> None:
    out = folder / "out"
    reader = FixedReader(make_reading())
    context = ExplanationContext(reader.name, reader.thresholds, make_library(), RuleLabeler(), ExplainConfig())
    (done,) = explain_files([folder / "film.png"], reader, context, out_dir=out, formats=("json",))
    (path,) = done.files
    path.unlink()
    path.mkdir()  # something that no file can replace
    with pytest.raises(EnvironmentFault, match="cannot be written") as found:
        list(explain_files([folder / "film.png"], reader, context, out_dir=out, formats=("json",)))
    assert "goes on from what stands there" in str(found.value.remedy)
    assert [item.name for item in out.iterdir()] == [path.name]
