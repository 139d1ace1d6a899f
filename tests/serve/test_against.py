"""`serve RUN --against ARM[:SEED]`: what is loaded beside the first student, what is refused, and changes of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from kdistill.errors import InputError
from kdistill.serve import comparisons
from kdistill.serve.models import Choice, choice_of, load_model
from kdistill.serve.run import serve_run

from .comparing import PairRoom, compare, load_pair, make_pair, read
from .students import add_student


def test_a_reload_loads_both_and_the_same_model_is_not_compared(tmp_path: Path) -> None:
    run = make_pair(tmp_path / "run")
    room = PairRoom(load_pair(run))
    with TestClient(room.app, base_url="http://127.0.0.1") as client:
        result = read(client)
        add_student(run, "full", 0, weights=7)
        add_student(run, "template", 3, weights=8)
        room.models.swap()
        assert room.jobs.against is not None
        names = (room.jobs.reader.name, room.jobs.against.reader.name)
        assert not {*names} & {room.first.reader.name, room.second.reader.name}
        found = compare(client, result)  # the answer that was given stays as it was; the second is today's
        assert found["models"] == {"a": room.first.reader.name, "b": names[1]}
        room.models.swap("template", 3)
        same = read(client)
        refused = client.post(f"{same}/comparison", json={})
        assert (refused.status_code, refused.json()["detail"]) == (409, comparisons.SAME)
        room.models.swap()  # the present one alone: it cannot be loaded beside itself
        assert room.jobs.reader.name == names[1]


def test_only_another_student_of_the_same_size_is_loaded_beside_one(tmp_path: Path) -> None:
    run, first, second = load_pair(make_pair(tmp_path / "run"))
    with pytest.raises(InputError, match="is the student that answers"):
        load_model(run, "full", 0, beside=first)
    add_student(run, "report_only", 0, size_px=96)
    with pytest.raises(InputError, match="reads 96 pixels"):
        load_model(run, "report_only", 0, beside=first)
    assert second.context.citations is first.model.context.citations  # one library in memory, not two


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    run = make_pair(tmp_path / "run")
    assert [choice_of(text, where="x") for text in ("full", "full:12")] == [Choice("full"), Choice("full", 12)]
    for text in ("", ":1", "full:", "full:x", "../full", "full:1:2"):
        with pytest.raises(InputError, match="names no student"):
            serve_run(run, {"port": 0}, against=text, announce=print)
    with pytest.raises(InputError, match="has no student absent"):
        serve_run(run, {"port": 0}, against="absent", announce=print)
