"""Every answer is one that /openapi.json declares: schemathesis against a real server with a real, tiny student."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from kdistill.serve.config import ServeConfig

from ..explain.test_exports import film
from .serving import app_of, distinct_png, listening, tiny_reader, write_studies

pytest.importorskip("schemathesis")

#: One session for all requests, so that what one operation made the next one finds.
SESSION = "schemathesis-0123456789abcdefghi"
TOKEN = "a-token-of-enough-letters"
COMMAND = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")
#: All checks are on, with the statuses that they expect by default. Two exceptions: no schema can say what makes bytes
#: a chest radiograph, so a valid body may also be told why it is none (415; schemathesis has a few pixels of its own),
#: nor which words contradict the answer that they are about (422).
CONFIG = """
[[operations]]
include-path = "/v1/explain"
checks.positive_data_acceptance.expected-statuses = ["202", "401", "403", "415", "429"]
[[operations]]
include-path = "/v1/results/{job_id}/feedback"
checks.positive_data_acceptance.expected-statuses = ["200", "401", "403", "404", "409", "422"]
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(distinct_png(number))
    buffer = io.BytesIO()
    film(80, 64).save_as(buffer, enforce_file_format=True)
    (folder / "3.dcm").write_bytes(buffer.getvalue())
    return folder


@contextmanager
def server(folder: Path, **settings: object) -> Iterator[int]:
    """The port of a server with samples, feedback and a second student."""
    file = folder / "said.sqlite"
    config = ServeConfig.model_validate(
        {"port": 0, "max_waiting": 256, "max_upload_mb": 1, "feedback": file, **settings}
    )
    studies = folder / "studies"
    studies.mkdir()
    app = app_of(tiny_reader(), config, write_studies(studies), against=tiny_reader("other", 1))
    with listening(app, config) as (_, port):
        yield port


def schemathesis(
    port: int, films: Path, folder: Path, *options: str, timeout_s: int, config: str = CONFIG
) -> tuple[int, str]:
    """(test cases sent, what was printed) of a run without any finding.

    Its health checks are about how fast it makes data, which on a busy machine says nothing of the server.
    """
    (folder / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [*COMMAND, "run", f"http://127.0.0.1:{port}/openapi.json", "--seed", "1", "--request-timeout", "120",
         "--suppress-health-check", "all", *options],
        cwd=folder, capture_output=True, text=True, check=False, timeout=timeout_s,
        env={
            **os.environ, "SCHEMATHESIS_HOOKS": "contract_hooks", "PYTHONPATH": str(Path(__file__).parent),
            "KDISTILL_TEST_FILMS": str(films),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"([\d,]+) generated", done.stdout)
    assert found is not None, done.stdout[-2000:]
    return int(found[1].replace(",", "")), done.stdout


def test_answers_are_declared(films: Path, tmp_path: Path) -> None:
    options = ("--phases", "fuzzing,stateful", "-n", "3", "-H", f"Cookie: kdistill_session={SESSION}")
    with server(tmp_path) as port:
        number, _ = schemathesis(port, films, tmp_path, *options, timeout_s=500)
        assert number >= 40
        accepted = re.search(r'outcome="accepted"} (\d+)', httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        assert accepted is not None and int(accepted[1]) > 0, "no image got through: nothing but refusals was tested"


@pytest.mark.slow
def test_answers_to_two_thousand_cases_are_declared(films: Path, tmp_path: Path) -> None:
    with server(tmp_path) as port:
        number, told = schemathesis(
            port, films, tmp_path, "-n", "200", "-H", f"Cookie: kdistill_session={SESSION}", timeout_s=7200
        )
    print(told)
    assert number >= 2000


@pytest.mark.slow
def test_nothing_answers_without_the_token(films: Path, tmp_path: Path) -> None:
    """`ignored_auth` sends each request again without the token and with a wrong one."""
    with server(tmp_path, token=TOKEN) as port:
        number, told = schemathesis(
            port, films, tmp_path, "-n", "20", "-H", f"Authorization: Bearer {TOKEN}", timeout_s=7200
        )
    print(told)
    assert number >= 200
