"""Image files decoded in child processes with limits: a crash, a hang or a bomb costs one image, never the run.

Children are programs of their own (`decoding_child`), not forks and not multiprocessing workers: nothing of the parent
is inherited, its main module is not imported again (a caller needs no `if __name__`), torch is never loaded, and no
pickle crosses the border. One thread of the parent waits for each child.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

import kdistill
from kdistill.errors import EnvironmentFault, InputError
from kdistill.studies.depth import Depth
from kdistill.studies.film import MAX_PIXELS, NOTES, Note

#: Answers are small JSON objects; a longer one comes from a process that is out of its mind.
_MAX_HEAD_BYTES: Final = 1_000_000
T = TypeVar("T")

_COMMAND: Final = (sys.executable, "-m", "kdistill.studies.decoding_child")
_FAIR_SHARE: Final = 0.5
_PATIENCE: Final = 12
#: A dying child closes its streams a moment before it is gone.
_END_S: Final = 2.0
#: Starting takes 0.3 s on an idle machine.
_START_S: Final = 60.0
#: Items that may wait for each child, so that one slow image does not idle the others.
_AHEAD: Final = 4


class DecoderKilled(InputError):
    """The child that decoded an image was killed from outside: no fault of the image is known."""


@dataclass(frozen=True)
class Decoded:
    """One image as a child decoded it.

    Attributes:
        pixels: uint8 [size_px, size_px], or float32 [H, W] in [0, 1] where the pool has no size. Empty where the pool
            was told to send none.
        display: uint8 [display_px, display_px] where the pool has a display size.
        file_sha256: Of the very bytes that were decoded.
        pixel_sha256: Of the float32 pixels at full size and their shape.
        notes: What a reader must be told (see `film.note_text`).
        view_position: PA, AP or LATERAL where the file's own tags state it.
        shape: Rows and columns of the image at full size.
        depth: The values from before the display window, where the pool has a depth size.
    """

    pixels: np.ndarray
    display: np.ndarray | None
    file_sha256: str
    pixel_sha256: str
    notes: tuple[Note, ...]
    view_position: str | None
    shape: tuple[int, int]
    depth: Depth | None = None


class DecoderPool:
    """A context manager that decodes images in up to `processes` children, in order.

    Args:
        processes: Children at most; they start when they are needed.
        size_px: Side of the square result; None: full size, float32.
        display_px: Also give the square of this side.
        depth_px: Also give the values from before the display window, with at most so many pixels on the longer side.
        send_pixels: False: only hashes and notes come back.
        timeout_s: Wall-clock seconds that one image may take. A little under the ten seconds within which a hang must
            have become an error. A child that waits for a busy processor is given more (see `_Deadline`): which images
            a data set keeps must not depend on what else the machine does.
        memory_mb: Address space of a child (RLIMIT_AS). 16 million pixels of 16 bits take 0.5 GB (measured).
        require_chest: Refuse DICOM files that are no chest radiograph by their tags; False: only note it.
        command: The child's program; another one must speak the same protocol (`decoding_child.serve`).
    """

    def __init__(
        self,
        processes: int = 1,
        size_px: int | None = None,
        *,
        display_px: int | None = None,
        depth_px: int | None = None,
        send_pixels: bool = True,
        timeout_s: float = 9.5,
        memory_mb: int = 2048,
        require_chest: bool = True,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._request = {
            "size_px": size_px,
            "display_px": display_px,
            "depth_px": depth_px,
            "send": send_pixels,
            "require_chest": require_chest,
        }
        self._processes, self._timeout_s = processes, timeout_s
        self._command = (*command, str(timeout_s), str(memory_mb))
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children: list[_Child] = []
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> DecoderPool:
        self._children = [_Child(self._command, self._timeout_s) for _ in range(self._processes)]
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(self._processes, thread_name_prefix="decoder")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._threads is not None
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def map(self, items: Iterable[Path | bytes]) -> Iterator[Decoded | InputError]:
        """Decode many images (paths, or the bytes of files), in their order; a bad one gives its error, not a raise.

        Only a few images per child are ahead of the consumer, so memory does not grow with their number.
        """
        assert self._threads is not None, "use the pool in a with statement"
        waiting: deque[Future[Decoded | InputError]] = deque()
        try:
            for item in items:
                waiting.append(self._threads.submit(self._decode, item))
                if len(waiting) >= self._processes * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def read(self, item: Path | bytes) -> Decoded:
        """Decode one image.

        Raises:
            InputError: It cannot be used, or the child that decoded it crashed, hung or ran out of memory.
        """
        found = next(self.map([item]))
        if isinstance(found, InputError):
            raise found
        return found

    def _decode(self, item: Path | bytes) -> Decoded | InputError:
        child = self._idle.get()
        try:
            return child.decode(item, self._request)
        finally:
            self._idle.put(child)


class _Child:
    """One child at a time: started when needed, replaced after it has died. Used by one thread at a time."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def decode(self, item: Path | bytes, request: dict[str, Any]) -> Decoded | InputError:
        where = item.name if isinstance(item, Path) else None
        try:
            process = self._started()
            return _within(self._timeout_s, process, lambda: _ask(process, item, request, where))
        except _Died as died:
            kind = DecoderKilled if died.was_killed else InputError
            return kind(died.reason(self._timeout_s), where=where, remedy=_BAD_IMAGE)

    def close(self) -> None:
        """End the child now, whatever it does."""
        with self._lock:
            self._closed = True
            _end(self._process)

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise _Died(None, timed_out=False)
            process, is_new = self._process, self._process is None or self._process.poll() is not None
            if process is None or is_new:
                _end(process)
                process = self._process = _start(self._command)
        if is_new:
            _wait_until_ready(process)
        return process


