"""A feedback file that is locked, full, moved, foreign or shared costs the request that meets it, and no other."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from kdistill.errors import EnvironmentFault, InputError
from kdistill.serve.feedback import FeedbackStore, FeedbackUnavailable, stored
from kdistill.serve.feedback_export import export_lines

from .speaking import EDEMA, explained, judgement, lines, serving
from .telling import png


@pytest.fixture
def client(file: Path) -> Iterator[TestClient]:
    with serving(file) as found:
        yield found


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


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
