"""Two real students, one film, over HTTP: both answers, blinded or not, and the preference that is kept."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kdistill.explain.explanation import Explanation
from kdistill.explain.reading import ImageReader, Reading
from kdistill.serve import comparisons
from kdistill.serve.differences import differences
from kdistill.serve.feedback import FeedbackStore, stored
from kdistill.serve.feedback_export import export_lines

from .comparing import Pair, PairRoom, compare, load_pair, make_pair, png, read, status, until

BETTER = {"choice": "a_better", "comment": "The side is right.", "reader": "Ada"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(make_pair(tmp_path_factory.mktemp("pair") / "run"))


@pytest.fixture(scope="module")
def running(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PairRoom, TestClient, Path]]:
    """One server for the tests of this module: its students, its client, its feedback file."""
    file = tmp_path_factory.mktemp("said") / "said.sqlite"
    room = PairRoom(pair, file)
    with TestClient(room.app, base_url="http://127.0.0.1") as client:
        yield room, client, file


@pytest.fixture
def client(running: tuple[PairRoom, TestClient, Path]) -> TestClient:
    """A new session on it."""
    running[1].cookies.clear()
    return running[1]


@pytest.fixture
def room(running: tuple[PairRoom, TestClient, Path]) -> PairRoom:
    return running[0]


@pytest.fixture
def kept(running: tuple[PairRoom, TestClient, Path]) -> Callable[[], list[dict[str, Any]]]:
    """The preferences that were exported since the test began."""
    before = len(preferences(running[2]))
    return lambda: preferences(running[2])[before:]


def preferences(file: Path) -> list[dict[str, Any]]:
    return [said for line in export_lines(file) for said in json.loads(line)["preferences"]]


def prefer(client: TestClient, result: str, **word: Any) -> dict[str, Any]:
    said = client.post(f"{result}/comparison/preference", json={**BETTER, **word})
    assert said.status_code == 200, said.text
    return said.json()


def test_both_models_read_the_film(client: TestClient, room: PairRoom) -> None:
    result = read(client, png())
    found = compare(client, result)
    assert found["stage"] == "done" and not found["blinded"]
    assert found["models"] == {"a": room.first.reader.name, "b": room.second.reader.name}
    assert found["a"] == client.get(result).json() and found["notice"].startswith("Research use only")
    assert found["a"]["image_sha256"] == found["b"]["image_sha256"]
    job = room.jobs.find(result.rpartition("/")[2], client.cookies["kdistill_session"])
    assert job is not None
    for side, model in (("a", room.first), ("b", room.second)):
        (reading,) = model.reader.read(job.image.pixels[None])
        shown = [item["probability"] for item in found[side]["observations"]]
        assert reading.probabilities is not None
        np.testing.assert_allclose(shown, reading.probabilities, atol=1e-5)
        assert [item["threshold"] for item in found[side]["observations"]] == pytest.approx(model.context.thresholds)
    apart = np.subtract(*[[item["probability"] for item in found[side]["observations"]] for side in "ab"])
    assert np.abs(apart).max() > 1e-3  # else nothing here tells the two models apart
    a, b = Explanation.model_validate(found["a"]), Explanation.model_validate(found["b"])
    assert found["differences"] == [one.model_dump(mode="json") for one in differences(a, b)] != []
    assert client.get("/v1/model").json()["against"] == room.second.reader.name


def test_asked_again_it_is_the_same(client: TestClient) -> None:
    result = read(client)
    first, before = compare(client, result), accepted(client)
    assert compare(client, result) == first and accepted(client) == before


def accepted(client: TestClient) -> str:
    return next(line for line in client.get("/metrics").text.splitlines() if 'outcome="accepted"' in line)


class Held:
    """A student that waits for a sign before it reads, and notes how many films it is given at once."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader, self.go, self.begun, self.batches = reader, threading.Event(), threading.Event(), []
        self.name, self.size_px, self.thresholds = reader.name, reader.size_px, reader.thresholds

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.batches.append(len(images))
        self.begun.set()
        self.go.wait(600)
        return self._reader.read(images)


def test_both_wait_in_one_bounded_queue_and_share_its_batches(pair: Pair) -> None:
    held: list[Held] = []
    room = PairRoom(pair, wrap=lambda reader: held.append(Held(reader)) or held[0], max_waiting=3, batch_size=8)
    with TestClient(room.app, base_url="http://127.0.0.1") as client:
        held[0].go.set()
        results = [read(client) for _ in range(2)]
        held[0].go.clear()
        held[0].begun.clear()
        blocking = client.post("/v1/samples/0/explain").json()
        assert held[0].begun.wait(600)
        for result in results:
            assert client.post(f"{result}/comparison", json={}).status_code == 202
        waiting = client.post("/v1/samples/0/explain").json()
        assert room.jobs.num_waiting == 3
        assert client.post("/v1/samples/0/explain").status_code == 429  # the second model's films fill it, too
        held[0].go.set()
        assert [compare(client, result)["stage"] for result in results] == ["done"] * 2
        for job in (blocking, waiting):
            until(partial(status, client, job))
            assert client.get(f"/v1/results/{job['id']}").json()["model"] == room.first.reader.name
    assert held[0].batches == [1, 1, 1, 1]  # and none of the second model's


