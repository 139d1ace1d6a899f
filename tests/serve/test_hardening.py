"""What reading the server's code as an attacker and as an operator found; one test a finding."""

from __future__ import annotations

import io
import logging
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import HTTPException
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from starlette.datastructures import Headers

from kdistill.serve import app as app_module
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.desk import Desk
from kdistill.serve.jobs import Jobs
from kdistill.serve.security import Sessions
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.dicom import dicom_header

from ..explain.test_exports import film
from .serving import listening
from .test_app import Clock, Telling, context, decoded, png, serving, wait


def dicom_bytes(**changes: object) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says that the values are too long
        film(80, 64, **changes).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_a_result_keeps_neither_the_file_nor_megabytes_of_its_tags() -> None:
    """A header is kept as long as its result: pydicom's data set held the whole upload, 64 MB for an hour."""
    item = Dataset()
    item.ImageComments = "x" * 9_000
    data = dicom_bytes(
        PatientComments="p" * 2_000_000, RequestAttributesSequence=Sequence([item] * 200),
        RequestedProcedureDescription="r" * 60_000,
    )  # fmt: skip
    header = dicom_header(data)
    assert header is not None and header.buffer is None
    assert len(header.to_json()) < 20_000
    assert header.PatientID == "P-77" and header.Rows == 80, "what results need stays"
    assert dicom_header(dicom_bytes()).to_json() != "{}"  # type: ignore[union-attr]


def test_an_image_that_was_deleted_while_it_waited_is_not_read() -> None:
    reader = Telling()
    with serving(reader, Clock()) as client:
        reader.go.clear()
        first = client.post("/v1/explain", content=png()).json()
        while client.get(f"/v1/jobs/{first['id']}").json()["stage"] != "reading":
            time.sleep(0.01)
        second = client.post("/v1/explain", content=png(1)).json()
        assert client.delete(f"/v1/results/{second['id']}").status_code == 204
        reader.go.set()
        assert wait(client, first)["stage"] == "done"
        third = client.post("/v1/explain", content=png(2)).json()
        assert wait(client, third)["stage"] == "done"
    assert reader.batches == [1, 1]


def test_a_model_that_hangs_does_not_keep_the_server_from_ending() -> None:
    reader = Telling()
    jobs = Jobs(reader, context(), ServeConfig(max_waiting=1))
    reader.go.clear()
    jobs.submit("s", decoded(png()))
    begun = time.monotonic()
    jobs.close(within_s=0.5)
    assert time.monotonic() - begun < 3
    reader.go.set()


def test_open_event_streams_do_not_keep_the_server_from_ending() -> None:
    reader = Telling()
    config = ServeConfig(port=0, max_waiting=4)
    jobs = Jobs(reader, context(), config)
    with listening(create_app(jobs, config), config) as (server, port):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client, ThreadPoolExecutor(1) as pool:
            reader.go.clear()
            job = client.post("/v1/explain", content=png()).json()
            stream = pool.submit(client.get, f"/v1/jobs/{job['id']}/events")
            time.sleep(0.3)
            begun = time.monotonic()
            server.should_exit = True
            time.sleep(0.3)
            reader.go.set()  # what was accepted is answered, and the stream ends with it
            told = stream.result()
        assert '"stage": "done"' in told.text and told.headers["x-accel-buffering"] == "no"
    assert time.monotonic() - begun < 15


def test_a_quiet_stream_sends_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_BEAT_S", 0.2)
    reader = Telling()
    with serving(reader, Clock()) as client:
        reader.go.clear()
        job = client.post("/v1/explain", content=png()).json()
        threading.Timer(1.0, reader.go.set).start()
        assert client.get(f"/v1/jobs/{job['id']}/events").text.count(": still here\n\n") >= 1


