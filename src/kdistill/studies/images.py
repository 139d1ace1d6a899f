"""Image files -> one canonical grey image: bright = dense, float32 in [0, 1], patient's right on the left.

This is the only place where pixels are scaled, resized and padded; training and serving call the same functions, so
they see the same bytes. Content decides the format, never the file name.

Where it runs: PNG and JPEG are decoded by Pillow in any process, because their size is checked before a pixel is
allocated, a cut or damaged file is refused, and zlib and libjpeg are as tried on hostile input as native code gets.
Compressed DICOM calls codecs that are not: it is decoded in a limited child process only (see `decoding`), where many
files of any kind are read in parallel too.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from kdistill.errors import InputError
from kdistill.studies.depth import depth_of_grey
from kdistill.studies.dicom import decode_dicom, is_compressed_dicom
from kdistill.studies.dicom_file import looks_like_dicom
from kdistill.studies.film import LOSSY_COLOUR, MAX_PIXELS, Film

#: Below this there is no radiograph to read, beyond this aspect ratio no chest.
MIN_SIDE_PX: Final = 32
MAX_ASPECT: Final = 4.0
#: Three times the largest uncompressed radiograph.
MAX_FILE_BYTES: Final = 400_000_000

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"


def read_image(path: Path, size_px: int) -> np.ndarray:
    """Read one image file as the student sees it.

    Args:
        path: PNG (8 or 16 bit), JPEG or DICOM, told apart by content.
        size_px: Side of the square output.

    Returns:
        uint8 array [size_px, size_px].

    Raises:
        InputError: Not an image that we read, damaged, or not plausible as a radiograph.
    """
    return to_square(read_grey(path), size_px)


def read_grey(path: Path) -> np.ndarray:
    """Read one image file at full size: float32 [H, W] in [0, 1].

    Raises:
        InputError: As `read_image`.
    """
    try:
        return decode(read_file(path))
    except InputError as error:
        raise InputError(error.what, where=path.name, remedy=error.remedy) from error


def read_file(path: Path) -> bytes:
    """The bytes of a regular file that is not absurdly large (a pipe or a device would never end).

    Raises:
        InputError: It is missing, not readable, no regular file, or too large.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError("is no regular file")
        if size > MAX_FILE_BYTES:
            raise InputError(f"has {size} bytes, more than {MAX_FILE_BYTES}: no radiograph is that large")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "its name is not valid"
        raise InputError(f"cannot be read ({reason})") from error


def decode(data: bytes) -> np.ndarray:
    """Decode the bytes of a PNG, JPEG or DICOM file: float32 [H, W] in [0, 1].

    A compressed DICOM file is decoded in a child process of its own; for more than one file keep a
    `decoding.DecoderPool`.

    Raises:
        InputError: As `read_image`.
    """
    if looks_like_dicom(data) and is_compressed_dicom(data):
        from kdistill.studies.decoding import DecoderPool

        with DecoderPool() as pool:
            return pool.read(data).pixels
    return decode_in_process(data).pixels


def decode_in_process(data: bytes, *, require_chest: bool = True, keep_depth: bool = False) -> Film:
    """Decode an image file here, whatever native code that needs. What the children of `decoding` call.

    Args:
        data: The file.
        require_chest: Refuse DICOM files that are no chest radiograph by their tags; False: only note it.
        keep_depth: Also give the values from before the display window.

    Raises:
        InputError: As `read_image`.
    """
    if not data:
        raise InputError("is empty (0 bytes)", remedy="Copy the file again.")
    if data.startswith(_PNG):
        _require_whole_png(data)
        film = Film(_decode_raster(data, "PNG"))
    elif data.startswith(_JPEG):
        _require_whole_jpeg(data)
        film = Film(_decode_raster(data, "JPEG"))
    elif looks_like_dicom(data):
        film = decode_dicom(data, require_chest=require_chest, keep_depth=keep_depth)
    else:
        raise InputError(
            f"is no PNG, JPEG or DICOM file (it starts with {data[:4].hex(' ')})",
            remedy="Give the image itself; a file's name does not matter, its content does.",
        )
    _require_plausible(film.pixels)
    if keep_depth and film.depth is None:
        return film._replace(depth=depth_of_grey(film.pixels))
    return film