_BAD_IMAGE: Final = "Only this image is left out; export it again, or convert it with another program."


class _Died(Exception):
    """A child ended instead of answering."""

    def __init__(self, code: int | None, *, timed_out: bool) -> None:
        self.code, self.timed_out = code, timed_out

    @property
    def was_killed(self) -> bool:
        """Whether something else killed it, as the kernel does where memory is short; a bad image never ends so."""
        return self.code == -signal.SIGKILL and not self.timed_out

    def reason(self, timeout_s: float) -> str:
        if self.timed_out:
            return f"took longer than {timeout_s:g} s to decode"
        if self.code is not None and self.code < 0:
            name = signal.Signals(-self.code).name if -self.code in list(signal.Signals) else str(-self.code)
            return f"its decoder crashed ({name})"
        return "its decoder ended without an answer"


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    package_root = str(Path(kdistill.__file__).parents[1])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C goes to the terminal's foreground group: it is the parent's to answer
    )


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """A child that cannot start is no fault of an image: without this every image would be called bad."""
    try:
        _within(_START_S, process, lambda: _exactly(process, 4))
    except _Died as died:
        raise EnvironmentFault(
            f"the process that decodes images does not start ({died.reason(_START_S)})",
            remedy="Try `python -m kdistill.studies.decoding_child 10 2048`: it should say okay and wait.",
        ) from died


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # unsent bytes of a dead child
                continue


class _Deadline:
    """Kills a child at its deadline: then writing to it or reading from it fails at once.

    A child that has had less than `_FAIR_SHARE` of a processor and still wants one is not hanging, the machine is full:
    it is looked at again later, up to `_PATIENCE` deadlines in all.
    """

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.expired = False
        self._process, self._seconds = process, seconds
        self._cpu_before = _cpu_seconds(process.pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        for _ in range(_PATIENCE):
            if self._done.wait(self._seconds):
                return
            if not self._is_starved():
                break
        self.expired = True
        self._process.kill()

    def _is_starved(self) -> bool:
        now = _cpu_seconds(self._process.pid)
        if now is None or self._cpu_before is None or not now.wants_processor:
            return False
        return now.used - self._cpu_before.used < _FAIR_SHARE * self._seconds

    def cancel(self) -> None:
        """After this no late kill can hit the next image."""
        self._done.set()
        self._thread.join()


class _Cpu(NamedTuple):
    used: float
    wants_processor: bool


def _cpu_seconds(pid: int) -> _Cpu | None:
    """Processor seconds of a process, and whether it runs or waits for one (proc(5)); None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Cpu((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] in "RD")


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """How a child ended; one that talks nonsense instead of ending is killed: None."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _within(seconds: float, process: subprocess.Popen[bytes], ask: Callable[[], T]) -> T:
    """Ask a child; it has died where it does not answer in time, ends, or answers nonsense."""
    deadline = _Deadline(process, seconds)
    try:
        return ask()
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _Died(_exit_code(process), timed_out=deadline.expired) from error
    finally:
        deadline.cancel()


def _ask(
    process: subprocess.Popen[bytes], item: Path | bytes, request: dict[str, Any], where: str | None
) -> Decoded | InputError:
    assert process.stdin is not None and process.stdout is not None
    payload = b"" if isinstance(item, Path) else item
    path = os.path.abspath(item) if isinstance(item, Path) else None  # noqa: PTH100 - resolves no link
    head = json.dumps({**request, "path": path, "bytes": len(payload)}).encode()
    process.stdin.write(len(head).to_bytes(4, "little") + head)
    process.stdin.write(payload)
    process.stdin.flush()
    facts = json.loads(_exactly(process, int.from_bytes(_exactly(process, 4), "little"), _MAX_HEAD_BYTES))
    arrays = [_array(process, announced) for announced in facts["arrays"]]
    if "what" in facts:
        return InputError(str(facts["what"]), where=where, remedy=facts["remedy"])
    notes, rest = set(facts["notes"]), iter(arrays[1:])
    return Decoded(
        pixels=arrays[0] if arrays else np.empty((0, 0), dtype=np.uint8),
        display=next(rest, None) if request["display_px"] is not None else None,
        file_sha256=str(facts["file_sha256"]),
        pixel_sha256=str(facts["pixel_sha256"]),
        notes=tuple(note for note in NOTES if note in notes),
        view_position=facts["view_position"],
        shape=(int(facts["shape"][0]), int(facts["shape"][1])),
        depth=_depth(next(rest, None), facts["depth"]),
    )


def _depth(values: np.ndarray | None, facts: list[Any] | None) -> Depth | None:
    if values is None or facts is None:
        return None
    *numbers, is_linear, (rows, columns) = facts
    low, high, slope, intercept = (float(number) for number in numbers)
    return Depth(values, low, high, slope, intercept, bool(is_linear), (int(rows), int(columns)))


def _array(process: subprocess.Popen[bytes], announced: dict[str, Any]) -> np.ndarray:
    dtype = {name: np.dtype(name) for name in ("uint8", "uint16", "float32")}[announced["dtype"]]
    height, width = (int(side) for side in announced["shape"])
    data = _exactly(process, height * width * dtype.itemsize, MAX_PIXELS * 4)
    return np.frombuffer(bytearray(data), dtype=dtype).reshape(height, width)


def _exactly(process: subprocess.Popen[bytes], number: int, limit: int = 4) -> bytes:
    assert process.stdout is not None
    if not 0 <= number <= limit:
        raise ValueError("a child announced an answer of an impossible size")
    data = process.stdout.read(number)
    if len(data) < number:
        raise EOFError("a child ended in the middle of its answer")
    return data