def test_an_unforeseen_error_names_no_patient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise ValueError("Doe^Jane was born on 19400101")

    monkeypatch.setattr(app_module, "export", fails)
    with caplog.at_level(logging.INFO), serving(Telling(), Clock()) as client:
        result = wait(client, client.post("/v1/explain", content=png()).json())["result"]
        answer = client.get(f"{result}/fhir")
    assert answer.status_code == 500 and answer.json() == {"detail": "the server failed"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "ValueError" in caplog.text and "Doe" not in caplog.text and "1940" not in caplog.text


HEADERS: tuple[dict[str, object], ...] = (
    {"PatientBirthDate": "yesterday"}, {"PatientName": "a\x1b[31m\x00b"}, {"StudyDate": "20269999"},
    {"PatientName": "n" * 100_000}, {"StudyInstanceUID": "1." * 60 + "1"}, {"StudyInstanceUID": "not a uid"},
    {"SOPClassUID": ""}, {"PatientID": "\u202e"}, {"SpecificCharacterSet": "NO SUCH SET"},
    {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada"}, {"PatientSex": "<b>"},
    {"AccessionNumber": "x" * 500}, {"PatientAge": "-1"}, {"ReferringPhysicianName": "a=b=c=d^e^f^g^h^i"},
)  # fmt: skip


def test_no_header_makes_an_export_fail_unforeseen() -> None:
    """The formats that read it: a result, or 409 or 415 with the reason."""
    told = {}
    with serving(Telling(), Clock()) as client:
        for changes in HEADERS:
            sent = client.post("/v1/explain", content=dicom_bytes(**changes))
            codes = [sent.status_code]
            if sent.status_code == 202:
                result = wait(client, sent.json())["result"]
                codes += [client.get(f"{result}/{kind}").status_code for kind in ("fhir", "dicom-sr", "dicom-sc")]
            told[str(changes)[:60]] = codes
    assert all(codes in ([415], [202, 200, 200, 200], [202, 200, 409, 409]) for codes in told.values()), told
    assert len({tuple(codes) for codes in told.values()}) > 1, told


def test_uploads_together_have_a_bound() -> None:
    config = ServeConfig(max_held_mb=1, max_waiting=4)
    jobs = Jobs(Telling(), context(), config)
    desk = Desk(jobs, config, DecoderPool())
    desk.took(600_000, is_first=True)
    with pytest.raises(HTTPException) as refused:
        desk.took(600_000, is_first=True)
    assert refused.value.status_code == 429 and refused.value.headers == {"Retry-After": "5"}
    assert (desk.held_bytes, desk.num_uploading) == (600_000, 1)
    jobs.close()


def test_health_is_told_while_every_thread_is_busy() -> None:
    """Answers that are computed run in 40 threads; health must not queue behind them."""
    release = threading.Event()
    with serving(Telling(), Clock()) as client:

        @client.app.get("/busy")  # type: ignore[attr-defined]
        def busy() -> None:
            release.wait(20)

        with ThreadPoolExecutor(45) as pool:
            waiting = [pool.submit(client.get, "/busy") for _ in range(45)]
            time.sleep(0.5)
            begun = time.monotonic()
            assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
            took_s = time.monotonic() - begun
            release.set()
            assert {future.result().status_code for future in waiting} == {200}
    assert took_s < 2


def test_a_session_has_to_show_the_token_again_after_half_a_day() -> None:
    clock = Clock()
    sessions = Sessions("a-token-of-enough-letters", clock=clock)
    sessions.admit("one")
    clock.now += 12 * 3600 - 1
    assert sessions.may_ask(Headers(), "one") and not sessions.may_ask(Headers(), None)
    clock.now += 2
    assert not sessions.may_ask(Headers(), "one")


@pytest.mark.parametrize("token", ["sixteen letters ", "sixteen\nletters.", "sixteen-letters\xe4", "short"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        ServeConfig(token=token)


def test_a_wrong_method_is_told_all_the_right_ones() -> None:
    with serving(Telling(), Clock()) as client:
        for path, allowed in (("/v1/session", "GET, POST"), ("/v1/results/x", "DELETE, GET"), ("/healthz", "GET")):
            answer = client.patch(path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_the_server_does_not_say_what_it_runs_on() -> None:
    config = ServeConfig(port=0)
    with listening(create_app(Jobs(Telling(), context(), config), config), config) as (_, port):
        found = httpx.get(f"http://127.0.0.1:{port}/healthz")
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert "server" not in found.headers
        assert httpx.get(f"http://127.0.0.1:{port}/", headers=upgrade).status_code == 200, "no other protocol is spoken"


def test_the_contract_names_links_that_exist() -> None:
    config = ServeConfig(token="a-token-of-enough-letters")
    app = create_app(Jobs(Telling(), context(), config), config)
    schema = app.openapi()
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    known = {operation["operationId"] for operation in operations}
    links = {
        link["operationId"]
        for operation in operations
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    }
    assert len(links) == 10 and links <= known
    assert schema["paths"]["/v1/explain"]["post"]["security"] and "security" not in schema["paths"]["/healthz"]["get"]