def _require_whole_png(data: bytes) -> None:
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 12 + length
        # Pillow skips the checksum of pixel chunks, so a flipped bit would become a stripe of wrong grey.
        if end <= len(data) and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError("is a damaged PNG (a checksum does not match)", remedy="Copy it again.")
        position = end
        if kind == b"IEND" and position <= len(data):
            return
    raise InputError(
        f"is cut short: the PNG ends after {len(data)} bytes without its end mark", remedy="Copy it again."
    )


def _require_whole_jpeg(data: bytes) -> None:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    # Inside the scan 0xFF is always followed by a stuffed zero, so an end mark there is the end mark.
    if data.find(b"\xff\xd9", position) < 0:
        raise InputError(
            f"is cut short: the JPEG ends after {len(data)} bytes without its end mark", remedy="Copy it again."
        )


def _decode_raster(data: bytes, kind: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=[kind])
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"claims {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            image.load()
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"is a damaged {kind} ({error})", remedy="Copy or export it again.") from error
    return _grey(image)


def _grey(image: Image.Image) -> np.ndarray:
    """Scale to [0, 1] by the type's full range: no guess from the content, so equal values stay equal across files."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow's convert("L") would clip everything above 255 to white.
        values = np.asarray(image).astype(np.float32)
        return np.clip(values / 65535.0, 0.0, 1.0)
    if image.mode == "1":
        raise InputError("is a 1-bit picture, not a radiograph")
    if image.mode in ("L", "LA"):
        return np.asarray(image.getchannel(0), dtype=np.float32) / 255.0
    rgb = np.asarray(image.convert("RGB"), dtype=np.int16)
    if np.abs(rgb - rgb[..., :1]).max() > LOSSY_COLOUR:
        raise InputError(
            "is a colour picture", remedy="Give the radiograph itself, in grey, not a screenshot or a photograph."
        )
    return rgb.mean(axis=-1, dtype=np.float32) / np.float32(255.0)


def _require_plausible(pixels: np.ndarray) -> None:
    height, width = pixels.shape
    if min(height, width) < MIN_SIDE_PX or max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"is {width} x {height} pixels: too small or too narrow for a chest radiograph")
    if not np.isfinite(pixels).all():
        raise InputError("has pixels that are no numbers")
    if float(pixels.max()) - float(pixels.min()) < 1e-3:
        raise InputError("is constant: there is nothing to see")


def box_mask(boxes: Iterable[tuple[float, float, float, float]], shape: tuple[int, int], size_px: int) -> np.ndarray:
    """Draw boxes as a mask on the square image that `to_square` makes of their image.

    Args:
        boxes: (left, top, right, bottom) in pixels of the stored image.
        shape: (height, width) of the stored image.
        size_px: Side of the square.

    Returns:
        uint8 0/1 [size_px, size_px]: every pixel that a box touches, at least one a box.
    """
    height, width = shape
    new_height, new_width, top, left = _placed(height, width, size_px)
    mask = np.zeros((size_px, size_px), dtype=np.uint8)
    for box in boxes:
        columns = _touched(box[0] * new_width / width, box[2] * new_width / width, new_width)
        rows = _touched(box[1] * new_height / height, box[3] * new_height / height, new_height)
        mask[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] = 1
    return mask


def _touched(start: float, stop: float, size: int) -> slice:
    """The pixels between two coordinates, inside the image; at least one."""
    first = min(max(math.floor(start + 1e-6), 0), size - 1)  # a box that ends on a pixel's edge does not touch it
    return slice(first, min(max(math.ceil(stop - 1e-6), first + 1), size))


def _placed(height: int, width: int, size_px: int) -> tuple[int, int, int, int]:
    """Height and width of an image fitted into the square, and the rows above and columns left of it."""
    scale = size_px / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return new_height, new_width, (size_px - new_height) // 2, (size_px - new_width) // 2


def to_square(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """Resize to fit a square, keeping the aspect ratio, and pad with black on both sides equally.

    Args:
        pixels: Float32 [H, W] in [0, 1].
        size_px: Side of the square.

    Returns:
        uint8 [size_px, size_px], rounded to nearest.
    """
    height, width = pixels.shape
    new_height, new_width, top, left = _placed(height, width, size_px)
    if (new_height, new_width) != (height, width):
        # Pillow's filters widen with the reduction factor, so shrinking does not alias.
        image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
        pixels = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
    square = np.zeros((size_px, size_px), dtype=np.uint8)
    square[top : top + new_height, left : left + new_width] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return square
