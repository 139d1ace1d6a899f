"""FAULTS 28 and 29: an endpoint that is down, slow, busy, or answers with anything but what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdistill.errors import ConfigError, EnvironmentFault, PolicyError
from kdistill.teacher.config import EndpointConfig, RationalesConfig
from kdistill.teacher.endpoint import MAX_BODY_BYTES, EndpointGenerator
from kdistill.teacher.generate import endpoint_generator

from .servers import Reply, Server, completion


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def generator(server: Server | str, path: Path, pauses: list[float] | None = None, **changes: Any) -> EndpointGenerator:
    url = server if isinstance(server, str) else server.url
    endpoint = EndpointConfig.model_validate({"url": url, "model": "big", "parallel": 2, "max_retries": 3, **changes})
    config = RationalesConfig(writer="endpoint", endpoint=endpoint)
    wait = pauses.append if pauses is not None else lambda _: None
    return EndpointGenerator(
        endpoint, config, instruction="Explain.", schema={"type": "object"}, answers_path=path, pause=wait
    )


def test_what_is_asked_and_what_comes_back(server: Server, tmp_path: Path) -> None:
    made = generator(server, tmp_path / "a.jsonl")
    assert [json.loads(text)["because"] for text in made.generate(["x", "y"], 0)] == ["pleural fluid sinks"] * 2
    body = server.asked[0]
    assert [m["role"] for m in body["messages"]] == ["system", "user"] and body["messages"][0]["content"] == "Explain."
    assert body["temperature"] == 0.0 and body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    made.generate(["x"], 1)
    assert server.asked[-1]["temperature"] == 0.7 and server.asked[-1]["seed"] != body["seed"]


def test_the_writers_own_schema_and_instruction_are_sent(server: Server, tmp_path: Path) -> None:
    endpoint = EndpointConfig(url=server.url, model="big")
    config = RationalesConfig(writer="endpoint", endpoint=endpoint)
    endpoint_generator(config, tmp_path / "a.jsonl").generate(["x"], 0)
    assert server.asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["because"]
    assert "never follow" in server.asked[0]["messages"][0]["content"]


def test_nothing_is_asked_twice_also_after_a_kill(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    generator(server, path).generate(["x", "y"], 0)
    with path.open("a") as file:
        file.write('{"key": "cut sho')  # a kill inside a write
    again = generator(server, path)
    assert again.generate(["y", "x"], 0) and len(server.asked) == 2
    again.generate(["z"], 0)
    assert len(server.asked) == 3


def test_busy_then_well(server: Server, tmp_path: Path) -> None:
    answers: list[Reply] = [(429, {}, {"retry-after": "7"}), (503, b"", {}), (200, completion("it sinks"), {})]
    server.replies = lambda n, body: answers[n - 1]
    pauses: list[float] = []
    assert generator(server, tmp_path / "a.jsonl", pauses).generate(["x"], 0) == ['{"because": "it sinks"}']
    assert pauses == [7.0, 1.0]


def test_down_for_good_keeps_what_was_answered(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    generator(server, path).generate(["x"], 0)
    server.replies = lambda n, body: (500, b"", {})
    with pytest.raises(EnvironmentFault, match="answers 500, asked 4 times") as told:
        generator(server, path).generate(["x", "y"], 0)
    assert "--resume" in str(told.value)
    asked = len(server.asked)
    assert generator(server, path).generate(["x"], 0) and len(server.asked) == asked


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="ConnectError"):
        generator("http://127.0.0.1:9/v1", tmp_path / "a.jsonl").generate(["x"], 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_told_at_once_with_the_servers_words(server: Server, tmp_path: Path, status: int) -> None:
    server.replies = lambda n, body: (status, b"model \x1b[31mnot known", {})
    with pytest.raises(ConfigError, match=f"refuses the request .{status}.: model .31mnot known"):
        generator(server, tmp_path / "a.jsonl").generate(["x"], 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"not json", b"[]", {"model": "big"}, {"model": "big", "choices": []}, b"[" * 100_000,
     {"model": "big", "choices": [{"message": {"content": None}}]}, b"x" * (MAX_BODY_BYTES + 1)],
)  # fmt: skip
def test_what_is_no_answer_is_empty(server: Server, tmp_path: Path, answer: Any) -> None:
    server.replies = lambda n, body: (200, answer, {})
    assert generator(server, tmp_path / "a.jsonl").generate(["x"], 0) == [""]


def test_another_model_stops_the_run(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    server.replies = lambda n, body: (200, completion("it sinks", "big" if n == 1 else "small"), {})
    made = generator(server, path)
    made.generate(["x"], 0)
    with pytest.raises(PolicyError, match="answers as 'small'.*'big'"):
        made.generate(["y"], 0)
    with pytest.raises(PolicyError, match="answers as 'small'"):
        generator(server, path).generate(["z"], 0)


def test_reports_are_not_sent_to_another_machine_unasked(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="report"):
        generator("https://api.example/v1", tmp_path / "a.jsonl")
    generator("https://api.example/v1", tmp_path / "a.jsonl", allow_remote=True)


def test_the_key_comes_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match="A_KEY is not set"):
        generator(server, tmp_path / "a.jsonl", api_key_env="A_KEY")
    monkeypatch.setenv("A_KEY", "secret-1")
    generator(server, tmp_path / "a.jsonl", api_key_env="A_KEY").generate(["x"], 0)
    assert server.keys == ["Bearer secret-1"] and "secret-1" not in (tmp_path / "a.jsonl").read_text()


def test_a_recipe_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        RationalesConfig(writer="endpoint")


def test_a_torn_answer_names_no_model(server: Server, tmp_path: Path) -> None:
    """The server knows the asked alias by a longer name; a body that is no answer in between changes nothing."""
    answers: list[Reply] = [
        (200, completion("a", "big-2026"), {}),
        (200, b"torn", {}),
        (200, completion("b", "big-2026"), {}),
    ]
    server.replies = lambda n, body: answers[n - 1]
    made = generator(server, tmp_path / "a.jsonl", parallel=1)
    assert [made.generate([prompt], 0)[0][:1] for prompt in "xyz"] == ["{", "", "{"]


def test_answers_of_any_letters_are_kept_after_any_kill(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    server.replies = lambda n, body: (200, completion("sinks\u2028low \ud83d"), {})
    generator(server, path).generate(["x"], 0)
    with path.open("ab") as file:
        file.write('{"key": "é'.encode()[:-1])  # a kill inside a letter
    generator(server, path).generate(["y"], 0)
    assert generator(server, path).generate(["x", "y"], 0) and len(server.asked) == 2


def test_no_proxy_of_the_environment_sees_a_report(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert generator(server, tmp_path / "a.jsonl").generate(["x"], 0) and len(server.asked) == 1
