"""What readers say: kept once, counted once, never with anything of the patient, and read back as a reference."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kdistill.cli.main import app as command_line
from kdistill.errors import EnvironmentFault, InputError
from kdistill.explain.build import explain
from kdistill.explain.explanation import Explanation
from kdistill.observations import INDEX
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore, FeedbackUnavailable, stored
from kdistill.serve.feedback_export import export_lines, majority
from kdistill.serve.jobs import Jobs
from kdistill.serve.judgements import FindingWord, Judgement, ShownFinding, judge

from ..explain.conftest import QUOTE, make_reading, radiograph
from ..explain.test_exports import film
from .test_app import TOKEN, Clock, Telling, context, decoded, png, wait

EDEMA = {"kind": "finding", "observation": "Edema", "verdict": "agree"}


class Speaking(Telling):
    """Sees an edema and a left effusion, and says so; writes a rationale of two sentences."""

    @staticmethod
    def answer(image: object) -> object:
        return make_reading(
            {"Edema": 0.9, "Pleural Effusion": 0.8, "Pneumonia": 0.52},
            {"Pleural Effusion": "left"},
            findings="There is edema. There is a left pleural effusion.",
            impression="Edema.",
            rationale=f"Left pleural effusion. {QUOTE}",
        )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "said here.sqlite"


def serving(file: Path | None, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"feedback": file, **settings})
    store = FeedbackStore(file, max_mb=config.feedback_max_mb, wait_s=0.3) if file else None
    app = create_app(Jobs(Speaking(), context(), config, clock=Clock()), config, feedback=store)  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.fixture
def client(file: Path) -> Iterator[TestClient]:
    with serving(file) as found:
        yield found


def explained(client: TestClient, data: bytes | None = None) -> str:
    sent = client.post("/v1/explain", content=data or png())
    return str(wait(client, sent.json())["result"])


def judgement(**changes: object) -> Judgement:
    shown = ShownFinding(probability=0.9, threshold=0.5, state="present", side=None)
    said = {"target": "finding/Edema", "verdict": "agree", "state": "present", "time": "2026-11-26T08:00:00+00:00"}
    return Judgement.model_validate({"image_sha256": "ab" * 32, "model": "m", "shown": shown, **said, **changes})


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in export_lines(file)]


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


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""

# Faults: each costs the request that meets it, and no other.


def test_a_locked_file_costs_that_request_only(client: TestClient, file: Path) -> None:
    result = explained(client)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        refused = client.post(f"{result}/feedback", json=EDEMA)
        assert refused.status_code == 503 and "locked by another process" in refused.json()["detail"]
        assert client.get(f"{result}/feedback").json()["judgements"] == []  # reading goes on
        assert client.get(result).status_code == 200 and explained(client, png(1))
        holder.communicate("")
    assert client.post(f"{result}/feedback", json=EDEMA).status_code == 200


def test_many_that_wait_for_a_locked_file_stop_nothing_else(client: TestClient, file: Path) -> None:
    result = explained(client)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(30) as pool:
            begin = time.monotonic()
            asked = [pool.submit(client.post, f"{result}/feedback", json=EDEMA) for _ in range(30)]
            assert client.get(result).status_code == 200
            assert {future.result().status_code for future in asked} == {503}
        assert time.monotonic() - begin < 30  # 8 wait 0.3 s each, one after the other; the rest is sent away at once
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_a_full_file_is_said_and_what_stands_in_it_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    with serving(file, feedback_max_mb=1) as client:
        result = explained(client)
        with sqlite3.connect(file) as filler:  # another process fills it up to the last page
            row = ("r", *["x" * 900] * 5)
            columns = "result, image_sha256, model, target, reader, judgement"
            filler.executemany(f"INSERT INTO judgements ({columns}) VALUES (?, ?, ?, ?, ?, ?)", [row] * 400)
        filler.close()
        refused = client.post(f"{result}/feedback", json={**EDEMA, "comment": "y" * 500})
        assert refused.status_code == 503 and "no room left" in refused.json()["detail"]
        assert client.get(f"{result}/feedback").json()["judgements"] == []
        assert client.get(result).status_code == 200


def test_a_read_only_file_is_said(file: Path) -> None:
    store = FeedbackStore(file)
    store._connection.execute("PRAGMA query_only = ON")  # root, who runs tests in containers, may write any file
    with pytest.raises(FeedbackUnavailable, match="read-only"):
        store.add("r", judgement())
    store._connection.execute("PRAGMA query_only = OFF")
    assert store.add("r", judgement()) == judgement()
    store.close()


def test_a_folder_that_takes_no_file_is_said() -> None:
    with pytest.raises(EnvironmentFault, match="cannot be opened"):
        FeedbackStore(Path("/proc/feedback.sqlite"))  # not even root may make one there


def test_a_file_that_was_moved_away_is_said(file: Path) -> None:
    store = FeedbackStore(file)
    file.rename(file.with_name("elsewhere"))
    with pytest.raises(FeedbackUnavailable, match="moved or deleted"):
        store.add("r", judgement())
    store.close()


def text_file(path: Path) -> None:
    path.write_text("study_id,Edema\n" * 100)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE archive (a)")
    connection.close()


def newer(path: Path) -> None:
    FeedbackStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (text_file, "is no SQLite file"),
        (foreign, "of another program"),
        (newer, "form 9, and this version of kdistill writes form 1"),
        (Path.mkdir, "cannot be opened"),
    ],
)
def test_what_is_no_feedback_file_is_refused_and_left_alone(file: Path, make: object, told: str) -> None:
    make(file)  # type: ignore[operator]
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises((InputError, EnvironmentFault), match=told):
        FeedbackStore(file)
    if file.is_file():
        assert file.read_bytes() == before
        with pytest.raises(InputError, match=told):
            list(export_lines(file))


WRITER = """
import sys, time
from pathlib import Path
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.judgements import Judgement
store = FeedbackStore(Path(sys.argv[1]), wait_s=30)
for number in range(40):
    store.add(f"r{number}", Judgement.model_validate_json(sys.argv[2]))
