"""Read an upload: counted while it streams, whatever its headers say; file names and content types are ignored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from fastapi import HTTPException, Request
from starlette.formparsers import MultiPartException, MultiPartParser

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
    data = await _form_image(request, stream, limit) if is_form else b"".join([part async for part in stream])
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


async def _form_image(request: Request, stream: AsyncIterator[bytes], limit: int) -> bytes:
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=0)  # type: ignore[arg-type]
    parser.spool_max_size = limit + 1  # the image stays in memory: no temporary file of a patient
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise HTTPException(400, f"the form cannot be read: it needs one file, in the field '{FIELD}'") from error
    async with _closing(form):
        found = form.get(FIELD)
        if found is None or isinstance(found, str):
            raise HTTPException(400, f"the form has no file in the field '{FIELD}'")
        return await found.read()


class _closing:
    def __init__(self, form: object) -> None:
        self._form = form

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()  # type: ignore[attr-defined]