@pytest.mark.parametrize("drawn", [0, 1])
def test_a_blinded_comparison_names_nobody_before_a_preference_is_stored(
    client: TestClient,
    room: PairRoom,
    kept: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    drawn: int,
) -> None:
    monkeypatch.setattr(comparisons.secrets, "randbelow", lambda _: drawn)
    names = [room.first.reader.name, room.second.reader.name]
    expected = dict(zip("ab", names[::-1] if drawn else names, strict=True))
    result = read(client)
    found = compare(client, result, blinded=True)
    assert found["blinded"] and found["models"] is None and (found["a"]["model"], found["b"]["model"]) == ("A", "B")
    assert not any(name in json.dumps(found) or name.split(",")[0] + ", seed" in json.dumps(found) for name in names)
    told = prefer(client, result)
    assert told["models"] == expected and told["a"]["model"] == expected["a"]
    for side in "ab":  # the answers stay where they were
        assert told[side]["observations"] == found[side]["observations"]
    assert [item["probability"] for item in told["ab"[drawn]]["observations"]] == [
        item["probability"] for item in client.get(result).json()["observations"]
    ]
    (said,) = kept()
    assert said["models"] == expected and said["preferred"] == expected["a"] and said["choice"] == "a_better"
    assert said["blinded"] and said["counts"] and said["comment"] == "The side is right." and said["reader"] == "Ada"
    assert told["preference"] == {key: said[key] for key in said if key not in ("result", "counts")} | {
        "image_sha256": found["a"]["image_sha256"]
    }


def test_the_order_is_drawn_for_each_film(client: TestClient) -> None:
    """All of twenty in one order: once in half a million runs."""
    turned = set()
    for _ in range(20):
        client.cookies.clear()
        result = read(client)
        compare(client, result, blinded=True)
        turned.add(prefer(client, result)["models"]["a"])
        if len(turned) == 2:
            return
    raise AssertionError("the order is always the same")


def test_a_change_of_mind_after_the_names_is_kept_as_not_blinded(
    client: TestClient, kept: Callable[[], list[dict[str, Any]]]
) -> None:
    result = read(client)
    compare(client, result, blinded=True)
    prefer(client, result)
    assert prefer(client, result)["preference"]["blinded"]  # the same word again is no new one
    for choice in ("both_wrong", "withdrawn"):
        prefer(client, result, choice=choice)
    said = kept()
    assert [(one["choice"], one["blinded"], one["counts"]) for one in said] == [
        ("a_better", True, False), ("both_wrong", False, False), ("withdrawn", False, True)
    ]  # fmt: skip
    assert [one["preferred"] for one in said[1:]] == [None, None]


@pytest.mark.parametrize("seen", ["", "/feedback", "/html"])
def test_nothing_is_blinded_for_who_has_seen_an_answer(client: TestClient, seen: str) -> None:
    result = read(client)
    client.get(f"{result}{seen}").raise_for_status()
    refused = client.post(f"{result}/comparison", json={"blinded": True})
    assert (refused.status_code, refused.json()["detail"]) == (409, comparisons.SEEN)
    again = read(client)  # the same film once more
    assert client.post(f"{again}/comparison", json={"blinded": True}).status_code == 409
    assert compare(client, result)["models"] is not None


def test_an_answer_that_is_told_meanwhile_unblinds_what_is_stored(
    client: TestClient, kept: Callable[[], list[dict[str, Any]]]
) -> None:
    result = read(client)
    assert compare(client, result, blinded=True)["models"] is None
    client.get(result).raise_for_status()
    prefer(client, result)
    assert [one["blinded"] for one in kept()] == [False]


def test_asked_for_openly_a_blinded_comparison_tells_the_names(
    client: TestClient, kept: Callable[[], list[dict[str, Any]]]
) -> None:
    result = read(client)
    blind = compare(client, result, blinded=True)
    opened = compare(client, result)
    assert opened["models"] is not None and opened["a"]["observations"] == blind["a"]["observations"]
    prefer(client, result)
    assert [one["blinded"] for one in kept()] == [False]


def test_another_session_finds_nothing(client: TestClient, room: PairRoom) -> None:
    result = read(client)
    compare(client, result)
    client.cookies.clear()
    for method, path, body in (
        ("POST", "/comparison", {}), ("GET", "/comparison", None), ("POST", "/comparison/preference", BETTER)
    ):  # fmt: skip
        assert client.request(method, f"{result}{path}", json=body).status_code == 404