"""


def test_two_servers_write_one_file(file: Path) -> None:
    """Both also make it: neither finds it there."""
    argument = judgement().model_dump_json()
    servers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), argument]) for _ in range(2)]
    assert [server.wait(120) for server in servers] == [0, 0]
    kept = list(stored(file))
    assert len(kept) == 80 and len({result for result, _ in kept}) == 80  # results of two processes are never one
    (line,) = lines(file)
    assert line["num_readers"] == {"Edema": 80}


# The export as a reference.

states = st.lists(st.sampled_from(["present", "absent", "uncertain"]), min_size=1, max_size=9)


@given(states)
def test_majority(said: list) -> None:
    counts = {state: said.count(state) for state in said}
    winners = [state for state, count in counts.items() if count == max(counts.values())]
    expected = {"present": 1, "absent": 0, "uncertain": -1}[winners[0]] if len(winners) == 1 else -1
    assert majority(said) == expected == majority(said[::-1])


def test_a_named_reader_counts_once_for_an_image_and_a_nameless_one_for_each_result(file: Path) -> None:
    store = FeedbackStore(file)
    absent = {"verdict": "disagree", "state": "absent"}
    store.add("a", judgement(reader="Ada"))
    store.add("b", judgement(reader="Ada", **absent))  # the same image, a second time
    assert lines(file)[0]["labels"] == {"Edema": 0} and lines(file)[0]["num_readers"] == {"Edema": 1}
    store.add("a", judgement())
    store.add("b", judgement())
    assert lines(file)[0]["labels"] == {"Edema": 1} and lines(file)[0]["num_readers"] == {"Edema": 3}
    store.add("c", judgement(reader="Bo", **absent))
    assert lines(file)[0]["labels"] == {"Edema": -1} and lines(file)[0]["num_readers"] == {"Edema": 4}
    store.close()


def test_an_export_is_a_reference_for_the_explanations_of_explain(file: Path, tmp_path: Path) -> None:
    """The whole way: films judged in the reading room, explained by a command, scored by another."""
    explanations: list[Explanation] = []
    with serving(file) as client:
        for seed, verdict in enumerate([{}, {"verdict": "disagree", "state": "absent"}, {"verdict": "agree"}]):
            result = explained(client, png(seed))
            assert client.post(f"{result}/feedback", json={**EDEMA, **verdict}).status_code == 200
            image = decoded(png(seed), f"film-{seed}.png")
            reading = make_reading({"Edema": (0.9, 0.2, 0.7)[seed]}, findings="There is edema.")
            explanations.append(explain(image.study_id, image.pixels, reading, context(), image_sha256=image.sha256))
    refused = explanations[0].model_copy(update={"abstained": True, "image_sha256": "0" * 64})
    out, predictions = tmp_path / "feedback.jsonl", tmp_path / "preds.json"
    run = CliRunner().invoke(command_line, ["feedback", "export", str(file), "--out", str(out)])
    assert run.exit_code == 0 and len(out.read_text().splitlines()) == 3
    predictions.write_text(json.dumps([e.model_dump(mode="json") for e in (*explanations, refused)]))
    command = ["score", "--reference", str(out), "--predictions", str(predictions), "--json"]
    done = CliRunner().invoke(command_line, [*command, "--key", "image_sha256"])
    assert done.exit_code == 0, done.output
    assert "1 explanations abstained and are left out" in done.stderr
    rows = {
        (row["name"], row["uncertain"]): row
        for row in json.loads(done.stdout)
        if row["observation"] == "Edema" and row["arm"] == "preds"
    }
    assert rows["auc", "masked"]["value"] == 1.0 and rows["auc", "masked"]["n"] == 3
    assert rows["report_f1", "negative"]["value"] == pytest.approx(0.8)  # all three reports state it, one is wrong
    unmatched = CliRunner().invoke(command_line, command)
    assert isinstance(unmatched.exception, InputError) and "--key image_sha256" in str(unmatched.exception)


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    missing = CliRunner().invoke(command_line, ["feedback", "export", str(tmp_path / "none.sqlite")])
    assert isinstance(missing.exception, InputError) and "no such file" in str(missing.exception)
    FeedbackStore(tmp_path / "empty.sqlite").close()
    assert CliRunner().invoke(command_line, ["feedback", "export", str(tmp_path / "empty.sqlite")]).stdout == ""
