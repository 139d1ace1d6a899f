"""The API as a client meets it: what is sent, what is told, in which form (FAULTS 38)."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator

import pydicom
import pytest
from fastapi.testclient import TestClient

from kdistill.explain.build import explain
from kdistill.explain.explanation import NOTICE

from ..explain.test_exports import film
from .telling import Clock, Telling, context, decoded, png, wait


def test_an_image_is_explained_as_on_the_command_line(client: TestClient) -> None:
    sent = client.post("/v1/explain", content=png())
    assert sent.status_code == 202 and sent.headers["location"] == f"/v1/jobs/{sent.json()['id']}"
    state = wait(client, sent.json())
    answer = client.get(state["result"]).json()
    image = decoded(png(), "uploaded image")
    expected = explain(image.study_id, image.pixels, Telling.answer(image.pixels), context(), image_sha256=image.sha256)
    assert answer == expected.model_dump(mode="json") and answer["notice"] == NOTICE
    assert client.get(state["result"] + "/json").json() == answer


def test_a_form_is_read_as_the_body_is_and_names_are_ignored(client: TestClient) -> None:
    files = {"image": ("../../etc/passwd", png(), "text/html")}
    answer = client.get(wait(client, client.post("/v1/explain", files=files).json())["result"])
    assert "passwd" not in answer.text and answer.json()["image_sha256"] == hashlib.sha256(png()).hexdigest()


def test_progress_is_told_stage_by_stage(client: TestClient) -> None:
    job = client.post("/v1/explain", content=png()).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        stages = re.findall(r'"stage": "(\w+)"', "".join(events.iter_text()))
    assert stages[-1] == "done" and set(stages) <= {"waiting", "reading", "done"} and len(stages) == len(set(stages))


def test_a_result_can_be_deleted_and_ends_by_itself(client: TestClient, clock: Clock) -> None:
    first, second = (client.post("/v1/explain", content=png(seed)).json() for seed in (0, 1))
    wait(client, first)
    wait(client, second)
    assert client.delete(f"/v1/results/{first['id']}").status_code == 204
    assert client.get(f"/v1/results/{first['id']}").status_code == 404
    clock.now += 3599
    assert client.get(f"/v1/results/{second['id']}").status_code == 200
    clock.now += 2
    assert client.get(f"/v1/results/{second['id']}").status_code == 404


def chunks(total: int) -> Iterator[bytes]:
    for _ in range(total // 100_000):
        yield b"\0" * 100_000


def test_what_is_too_large_is_refused_while_it_streams(client: TestClient, reader: Telling) -> None:
    assert client.post("/v1/explain", content=b"\0" * 1_000_001).status_code == 413
    assert client.post("/v1/explain", content=chunks(2_000_000)).status_code == 413  # no length is declared
    assert client.post("/v1/explain", files={"image": b"\0" * 1_000_001}).status_code == 413
    assert client.post("/v1/explain", content=b"x", headers={"content-length": "10000000000"}).status_code == 413
    assert reader.batches == []


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 400, "no image"),
        (b"report: normal", 415, "no PNG, JPEG or DICOM"),
        (png()[:-40], 415, "cut short"),
        (b"\x89PNG\r\n\x1a\n", 415, "PNG"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(
    client: TestClient, content: bytes, status: int, told: str
) -> None:
    answer = client.post("/v1/explain", content=content, headers={"content-type": "image/png"})
    assert answer.status_code == status and told in answer.json()["detail"]


def test_forms_that_are_none(client: TestClient) -> None:
    for files in ({"other": png()}, [("image", png()), ("image", png())], {f"f{n}": b"x" for n in range(500)}):
        assert client.post("/v1/explain", files=files).status_code == 400  # type: ignore[arg-type]
    torn = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/explain", content=b"--x\r\nno end", headers=torn).status_code == 400
    assert client.post("/v1/explain", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_formats(client: TestClient) -> None:
    buffer = io.BytesIO()
    source = film(80, 64)
    source.save_as(buffer, enforce_file_format=True)
    result = wait(client, client.post("/v1/explain", content=buffer.getvalue()).json())["result"]
    assert client.get(f"{result}/fhir").json()["resourceType"] == "Bundle"
    report = client.get(f"{result}/dicom-sr")
    assert report.headers["content-type"] == "application/dicom"
    assert pydicom.dcmread(io.BytesIO(report.content)).StudyInstanceUID == source.StudyInstanceUID
    page = client.get(f"{result}/html")
    assert page.text.startswith("<!DOCTYPE html>") and NOTICE in page.text and "Doe" not in page.text
    assert client.get(f"{result}/pdf").content.startswith(b"%PDF")
    assert client.get(f"{result}/docx").status_code == 422
    plain = wait(client, client.post("/v1/explain", content=png()).json())["result"]
    assert client.get(f"{plain}/dicom-sr").status_code == 409


def test_operation(client: TestClient) -> None:
    wait(client, client.post("/v1/explain", content=png()).json())
    client.post("/v1/explain", content=b"no image")
    assert client.get("/healthz").json() == {"status": "ok"} and client.get("/readyz").json() == {"status": "ready"}
    measured = client.get("/metrics").text
    for line in ('outcome="done"} 1.0', 'outcome="unreadable"} 1.0', "kdistill_waiting 0.0"):
        assert line in measured
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/explain" in paths and "/" not in paths


#: How pydantic names limits that it cannot write as JSON Schema does: a client would not know of them.
NO_SCHEMA = {"ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length"}


def keys_of(node: object) -> set[str]:
    match node:
        case dict():
            return set(node).union(*map(keys_of, node.values()))
        case list():
            return set().union(*map(keys_of, node))
        case _:
            return set()


def test_limits_are_told_as_json_schema_has_them(client: TestClient) -> None:
    """`seed` of POST /v1/model said "ge": 2,000 cases of schemathesis found that -1 is refused and yet valid."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ModelChoice"]["properties"]["seed"]["anyOf"][0] == {
        "type": "integer", "minimum": 0, "maximum": 2**31
    }  # fmt: skip
    assert keys_of(schemas) & NO_SCHEMA == set() and "minimum" in keys_of(schemas)
