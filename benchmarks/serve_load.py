"""Twice the load that `kdistill serve RUN` can take, over real sockets on this machine.

    python benchmarks/serve_load.py [--seconds 60] [--clients 50] [--json] RUN

The server is a process of its own. What it can take is measured first (clients that wait for their answer before they
send the next image), then images come at twice that rate, evenly spaced, each with bytes of its own and each client
with a session of its own. Every accepted answer is followed to its end and compared with the image that was sent, and
asked for from another session, which must not find it. Clients and server share the processors here, so the rates are
those of a machine that does both.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

#: Bytes 0 to 33 of a PNG: its signature and the IHDR chunk, after which a comment may stand.
PNG_HEAD = 33
POLL_S, HEALTH_EVERY_S = 0.1, 0.25
ENDED = ("done", "failed", "expired")
WARM_UP_S = 5.0


@dataclass
class Figures:
    """What happened; times in seconds, memory in MB of 10^6 bytes (of the server without its decoders)."""

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    done: int = 0
    others: Counter[str] = field(default_factory=Counter)
    wrong_image: int = 0
    seen_by_others: int = 0
    without_retry_after: int = 0
    latencies_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    #: How much later than asked for the benchmark itself woke up, before each question about health: what of `health_s`
    #: is the clients' own want of a processor.
    late_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, object]:
        """The figures as a table has them."""
        p50, p99 = np.percentile(self.latencies_s or [np.nan], [50, 99])
        health = np.percentile(self.health_s or [0.0], [50, 99, 100])
        return {
            "sent": self.sent,
            "accepted": self.accepted,
            "refused_429": self.refused,
            "done": self.done,
            "other": dict(self.others),
            "wrong_image": self.wrong_image,
            "seen_by_another_session": self.seen_by_others,
            "429_without_retry_after": self.without_retry_after,
            "accepted_p50_s": round(float(p50), 3),
            "accepted_p99_s": round(float(p99), 3),
            "images_per_s": round(self.done / self.seconds, 2) if self.seconds else 0.0,
            "healthz_p50_p99_max_s": [round(float(value), 3) for value in health],
            "clients_late_max_s": round(max(self.late_s, default=0.0), 3),
            "rss_mb_first_max_last": [round(f(self.rss_mb)) for f in (lambda r: r[0], max, lambda r: r[-1])]
            if self.rss_mb
            else [],
        }


def with_comment(png: bytes, number: int) -> bytes:
    """The same picture in a file whose bytes no other number has."""
    chunk = b"tEXtn\0" + str(number).encode()
    return (
        png[:PNG_HEAD]
        + (len(chunk) - 4).to_bytes(4, "big")
        + chunk
        + zlib.crc32(chunk).to_bytes(4, "big")
        + png[PNG_HEAD:]
    )


def rss_mb(pid: int) -> float:
    """Resident memory of a process (proc(5))."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


async def explain(client: httpx.AsyncClient, image: bytes, other: httpx.AsyncClient, figures: Figures) -> None:
    """Send one image and follow it to its end."""
    begun = time.perf_counter()
    figures.sent += 1
    answer = await client.post("/v1/explain", content=image)
    if answer.status_code == 429:
        figures.refused += 1
        figures.without_retry_after += "retry-after" not in answer.headers
        return
    if answer.status_code != 202:
        figures.others[f"explain {answer.status_code}"] += 1
        return
    figures.accepted += 1
    job = answer.json()["id"]
    while (state := (await client.get(f"/v1/jobs/{job}")).json())["stage"] not in ENDED:
        await asyncio.sleep(POLL_S)
    if state["stage"] != "done":
        figures.others[state["stage"]] += 1
        return
    result = (await client.get(state["result"])).json()
    figures.latencies_s.append(time.perf_counter() - begun)
    figures.done += 1
    figures.wrong_image += result["image_sha256"] != hashlib.sha256(image).hexdigest()
    figures.seen_by_others += (await other.get(state["result"])).status_code != 404


async def _tried(client: httpx.AsyncClient, image: bytes, other: httpx.AsyncClient, figures: Figures) -> None:
    try:
        await explain(client, image, other, figures)
    except httpx.HTTPError as error:
        figures.others[type(error).__name__] += 1


