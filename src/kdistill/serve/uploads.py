"""Read an upload: counted while it streams, whatever its headers say; file names and content types are ignored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: What multipart framing may add to the file itself.
_FRAMING_BYTES: Final = 10_000
FIELD: Final = "image"


async def read_upload(request: Request, max_bytes: int, took: Callable[[int], None]) -> bytes:
    """The bytes of the one image of a request: the body itself, or the field `image` of a multipart form.

    Args:
        request: The request.
        max_bytes: Largest image.
        took: Told how many bytes have come, part by part; what it raises ends the upload.

    Raises:
        HTTPException: 413 larger than allowed, as soon as it is; 400 no image, more than one, or a form that is torn.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    limit = max_bytes + (_FRAMING_BYTES if is_form else 0)
    _refuse_declared(request, limit)
    stream = _counted(request.stream(), limit, took)
    data = await _form_image(request, stream) if is_form else b"".join([part async for part in stream])
    if not data:
        raise HTTPException(400, "no image: send its bytes as the body, or as the form field 'image'")
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _refuse_declared(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"larger than {limit / 1e6:.0f} MB")


async def _counted(stream: AsyncIterator[bytes], limit: int, took: Callable[[int], None]) -> AsyncIterator[bytes]:
    total = 0
    async for part in stream:
        total += len(part)
        if total > limit:
            raise _too_large(limit)
        took(len(part))
        yield part


async def _form_image(request: Request, stream: AsyncIterator[bytes]) -> bytes:
    _, options = parse_options_header(request.headers["content-type"])
    part = _OnePart()
    try:
        if not (boundary := options.get(b"boundary")):
            raise FormParserError("no boundary")
        parser = MultipartParser(boundary, part.callbacks())
        async for data in stream:
            parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the form cannot be read: it needs one file, in the field '{FIELD}'") from error
    if not part.is_whole:
        raise HTTPException(400, f"the form has no file in the field '{FIELD}'")
    return bytes(part.data)


class _OnePart:
    """What the parser tells, kept in memory: a framework's form would make files, and take any number of parts."""

    def __init__(self) -> None:
        self.data, self.is_whole = bytearray(), False
        self._num_parts, self._name, self._value, self._disposition = 0, bytearray(), bytearray(), b""

    def callbacks(self) -> MultipartCallbacks:
        """For `MultipartParser`."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._headers,
            "on_part_data": lambda data, start, end: self.data.extend(data[start:end]),
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > 1:
            raise FormParserError("more than one part")

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD.encode() or b"filename" not in options:
            raise FormParserError("another field, or a text")

    def _end(self) -> None:
        self.is_whole = True
