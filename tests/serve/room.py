"""A server that listens, and what a test does to its process from outside."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from kdistill.serve.jobs import Jobs

from .telling import Telling, png, wait

#: Seconds after which the server of the tests closes a connection that asks nothing.
IDLE_S = 1
SCRIPT = "<script>alert(1)</script>"


@dataclass
class Room:
    """A server that listens, and the reader behind it. `others`: decoders that belong to somebody else."""

    server: uvicorn.Server
    port: int
    reader: Telling
    jobs: Jobs
    others: frozenset[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def is_well(self) -> bool:
        """Whether an image is explained."""
        with self.client() as client:
            return wait(client, client.post("/v1/explain", content=png()).json())["stage"] == "done"  # type: ignore[arg-type]


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def decoders() -> frozenset[int]:
    """The children of this process that decode, whoever started them: pools of other tests live until the end."""
    own, found = os.getpid(), set[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"PPid:\s+(\d+)", (folder / "status").read_text())[1])  # type: ignore[index]
            if parent == own and b"decoding_child" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except (OSError, TypeError):
            continue
    return frozenset(found)


def interrupt(thread_id: int | None) -> None:
    assert thread_id is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(SystemExit)) == 1