async def _watch(url: str, pid: int, figures: Figures) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        while True:
            begun = time.perf_counter()
            (await client.get("/healthz")).raise_for_status()
            figures.health_s.append(time.perf_counter() - begun)
            figures.rss_mb.append(rss_mb(pid))
            slept = time.perf_counter()
            await asyncio.sleep(HEALTH_EVERY_S)
            figures.late_s.append(time.perf_counter() - slept - HEALTH_EVERY_S)


async def capacity(url: str, image_of: Callable[[int], bytes], *, seconds: float, clients: int = 8) -> float:
    """Images a second that the server does for clients who wait for their answers."""
    figures, end, number = Figures(), time.perf_counter() + seconds, iter(range(10**9, 2 * 10**9))

    async def one() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client, httpx.AsyncClient(base_url=url) as other:
            while time.perf_counter() < end:
                await explain(client, image_of(next(number)), other, figures)

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    if not figures.done:
        raise SystemExit(f"no image was explained: {figures.summary()}")
    return figures.done / (time.perf_counter() - begun)


async def load(
    url: str, pid: int, image_of: Callable[[int], bytes], *, rate: float, seconds: float, clients: int
) -> Figures:
    """Send `rate` images a second for `seconds`, from `clients` sessions in turn, whatever becomes of them."""
    figures = Figures()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=5)
    sessions = [httpx.AsyncClient(base_url=url, timeout=120, limits=limits) for _ in range(clients)]
    for session in sessions:
        (await session.get("/v1/session")).raise_for_status()
    if len({session.cookies["kdistill_session"] for session in sessions}) != clients:
        raise SystemExit("two clients were given one session")
    watching, tasks, begun = asyncio.create_task(_watch(url, pid, figures)), [], time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        here = number % clients
        other = sessions[(here + 1) % clients]
        tasks.append(asyncio.create_task(_tried(sessions[here], image_of(number), other, figures)))
    await asyncio.gather(*tasks)
    figures.seconds = time.perf_counter() - begun
    watching.cancel()
    if not watching.cancelled() and watching.done() and watching.exception():
        raise SystemExit("/healthz did not answer")
    await asyncio.gather(*(session.aclose() for session in sessions))
    return figures


@contextmanager
def serving(command: list[str], temp_dir: Path) -> Iterator[tuple[str, int]]:
    """(address, process id) of a server in a process of its own, which prints where it listens."""
    environment = {**os.environ, "TMPDIR": str(temp_dir), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"(\d+)(?= \(Ctrl-C|$)", process.stdout.readline().strip())
            if found is None:
                raise SystemExit("the server did not start")
            yield f"http://127.0.0.1:{found[1]}", process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def twice(
    url: str,
    pid: int,
    image_of: Callable[[int], bytes],
    *,
    seconds: float,
    clients: int,
    warm_up_s: float = WARM_UP_S,
    at_least: float = 0.0,
) -> tuple[float, Figures]:
    """(capacity in images a second, what happened at twice that, or at `at_least` images a second)."""

    async def both() -> tuple[float, Figures]:
        able = await capacity(url, image_of, seconds=warm_up_s)
        rate = max(2 * able, at_least)
        return able, await load(url, pid, image_of, rate=rate, seconds=seconds, clients=clients)

    return asyncio.run(both())


def files_in(temp_dir: Path) -> list[str]:
    """Names of the files below a folder; torch leaves an empty folder of its own there when it is imported."""
    return sorted(path.name for path in temp_dir.rglob("*") if path.is_file())


def films(run_dir: Path) -> list[bytes]:
    """PNG files of a run's first images."""
    files = []
    for pixels in np.load(run_dir / "studies" / "images.npy", mmap_mode="r")[:16]:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels)).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return files


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shown = films(arguments.run_dir)
    command = [sys.executable, "-m", "kdistill.cli.main", "serve", str(arguments.run_dir), "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        with serving(command, Path(folder)) as (url, pid):
            able, figures = twice(
                url,
                pid,
                lambda number: with_comment(shown[number % len(shown)], number),
                seconds=arguments.seconds,
                clients=arguments.clients,
            )
        left = files_in(Path(folder))
    row = {"clients": arguments.clients, "capacity_per_s": round(able, 2), **figures.summary(), "temp_files_left": left}
    if arguments.json:
        print(json.dumps(row))
    else:
        width = max(map(len, row))
        print("\n".join(f"{key:{width}}  {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
