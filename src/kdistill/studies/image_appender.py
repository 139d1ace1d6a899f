"""A .npy file of images that grows one image at a time: a data set need not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

#: The header of a uint8 [N, S, S] array: long enough for any N, and what `np.save` writes up to N of about 10^60.
_HEADER_BYTES: Final = 128


class ImageAppender:
    """Writes uint8 [S, S] images one after the other; `close` makes the file the array [N, S, S].

    The bytes are those that `np.save` would write. Until `close` the file has no header and no reader takes it for
    an array.

    Args:
        path: The file; replaced where it exists.
        size_px: S.
    """

    def __init__(self, path: Path, size_px: int) -> None:
        self.count = 0
        self._size_px = size_px
        self._file: BinaryIO = path.open("wb")
        self._file.write(bytes(_HEADER_BYTES))

    def append(self, image: np.ndarray) -> int:
        """Write one image; returns its row.

        Raises:
            ValueError: It has another shape or type.
        """
        if image.dtype != np.uint8 or image.shape != (self._size_px, self._size_px):
            raise ValueError(f"an image of {image.dtype} {image.shape} in an array of {self._size_px} px")
        self._file.write(np.ascontiguousarray(image).tobytes())
        self.count += 1
        return self.count - 1

    def close(self) -> None:
        """Write the header (NEP 1, version 1.0) and close; a second call does nothing."""
        if self._file.closed:
            return
        shape = (self.count, self._size_px, self._size_px)
        text = str({"descr": "|u1", "fortran_order": False, "shape": shape})[:-1] + ", }"
        size = _HEADER_BYTES - 10
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + text.ljust(size - 1).encode() + b"\n")
        self._file.close()
