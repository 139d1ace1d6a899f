"""What readers say: kept once, counted once, and never with anything of the patient."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from kdistill.errors import InputError
from kdistill.explain.build import explain
from kdistill.observations import INDEX
from kdistill.serve.judgements import FindingWord, judge

from ..explain.conftest import QUOTE, make_reading, radiograph
from ..explain.test_exports import film
from .speaking import EDEMA, explained, lines, serving
from .telling import TOKEN, context


@pytest.fixture
def client(file: Path) -> Iterator[TestClient]:
    with serving(file) as found:
        yield found


def test_what_is_said_stands_in_the_export_with_what_was_shown(client: TestClient, file: Path) -> None:
    result = explained(client)
    word = {**EDEMA, "verdict": "disagree", "state": "absent", "comment": "Looks clear.", "reader": "Ada"}
    said = client.post(f"{result}/feedback", json=word)
    assert said.status_code == 200, said.text
    client.post(f"{result}/feedback", json={"kind": "sentence", "section": "rationale", "index": 1, "verdict": "wrong"})
    (line,) = lines(file)
    shown = client.get(result).json()
    assert line["study_id"] == line["image_sha256"][:16] and line["image_sha256"] == shown["image_sha256"]
    assert line["labels"] == {"Edema": 0} and line["num_readers"] == {"Edema": 1}
    finding, sentence = line["judgements"]
    assert finding["shown"] == {k: shown["observations"][INDEX["Edema"]][k] for k in finding["shown"]}
    assert (finding["model"], finding["comment"], finding["reader"]) == (shown["model"], "Looks clear.", "Ada")
    assert sentence["shown"] == {"text": QUOTE, "observation": "Pleural Effusion"}
    known = client.get(f"{result}/feedback").json()
    assert known["judgements"][0] == said.json() and len(known["judgements"]) == 2
    assert [s["text"] for s in known["sentences"] if s["section"] == "findings"] == [
        "There is edema.",
        "There is a left pleural effusion.",
    ]


def test_nothing_of_the_patient_the_file_or_the_session_is_stored(client: TestClient, file: Path) -> None:
    buffer = io.BytesIO()
    film(80, 64).save_as(buffer, enforce_file_format=True)
    result = explained(client, buffer.getvalue())
    assert client.post(f"{result}/feedback", json=EDEMA).status_code == 200
    cookie = client.cookies["kdistill_session"]
    kept = b"".join(path.read_bytes() for path in file.parent.iterdir())
    for secret in (b"Doe", b"uploaded image", cookie.encode(), result.split("/")[-1].encode(), b"1.2."):
        assert secret not in kept
    assert b"finding/Edema" in kept  # it was looked for where feedback is
    assert file.stat().st_mode & 0o077 == 0
    assert {path.name for path in file.parent.iterdir()} <= {file.name, f"{file.name}-wal", f"{file.name}-shm"}


def test_the_last_word_counts_and_the_same_word_is_kept_once(client: TestClient, file: Path) -> None:
    result = explained(client)
    first = client.post(f"{result}/feedback", json=EDEMA).json()
    assert client.post(f"{result}/feedback", json=EDEMA).json() == first
    for word in ({"verdict": "disagree", "state": "uncertain"}, {"verdict": "withdrawn"}, {"reader": "Bo"}):
        assert client.post(f"{result}/feedback", json={**EDEMA, **word}).status_code == 200
    (line,) = lines(file)
    assert [(said["verdict"], said["counts"]) for said in line["judgements"]] == [
        ("agree", False),
        ("disagree", False),
        ("withdrawn", True),
        ("agree", True),
    ]
    assert line["labels"] == {"Edema": 1} and line["num_readers"] == {"Edema": 1}
    assert len(client.get(f"{result}/feedback").json()["judgements"]) == 2


NONSENSE = [
    ({**EDEMA, "verdict": "disagree"}, "say what it is instead"),
    ({**EDEMA, "verdict": "disagree", "state": "present"}, "this is what was shown"),
    ({**EDEMA, "state": "absent"}, "contradict each other"),
    ({**EDEMA, "verdict": "withdrawn", "state": "absent"}, "taken back"),
    ({**EDEMA, "verdict": "disagree", "state": "absent", "side": "left"}, "what is absent has no side"),
    ({**EDEMA, "observation": "Cardiomegaly", "side": "left"}, "cardiomegaly has no side"),
    ({**EDEMA, "observation": "Gout"}, "no such observation"),
    ({"kind": "sentence", "section": "impression", "index": 1, "verdict": "wrong"}, "no sentence 1"),
    ({"kind": "sentence", "section": "impression", "index": 0, "verdict": "agree"}, "input should be"),
    ({**EDEMA, "comment": "x" * 501}, "at most 500"),
    ({**EDEMA, "reader": "x" * 61}, "at most 60"),
    ({**EDEMA, "image": "x"}, "extra"),
    ([], "valid dictionary"),
]


def test_words_that_make_no_sense_are_refused(client: TestClient, file: Path) -> None:
    result = explained(client)
    for word, told in NONSENSE:
        answer = client.post(f"{result}/feedback", json=word)
        assert answer.status_code == 422 and told in answer.text.lower(), word
    assert lines(file) == []


def test_another_side_is_a_disagreement(client: TestClient, file: Path) -> None:
    word = {"kind": "finding", "observation": "Pleural Effusion", "verdict": "disagree", "side": "right"}
    said = client.post(f"{explained(client)}/feedback", json=word).json()
    assert (said["state"], said["side"], said["shown"]["side"]) == ("present", "right", "left")
    assert lines(file)[0]["labels"] == {"Pleural Effusion": 1}


def test_an_answer_that_abstained_cannot_be_judged() -> None:
    found = explain("x", radiograph() * 0 + 7, make_reading(), context())
    assert found.abstained
    word = FindingWord(kind="finding", observation="Edema", verdict="agree")
    with pytest.raises(InputError, match="nothing to judge"):
        judge(found, word, datetime.now(UTC))


def test_somebody_elses_result_cannot_be_judged_or_looked_at(client: TestClient) -> None:
    result = explained(client)
    client.post(f"{result}/feedback", json=EDEMA)
    client.cookies.clear()
    assert client.post(f"{result}/feedback", json=EDEMA).status_code == 404
    assert client.get(f"{result}/feedback").status_code == 404


def test_it_is_off_unless_a_file_is_named(tmp_path: Path) -> None:
    with serving(None) as client:
        result = explained(client)
        assert client.get("/v1/session").json()["feedback"] is False
        assert client.post(f"{result}/feedback", json=EDEMA).status_code == 404
        assert client.get(f"{result}/feedback").status_code == 404
    assert list(tmp_path.iterdir()) == []


def test_free_text_can_be_switched_off(file: Path) -> None:
    with serving(file, feedback_text=False) as client:
        result = explained(client)
        refused = client.post(f"{result}/feedback", json={**EDEMA, "comment": "a"})
        assert refused.status_code == 422 and "no free text" in refused.json()["detail"]
        assert client.post(f"{result}/feedback", json=EDEMA).status_code == 200
        assert client.get(f"{result}/feedback").json()["comments"] is False


def test_everything_is_given_out_only_with_a_token(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/v1/session").json()["feedback"] is True
    assert client.get("/v1/feedback.jsonl").status_code == 403
    with serving(tmp_path / "b.sqlite", token=TOKEN) as locked:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert locked.get("/v1/feedback.jsonl").status_code == 401
        assert locked.get("/v1/session").json()["feedback"] is False
        assert locked.post("/v1/session", headers=bearer).json()["feedback"] is True
        assert locked.post(f"{explained(locked)}/feedback", json=EDEMA).status_code == 200
        locked.cookies.clear()
        answer = locked.get("/v1/feedback.jsonl", headers=bearer)
        assert answer.headers["content-type"].startswith("application/jsonl")
        assert json.loads(answer.text)["labels"] == {"Edema": 1}


def test_control_characters_are_blanked_and_halves_of_characters_refused(client: TestClient, file: Path) -> None:
    result = explained(client)
    word = {**EDEMA, "comment": "a\u202eb\x00c\ne", "reader": " \x1b[31m"}
    assert client.post(f"{result}/feedback", json=word).status_code == 200
    (said,) = lines(file)[0]["judgements"]
    assert (said["comment"], said["reader"]) == ("a b c\ne", "[31m")
    for bad in (
        {"comment": "secret \ud800"},
        {"side": float("nan")},
        {"secret \ud800": 1},
        {"comment": "secret" * 100},
    ):
        body = json.dumps({**EDEMA, **bad}).encode()
        refused = client.post(f"{result}/feedback", content=body, headers={"content-type": "application/json"})
        assert refused.status_code == 422 and "secretsecret" not in refused.text
    assert len(lines(file)[0]["judgements"]) == 1
