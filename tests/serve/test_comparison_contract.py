"""Comparisons and preferences answer as /openapi.json declares: schemathesis on their paths, with a feedback file."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from .comparing import until
from .serving import distinct_png
from .test_contract import SESSION, films, schemathesis, server

__all__ = ["films"]


@pytest.mark.slow
def test_answers_of_comparisons_are_declared(films: Path, tmp_path: Path) -> None:
    """One id that exists is all that schemathesis asks about: else it would be told 404 and nothing more."""
    cookies = {"kdistill_session": SESSION}
    with (
        server(tmp_path, feedback=tmp_path / "said.sqlite") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", cookies=cookies, timeout=60) as client,
    ):
        job = client.post("/v1/explain", content=distinct_png(0)).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{job}").json())
        number, told = schemathesis(
            port, films, tmp_path, "--include-path-regex", "comparison", "--phases", "fuzzing", "-n", "60",
            "-H", f"Cookie: kdistill_session={SESSION}", timeout_s=900,
            config=f'[parameters]\n"path.job_id" = "{job}"\n',
        )  # fmt: skip
        print(told)
        assert number >= 60
        assert client.get(f"/v1/results/{job}/comparison").json()["preference"] is not None
