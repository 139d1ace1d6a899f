"""Another model in the place of the one that answers: no request dropped, none answered by a model it does not name."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from kdistill.errors import InputError, PolicyError
from kdistill.explain.student_reader import load_reader
from kdistill.serve import models as module
from kdistill.serve.models import load_model
from kdistill.serve.sockets import server_of

from .students import add_student, make_run, poison
from .swapping import BEARER, Room, answer, told_by
from .telling import png


@pytest.fixture
def room(run: Path) -> Room:
    return Room(run)


@pytest.fixture
def client(room: Room) -> Iterator[TestClient]:
    with TestClient(room.app, base_url="http://127.0.0.1", headers=BEARER) as found:
        yield found


def serving(room: Room) -> tuple[str, Callable[[], None]]:
    """A real server on a free port: its address, and what ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of(room.app, room.config.model_copy(update={"port": port}))
    thread = threading.Thread(target=server.run)
    thread.start()
    for _ in range(1000):
        if server.started:
            break
        time.sleep(0.02)

    def end() -> None:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()

    return f"http://127.0.0.1:{port}", end


def test_a_swap_under_load_drops_no_request_and_mixes_no_answer(run: Path) -> None:
    room = Room(run)
    old, new = (load_reader(run / "student" / name) for name in ("full/seed-0", "template/seed-3"))
    readers = {reader.name: reader for reader in (old, new)}
    assert len(readers) == 2
    address, end = serving(room)
    swapped, answers = threading.Event(), list[tuple[bytes, bool, dict]]()

    def one(number: int) -> None:
        with httpx.Client(base_url=address, headers=BEARER, timeout=60) as client:
            for turn in range(50):
                data, late = png(20 * turn + number), swapped.is_set()
                answers.append((data, late, answer(client, data)))
                if late:  # one answer that was asked for after the swap
                    return

    try:
        with ThreadPoolExecutor(20) as pool, httpx.Client(base_url=address, headers=BEARER, timeout=60) as operator:
            clients = [pool.submit(one, number) for number in range(20)]
            while len(answers) < 20 and not any(client.done() for client in clients):
                time.sleep(0.02)
            changed = operator.post("/v1/model", json={"arm": "template", "seed": 3})
            swapped.set()
            assert changed.status_code == 200 and changed.json()["model"] == new.name
            assert operator.get("/readyz").status_code == 200
            for found in clients:
                found.result()
    finally:
        end()
    assert {told["model"] for _, _, told in answers} == set(readers)
    assert {told["model"] for _, late, told in answers if late} == {new.name}
    assert sum(late for _, late, _ in answers) == 20
    for data, _, told in answers:
        assert told["image_sha256"] == hashlib.sha256(data).hexdigest()
        shown = [item["probability"] for item in told["observations"]]
        # 2e-6 between one image and a batch of eight, and six decimals; the two models differ by 1e-2 and more.
        np.testing.assert_allclose(shown, told_by(readers[told["model"]], data), atol=1e-4)
        other = readers[({*readers} - {told["model"]}).pop()]
        assert np.abs(shown - told_by(other, data)).max() > 1e-3


def missing_tokenizer(student: Path) -> None:
    for file in (student / "model").glob("tokenizer*"):
        file.unlink()


def thresholds_of_another(student: Path) -> None:
    shutil.copy(student.parents[1] / "full" / "seed-0" / "model" / "thresholds.json", student / "model")


def no_config(student: Path) -> None:
    (student / "config.yaml").unlink()


def cut_weights(student: Path) -> None:
    file = student / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (poison, "NaN or infinity"),
        (thresholds_of_another, "chosen for other weights"),
        (missing_tokenizer, "cannot be loaded"),
        (no_config, "cannot be loaded"),
        (cut_weights, "other weights"),
        (shutil.rmtree, "has no student template"),
    ],
)
def test_a_model_that_is_not_sound_is_refused_and_the_old_one_stays(
    client: TestClient, room: Room, run: Path, damage: Callable[[Path], None], told: str
) -> None:
    before = client.get("/v1/model").json()
    damage(run / "student" / "template" / "seed-3")
    refused = client.post("/v1/model", json={"arm": "template"})
    assert refused.status_code == 409 and told in refused.json()["detail"] and before["model"] in refused.text
    assert str(run) not in refused.text
    assert client.get("/v1/model").json() == before and client.get("/readyz").status_code == 200
    assert answer(client, png())["model"] == before["model"]
    assert 'kdistill_model_swaps_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_metrics_name_the_model_and_count_the_swaps(client: TestClient) -> None:
    first = client.get("/v1/model").json()["model"]
    assert f'kdistill_model_info{{model="{first}"}} 1.0' in client.get("/metrics").text
    second = client.post("/v1/model", json={"arm": "template"}).json()
    measured = client.get("/metrics").text
    assert second["swaps"] == 1 and 'kdistill_model_swaps_total{outcome="done"} 1.0' in measured
    assert f'kdistill_model_info{{model="{second["model"]}"}} 1.0' in measured and first not in measured
    assert client.get("/v1/session").json()["model"] == second["model"]


def test_only_a_server_with_a_token_is_changed_by_requests(run: Path) -> None:
    with TestClient(Room(run, token=None).app, base_url="http://127.0.0.1") as client:
        refused = client.post("/v1/model", json={"arm": "template"})
        assert refused.status_code == 403 and "token" in refused.json()["detail"]
        assert client.get("/v1/model").json()["swaps"] == 0


@pytest.mark.parametrize(
    "choice", [{"arm": "../full"}, {"arm": "a/b"}, {"seed": -1}, {"seed": "0"}, {"model": "x"}, []]
)
def test_what_is_no_choice(client: TestClient, choice: object) -> None:
    assert client.post("/v1/model", json=choice).status_code == 422


def test_a_second_change_has_to_wait(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        begun.set()
        go.wait(20)

    monkeypatch.setattr(module, "_try", slow)
    first = threading.Thread(target=room.models.swap, args=("template",))
    first.start()
    assert begun.wait(20)
    with pytest.raises(PolicyError, match="another model is being loaded"):
        room.models.swap("full")
    go.set()
    first.join(20)
    assert room.jobs.reader.name.startswith("template") and room.jobs.num_swaps == 1
    room.jobs.close()


def test_a_student_that_is_published_while_it_is_read_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrain(*_: object) -> None:
        shutil.rmtree(run / "student" / "full")
        add_student(run, weights=5)

    monkeypatch.setattr(module, "_try", retrain)
    with pytest.raises(InputError, match="written anew while it was read"):
        load_model(run, "full", None)


def test_samples_follow_the_run(client: TestClient, room: Room, run: Path) -> None:
    shutil.rmtree(run / "studies")
    shutil.copytree(make_run(run.parent / "again", report="New.", weights=2) / "studies", run / "studies")
    assert client.get("/v1/samples/0/truth").json()["report"] == "Clear lungs."
    assert client.post("/v1/model", json={}).status_code == 200
    truth = client.get("/v1/samples/0/truth").json()
    sent = client.post("/v1/samples/0/explain").json()
    while client.get(f"/v1/jobs/{sent['id']}").json()["stage"] != "done":
        time.sleep(0.02)
    shown = client.get(f"/v1/results/{sent['id']}").json()
    assert truth["report"] == "New." and truth["image_sha256"] == shown["image_sha256"]
