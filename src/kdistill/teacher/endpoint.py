"""A teacher behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, hosted): it writes, a local model reads.

Answers are kept by a hash of all that was asked, so that a run that stopped goes on without asking twice. A server that
is down, slow or busy is asked again with growing pauses; a server that answers as another model stops the run, since
half of the rationales would be somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from kdistill.errors import ConfigError, EnvironmentFault, PolicyError
from kdistill.teacher.config import EndpointConfig, RationalesConfig

logger = logging.getLogger(__name__)

#: An answer is one clause in JSON; a longer body is a loop, and is not read to its end.
MAX_BODY_BYTES: Final = 1_000_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_BUSY: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class EndpointGenerator:
    """Asks an endpoint for chat completions; equal prompts and attempts get the stored answer.

    Args:
        endpoint: Where, and which model.
        rationales: Length, temperature and seed.
        instruction: The system message.
        schema: JSON schema of an answer.
        answers_path: JSONL file of the answers so far; it need not exist.
        pause: Waits for so many seconds; replaced in tests.

    Raises:
        PolicyError: The endpoint is on another machine and the recipe does not allow that, or the answers so far are of
            another model.
        ConfigError: The environment variable of the key is not set.
    """

    chat = True

    def __init__(
        self,
        endpoint: EndpointConfig,
        rationales: RationalesConfig,
        *,
        instruction: str,
        schema: Mapping[str, Any],
        answers_path: Path,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        _refuse_remote(endpoint)
        self._endpoint, self._rationales, self._pause = endpoint, rationales, pause
        self._instruction, self._schema = instruction, schema
        headers = {"Authorization": f"Bearer {_key(endpoint)}"} if endpoint.api_key_env else {}
        # A proxy of the environment is another machine too, and httpx would use it for loopback.
        self._client = httpx.Client(
            headers=headers, timeout=endpoint.timeout_s, follow_redirects=False, trust_env=endpoint.allow_remote
        )
        self._path, self._lock = answers_path, threading.Lock()
        self._answers: dict[str, str] = {}
        self._served: str | None = None
        self._restore()

    def generate(self, prompts: Sequence[str], attempt: int) -> list[str]:
        """One answer a prompt, in order; what no server could be brought to answer raises.

        Raises:
            EnvironmentFault: The endpoint stays away; the answers so far are kept.
            ConfigError: It refuses the key, the model or the request (its words are given).
            PolicyError: It answers as another model than before.
        """
        with ThreadPoolExecutor(self._endpoint.parallel) as pool:
            return list(pool.map(lambda prompt: self._answer(prompt, attempt), prompts))

    def _answer(self, prompt: str, attempt: int) -> str:
        body = self._request(prompt, attempt)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8")).hexdigest()
        with self._lock:
            if key in self._answers:
                return self._answers[key]
        served, answer = _parsed(self._ask(body))
        self._keep(key, served, answer)
        return answer

    def _request(self, prompt: str, attempt: int) -> dict[str, Any]:
        settings = self._rationales
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [
                {"role": "system", "content": self._instruction},
                {"role": "user", "content": prompt},
            ],
            "max_tokens": 2 * settings.max_new_tokens,  # the JSON around the clause takes some
            "temperature": settings.temperature if attempt else 0.0,
            "seed": settings.seed * 1000 + attempt,
        }
        match self._endpoint.response_format:
            case "json_schema":
                schema = {"name": "answer", "schema": self._schema, "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": schema}
            case "json_object":
                body["response_format"] = {"type": "json_object"}
            case "none":
                pass
        return body

    def _ask(self, body: Mapping[str, Any]) -> bytes:
        url = f"{self._endpoint.url.rstrip('/')}/chat/completions"
        why, wait_s = "", 0.0
        for attempt in range(self._endpoint.max_retries + 1):
            if attempt:
                self._pause(wait_s)
            wait_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            try:
                with self._client.stream("POST", url, json=body) as answer:
                    content = _limited(answer, time.monotonic() + self._endpoint.timeout_s)
                    if answer.status_code == 200:
                        return content
                    self._refuse(answer.status_code, content)
                    why = f"it answers {answer.status_code}"
                    wait_s = max(wait_s, _retry_after(answer.headers))
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}"
            logger.warning("the teacher's endpoint did not answer (%s), attempt %d", why, attempt + 1)
        raise EnvironmentFault(
            f"does not answer ({why}, asked {self._endpoint.max_retries + 1} times)",
            where=self._endpoint.url,
            remedy="Start it again, then go on with --resume: what was answered is kept.",
        )

    def _refuse(self, status: int, content: bytes) -> None:
        if status in _BUSY:
            return
        words = "".join(c for c in content[:300].decode("utf-8", "replace") if c.isprintable())
        raise ConfigError(
            f"refuses the request ({status}): {words}",
            where=self._endpoint.url,
            remedy="401, 403: the key (rationales.endpoint.api_key_env). 404: url or model. 400, 422: perhaps it knows "
            "no JSON schema: rationales.endpoint.response_format=json_object.",
        )

    def _keep(self, key: str, served: str | None, answer: str) -> None:
        with self._lock:
            self._require_same(served)
            self._answers[key] = answer
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "model": served, "answer": answer}) + "\n")

    def _require_same(self, served: str | None) -> None:
        if served is None:  # a body that was no answer names nobody
            return
        if self._served is None:
            self._served = served
        if served != self._served:
            raise PolicyError(
                f"answers as {served[:80]!r}; the answers so far are of {self._served[:80]!r}",
                where=self._endpoint.url,
                remedy="Serve the first model again and --resume, or begin afresh with --fresh.",
            )

    def _restore(self) -> None:
        """Answers of an earlier attempt of this stage; a line that a kill cut short is asked for again."""
        if not self._path.is_file():
            return
        text = self._path.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.split("\n"):
            try:
                kept = json.loads(line)
                key, served, answer = kept["key"], kept["model"], kept["answer"]
            except (ValueError, KeyError, TypeError):
                continue
            self._require_same(served)
            self._answers[key] = answer


def _refuse_remote(endpoint: EndpointConfig) -> None:
    if not endpoint.allow_remote and urlsplit(endpoint.url).hostname not in _LOOPBACK:
        raise PolicyError(
            "is on another machine, and the text of reports would be sent to it",
            where=endpoint.url,
            remedy="If the data's licence allows that (that of MIMIC-CXR forbids most services): "
            "rationales.endpoint.allow_remote=true.",
        )


def _key(endpoint: EndpointConfig) -> str:
    name = endpoint.api_key_env or ""
    if not os.environ.get(name):
        raise ConfigError(
            f"the environment variable {name} is not set",
            where="rationales.endpoint.api_key_env",
            remedy=f"export {name}=...",
        )
    return os.environ[name]


def _limited(answer: httpx.Response, deadline: float) -> bytes:
    content = b""
    for part in answer.iter_bytes():
        content += part
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("took longer than timeout_s")
        if len(content) > MAX_BODY_BYTES:
            return b""
    return content


def _retry_after(headers: httpx.Headers) -> float:
    value = headers.get("retry-after", "")
    return min(float(value), _LONGEST_PAUSE_S) if value.isdigit() else 0.0


def _parsed(content: bytes) -> tuple[str | None, str]:
    """(model that answered, its text); "" for a body that is no answer, which the writer rejects by its reason."""
    try:
        answer = json.loads(content)
        served = answer.get("model")
        text = answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None, ""
    return served if isinstance(served, str) else None, text if isinstance(text, str) else ""
