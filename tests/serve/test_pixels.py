"""Pixels and provenance over HTTP: exact, bounded in memory, of one's own films only, without a word of the header."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydicom.dataset import Dataset

from kdistill.explain.batch import image_of
from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.labelers.rules import RuleLabeler
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.jobs import Jobs
from kdistill.serve.page_files import PAGE_FILES
from kdistill.serve.pixels import pixels_of
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.film import Note
from kdistill.studies.images import decode

from ..explain.conftest import make_library
from .conftest import PageReader, dicom, png


@pytest.fixture
def reader() -> PageReader:
    return PageReader()


def client_of(reader: PageReader, **settings: object) -> TestClient:
    config = ServeConfig.model_validate(settings)
    context = ExplanationContext(reader.name, reader.thresholds, make_library(), RuleLabeler(), ExplainConfig())
    return TestClient(create_app(Jobs(reader, context, config), config), base_url="http://127.0.0.1")


@pytest.fixture
def client(reader: PageReader) -> Iterator[TestClient]:
    with client_of(reader) as found:
        yield found


def send(client: TestClient, data: bytes) -> str:
    return str(client.post("/v1/explain", content=data).json()["id"])


def pixels(client: TestClient, job: str, kind: str = "full") -> tuple[dict, np.ndarray]:
    answer = client.get(f"/v1/results/{job}/pixels", params={"kind": kind})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream"
    head = json.loads(answer.headers["x-pixels"])
    return head, np.frombuffer(answer.content, "<u2").reshape(head["height"], head["width"])


def test_pixels_are_there_before_the_model_is_done_and_show_what_it_was_given(
    client: TestClient, reader: PageReader
) -> None:
    reader.go.clear()
    data = dicom()
    job = send(client, data)
    head, values = pixels(client, job)
    assert client.get(f"/v1/jobs/{job}").json()["stage"] in ("waiting", "reading")
    reader.go.set()
    shown = np.clip((values - head["low"]) / (head["high"] - head["low"]), 0, 1)
    assert np.abs(shown - decode(data)).max() < 1e-5
    assert len(np.unique(values)) > 200 and head["is_linear"] and head["kind"] == "full"
    assert head["spacing_mm"] == [0.5, 0.5] and head["spacing_at"] == "detector"


def test_nothing_of_the_header_leaves(client: TestClient) -> None:
    job = send(client, dicom())
    answer = client.get(f"/v1/results/{job}/pixels")
    told = answer.headers["x-pixels"] + client.get(f"/v1/results/{job}/provenance").text
    assert "Doe" not in told and "P-77" not in told and b"Doe" not in answer.content


def test_the_eight_bit_picture_is_the_padded_square(client: TestClient) -> None:
    head, values = pixels(client, send(client, png()), "display")
    assert (head["width"], head["height"], head["kind"], head["high"]) == (512, 512, "display", 255.0)
    assert values.max() <= 255


@pytest.mark.parametrize("path", ["pixels", "provenance"])
def test_somebody_elses_film_does_not_exist(client: TestClient, path: str) -> None:
    job = send(client, png())
    assert client.get(f"/v1/results/{job}/{path}").status_code == 200
    client.cookies.clear()
    assert client.get(f"/v1/results/{job}/{path}").status_code == 404


def test_only_the_newest_films_are_kept_at_full_depth(reader: PageReader) -> None:
    with client_of(reader, max_pixels_mb=1) as client:
        jobs = [send(client, png(seed, side=500)) for seed in range(3)]  # 0.5 MB each
        answers = [client.get(f"/v1/results/{job}/pixels") for job in jobs]
        assert [answer.status_code for answer in answers] == [404, 200, 200]
        assert "kind=display" in answers[0].json()["detail"]
        assert pixels(client, jobs[0], "display")[0]["kind"] == "display"


def test_provenance_tells_how_a_result_came_to_be(client: TestClient) -> None:
    job = send(client, png())
    deadline = time.monotonic() + 20
    while client.get(f"/v1/jobs/{job}").json()["stage"] != "done" and time.monotonic() < deadline:
        time.sleep(0.02)
    found, answer = client.get(f"/v1/results/{job}/provenance").json(), client.get(f"/v1/results/{job}").json()
    assert (found["model"], found["image_sha256"]) == (answer["model"], answer["image_sha256"])
    assert (found["source_width"], found["size_px"]) == (160, 64) and "torch" in found["libraries"]
    assert {check["kind"] for check in found["quality"]} >= {"inverted", "upside_down", "burned_in_text"}


def test_the_page_is_a_fixed_list_of_files(client: TestClient) -> None:
    for path, file in PAGE_FILES.items():
        answer = client.get(path)
        assert answer.status_code == 200 and answer.content == file.content
        assert answer.headers["content-type"] == file.media_type
    for path in ("/page/index.html", "/page/__init__.py", "/page/../app.py", "/page/%2e%2e/app.py", "/page/none.js"):
        assert client.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere_and_parses_no_html() -> None:
    for path, file in PAGE_FILES.items():
        text = file.content.decode()
        assert not any(word in text for word in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "eval(")), (
            path
        )
        assert len(text.splitlines()) < 300, path
    index = PAGE_FILES["/"].content.decode()
    assert "Research use only" in index and "<style" not in index and " style=" not in index
    assert index.count("<script") == 1
    asked = {path for path in PAGE_FILES if path != "/" and f'"{path}"' in index}
    assert asked == PAGE_FILES.keys() - {"/"}  # all at once, not module after module


@pytest.mark.parametrize(
    ("own", "detector", "kind", "place"),
    [
        ([0.4, 0.4], [0.5, 0.5], None, "patient"),  # corrected
        ([0.5, 0.5], [0.5, 0.5], None, "detector"),  # "shall be the same" where nothing was corrected
        ([0.5, 0.5], [0.5, 0.5], "FIDUCIAL", "patient"),
        ([0.5, 0.5], None, "GEOMETRY", "patient"),
        ([0.5, 0.5], None, None, "unknown"),  # "it cannot be determined"
        (None, [0.5, 0.5], None, "detector"),
        (None, None, None, None),
    ],
)
def test_where_the_spacing_was_measured(
    own: list[float] | None, detector: list[float] | None, kind: str | None, place: str | None
) -> None:
    """PS3.3 10.7.1.1: PixelSpacing is of the patient's plane only where the image was calibrated."""
    header = Dataset()
    for keyword, value in (
        ("PixelSpacing", own), ("ImagerPixelSpacing", detector), ("PixelSpacingCalibrationType", kind),
    ):  # fmt: skip
        if value is not None:
            setattr(header, keyword, value)
    with DecoderPool(depth_px=4096) as pool:
        image = image_of("x", png(), 64, pool)._replace(header=header)
    found = pixels_of(image, "full")
    assert found is not None and found[0].spacing_at == place
    assert not found[0].is_side_doubtful


@pytest.mark.parametrize("note", ["orientation", "lateral_view", "no_preamble"])
def test_the_sides_are_doubted_before_any_answer(note: Note) -> None:
    with DecoderPool(depth_px=4096) as pool:
        image = image_of("x", png(), 64, pool)._replace(notes=(note,))
    found = pixels_of(image, "full")
    assert found is not None and found[0].is_side_doubtful == (note != "no_preamble")


def test_a_film_that_looks_turned_is_doubted_too(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(side=400))).rotate(180).save(buffer, format="PNG")
    assert pixels(client, send(client, buffer.getvalue()))[0]["is_side_doubtful"]
