"""What runs in a child of `decoding.DecoderPool`: one image after the other, under limits, torch never imported.

Started as `python -m kdistill.studies.decoding_child TIMEOUT_S MEMORY_MB`. It says "okay" on standard output when it is
ready. Requests come on standard input, answers go to standard output: four bytes of length, a JSON object, and the
bytes that it announces.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from kdistill.errors import InputError
from kdistill.studies.depth import shrunk
from kdistill.studies.images import decode_in_process, read_file, to_square


class Answer(NamedTuple):
    """What one request gave: facts for the JSON object, and arrays that follow it."""

    facts: dict[str, Any]
    arrays: tuple[np.ndarray, ...] = ()


Handle = Callable[[dict[str, Any], bytes], Answer]


def decode_request(request: dict[str, Any], payload: bytes) -> Answer:
    """Decode a file (by path, or its bytes in the payload) to the sizes that were asked for.

    Raises:
        InputError: It cannot be used.
    """
    data = payload if request["path"] is None else read_file(Path(request["path"]))
    depth_px = request["depth_px"]
    film = decode_in_process(data, require_chest=bool(request["require_chest"]), keep_depth=depth_px is not None)
    pixels = np.ascontiguousarray(film.pixels)
    size, display = request["size_px"], request["display_px"]
    arrays = [pixels if size is None else to_square(pixels, size)]
    if display is not None:
        arrays.append(to_square(pixels, display))
    if film.depth is not None:
        arrays.append(shrunk(film.depth, depth_px).values)
    if not request["send"]:
        arrays = []
    pixel_hash = hashlib.sha256(pixels.data)
    pixel_hash.update(str(pixels.shape).encode())
    facts = {
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "pixel_sha256": pixel_hash.hexdigest(),
        "notes": list(film.notes),
        "view_position": film.view_position,
        "shape": list(pixels.shape),
        "depth": None if film.depth is None else film.depth[1:],
    }
    return Answer(facts, tuple(arrays))


def serve(handle: Handle) -> None:
    """Answer requests until standard input ends. `InputError` is an answer; anything else ends the process."""
    timeout_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    requests, answers = _private_streams()
    _limit(memory_mb)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answers.write(b"okay")
    answers.flush()
    while (request := _read_json(requests)) is not None:
        # Names inside the call, not here: they would hold the file and its picture until the next one comes.
        _send(answers, _answer(handle, request, requests.read(request["bytes"]), timeout_s, memory_mb))


def _answer(handle: Handle, request: dict[str, Any], payload: bytes, timeout_s: float, memory_mb: int) -> Answer:
    # The parent keeps the deadline. Where it has died, the kernel ends a hang, in native code too.
    signal.setitimer(signal.ITIMER_REAL, 20 * timeout_s)
    try:
        return handle(request, payload)
    except InputError as error:
        return Answer({"what": error.what, "remedy": error.remedy})
    except MemoryError:
        return Answer({"what": f"needs more than {memory_mb} MB to decode", "remedy": "Give a smaller image."})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Native code prints where it likes: its standard streams lead nowhere, ours are kept apart."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return requests, answers


def _limit(memory_mb: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides; a child ends with its input
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # decoding writes no file


def _read_json(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    found: dict[str, Any] = json.loads(stream.read(int.from_bytes(head, "little")))
    return found


def _send(stream: BinaryIO, answer: Answer) -> None:
    arrays = [{"dtype": array.dtype.name, "shape": array.shape} for array in answer.arrays]
    head = json.dumps({**answer.facts, "arrays": arrays}).encode()
    stream.write(len(head).to_bytes(4, "little") + head)
    for array in answer.arrays:
        stream.write(array.data)
    stream.flush()


if __name__ == "__main__":
    serve(decode_request)
