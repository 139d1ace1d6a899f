"""FAULTS 10 (and 13): a crash, a hang or a bomb in a decoder costs one image within its deadline, nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from kdistill.errors import EnvironmentFault, InputError
from kdistill.studies.decoding import Decoded, DecoderPool
from kdistill.studies.images import decode, decode_in_process, read_grey, to_square

from .dicom_files import DECODED_EVERYWHERE, in_syntax, ramp, raster

BAD_CHILD = (sys.executable, str(Path(__file__).with_name("bad_child.py")))
GOOD = raster((ramp() >> 4).astype(np.uint8), "PNG")


def bad_pool(processes=1, **options):
    return DecoderPool(processes, 32, command=BAD_CHILD, **options)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"SEGV", "crashed \\(SIGSEGV\\)"),
        (b"ABRT", "crashed \\(SIGABRT\\)"),
        (b"OOM!", "needs more than 1024 MB"),
        (b"EXIT", "ended without an answer"),
        (b"BUG!", "ended without an answer"),
        (b"LIE!", "crashed \\(SIGKILL\\)|without an answer"),
    ],
)
def test_row_10_a_crash_is_one_images_error_and_the_others_live(payload, message):
    with bad_pool(memory_mb=1024) as pool:
        first, bad, second = pool.map([GOOD, payload, GOOD])
    assert isinstance(bad, InputError)
    with pytest.raises(InputError, match=message):
        raise bad
    assert isinstance(first, Decoded) and isinstance(second, Decoded)
    assert np.array_equal(first.pixels, second.pixels) and first.pixels.std() > 20


@pytest.mark.parametrize("payload", [b"BUSY", b"IDLE"])
def test_row_10_a_hang_in_native_code_ends_at_the_deadline(payload):
    with bad_pool(timeout_s=1.0) as pool:
        assert isinstance(next(pool.map([GOOD])), Decoded)
        began = time.monotonic()
        bad, good = pool.map([payload, GOOD])
        # A busy machine may give the child too little to call it a hang at once: at most 12 deadlines, and a new child.
        assert time.monotonic() - began < 60
    assert isinstance(bad, InputError) and "longer than 1 s" in str(bad)
    assert isinstance(good, Decoded)


def test_row_10_the_default_deadline_is_within_ten_seconds():
    with DecoderPool() as pool:
        assert float(pool._command[-2]) < 10


def test_the_order_is_that_of_the_items_with_several_children(tmp_path):
    files = []
    for number in range(30):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(raster(np.full((40, 40), number, np.uint8) + (np.arange(40) * 4).astype(np.uint8), "PNG"))
    files[7].write_bytes(b"no image")
    with DecoderPool(3) as pool:
        found = list(pool.map(files))
    assert [isinstance(item, InputError) for item in found] == [n == 7 for n in range(30)]
    means = [round(float(item.pixels[0, 0]) * 255) for item in found if isinstance(item, Decoded)]
    assert means == [n for n in range(30) if n != 7]
    assert "7.png" in str(found[7]) and str(tmp_path) not in str(found[7])


@pytest.mark.parametrize("syntax", DECODED_EVERYWHERE)
def test_a_child_gives_what_this_process_gives(syntax):
    data = in_syntax(syntax)
    here = decode_in_process(data).pixels
    with DecoderPool(1, None, display_px=64) as pool:
        found = pool.read(data)
    assert np.array_equal(found.pixels, here)
    assert found.display is not None and np.array_equal(found.display, to_square(here, 64))


def test_hashes_alone_are_sent_where_no_pixels_are_wanted():
    with DecoderPool(1, send_pixels=False) as pool:
        one, other = pool.map([GOOD, raster((ramp() >> 5).astype(np.uint8), "PNG")])
    assert isinstance(one, Decoded) and isinstance(other, Decoded)
    assert one.pixels.size == 0 and len(one.pixel_sha256) == 64 and one.pixel_sha256 != other.pixel_sha256


def test_compressed_dicom_is_never_decoded_in_the_callers_process(tmp_path):
    data = in_syntax(JPEG2000Lossless)
    script = (
        "import sys; from pathlib import Path; from kdistill.studies.images import read_grey\n"
        "assert read_grey(Path(sys.argv[1])).shape == (40, 40)\n"
        "assert 'pydicom.pixels.decoders' not in sys.modules, 'decoded here'\n"
    )
    (tmp_path / "a").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read_grey(tmp_path / "a"), decode(data))


def test_children_start_without_torch_and_without_the_callers_main_module():
    loaded = "{'torch', 'pydicom', 'transformers'} & set(sys.modules)"
    script = f"import sys, kdistill.studies.decoding_child; assert not {loaded}"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_child_that_cannot_start_is_no_fault_of_the_image():
    with (
        DecoderPool(command=(sys.executable, "-c", "import sys; sys.exit(3)")) as pool,
        pytest.raises(EnvironmentFault, match="does not start"),
    ):
        pool.read(GOOD)


def test_row_13_an_image_beyond_the_memory_limit_is_refused():
    large = raster((np.arange(7000)[:, None] + np.arange(7000)).astype(np.uint8), "PNG")
    with DecoderPool(1, 32, memory_mb=400) as pool:
        bad, good = pool.map([large, GOOD])
    assert isinstance(bad, InputError) and ("memory" in str(bad) or "400 MB" in str(bad))
    assert isinstance(good, Decoded)


def test_leaving_the_pool_ends_its_children_also_in_mid_work():
    pids = []
    with pytest.raises(KeyError), bad_pool(2) as pool:
        pids = [int(item.what) for item in pool.map([b"PID!"] * 2) if isinstance(item, InputError)]
        pool._threads.submit(pool._decode, b"IDLE")
        raise KeyError
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_memory_does_not_grow_with_the_number_of_images():
    asked = []

    def items():
        for number in range(200):
            asked.append(number)
            yield GOOD

    with DecoderPool(1, 32) as pool:
        results = pool.map(items())
        for _ in range(10):
            next(results)
        assert len(asked) <= 10 + 4
        results.close()


def test_a_pipe_or_a_device_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with DecoderPool() as pool:
        for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path, tmp_path / "no\x00name"):
            found = next(pool.map([path]))
            assert isinstance(found, InputError) and ("regular" in found.what or "cannot be read" in found.what)