def test_it_goes_with_its_film(client: TestClient, room: PairRoom) -> None:
    before = len(room.jobs._jobs)
    result = read(client)
    compare(client, result)
    assert client.delete(result).status_code == 204
    assert client.get(f"{result}/comparison").status_code == 404
    assert len(room.jobs._jobs) == before  # the second reading has gone, too


def test_a_film_that_neither_model_answers_is_not_preferred(client: TestClient) -> None:
    result = read(client, png(turned=True))
    found = compare(client, result)
    assert found["a"]["abstained"] and found["b"]["abstained"] and found["differences"] == []
    refused = client.post(f"{result}/comparison/preference", json=BETTER)
    assert refused.status_code == 422 and "Neither model" in refused.json()["detail"]


@pytest.mark.parametrize("word", [{}, {"choice": "c_better"}, {**BETTER, "comment": "x" * 501}, {**BETTER, "more": 1}])
def test_what_is_no_word(client: TestClient, word: dict[str, Any]) -> None:
    result = read(client)
    compare(client, result)
    assert client.post(f"{result}/comparison/preference", json=word).status_code == 422


def test_what_is_no_wish(client: TestClient) -> None:
    result = read(client)
    for wish in ({"blinded": 0}, {"blinded": "true"}, {"blind": True}, []):
        assert client.post(f"{result}/comparison", json=wish).status_code == 422


def test_where_nothing_is_stored_nothing_is_blinded(pair: Pair) -> None:
    with TestClient(PairRoom(pair).app, base_url="http://127.0.0.1") as client:
        result = read(client)
        assert client.post(f"{result}/comparison", json={"blinded": True}).status_code == 409
        assert compare(client, result)["models"] is not None
        assert client.post(f"{result}/comparison/preference", json=BETTER).status_code == 404


def test_without_free_text(pair: Pair, tmp_path: Path) -> None:
    with TestClient(PairRoom(pair, tmp_path / "said", feedback_text=False).app, base_url="http://127.0.0.1") as client:
        result = read(client)
        assert compare(client, result)["comments"] is False
        assert client.post(f"{result}/comparison/preference", json=BETTER).status_code == 422
        assert prefer(client, result, comment="")["preference"]["choice"] == "a_better"


def test_where_there_is_no_second_model(client: TestClient, room: PairRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    result = read(client)
    assert client.get(f"{result}/comparison").status_code == 404
    monkeypatch.setattr(room.jobs, "against", None)
    refused = client.post(f"{result}/comparison", json={})
    assert refused.status_code == 404 and "--against" in refused.json()["detail"]


def test_a_film_that_the_second_model_fails_on_can_be_asked_for_again(client: TestClient, room: PairRoom) -> None:
    class Broken(Held):
        def read(self, images: np.ndarray) -> Sequence[Reading]:
            raise RuntimeError

    sound = room.second
    room.jobs.against = sound._replace(reader=Broken(sound.reader))
    result = read(client)
    assert compare(client, result)["stage"] == "failed"
    assert client.post(f"{result}/comparison/preference", json=BETTER).status_code == 409
    room.jobs.against = sound
    assert compare(client, result)["stage"] == "done"


def test_no_room_for_the_second_reading(pair: Pair) -> None:
    held: list[Held] = []
    room = PairRoom(pair, wrap=lambda reader: held.append(Held(reader)) or held[0], max_waiting=1)
    with TestClient(room.app, base_url="http://127.0.0.1") as client:
        held[0].go.set()
        result = read(client)
        held[0].go.clear()
        held[0].begun.clear()
        client.post("/v1/samples/0/explain")
        assert held[0].begun.wait(600)
        client.post("/v1/samples/0/explain")
        refused = client.post(f"{result}/comparison", json={})
        held[0].go.set()
    assert refused.status_code == 429 and refused.headers["retry-after"]


def test_a_feedback_file_from_before_there_were_comparisons(pair: Pair, tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite"
    FeedbackStore(old).close()
    with sqlite3.connect(old) as connection:
        connection.execute("DROP TABLE preferences")
    assert list(export_lines(old)) == []  # read as it is
    with TestClient(PairRoom(pair, old).app, base_url="http://127.0.0.1") as again:
        result = read(again)
        compare(again, result)
        edema = {"kind": "finding", "observation": "Edema", "verdict": "disagree", "state": "absent"}
        said = again.post(f"{result}/feedback", json=edema)
        if said.status_code == 422:  # shown as absent
            said = again.post(f"{result}/feedback", json={**edema, "state": "present"})
        assert said.status_code == 200
        prefer(again, result, choice="equal")
    (line,) = [json.loads(line) for line in export_lines(old)]
    assert len(line["judgements"]) == len(line["preferences"]) == len(list(stored(old))) == 1
