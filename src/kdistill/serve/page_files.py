"""The files of the page, read once: what a URL names is looked up in this list and never on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final, NamedTuple

_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
)


class PageFile(NamedTuple):
    """A file's bytes and its media type."""

    content: bytes
    media_type: str


def _shipped() -> Mapping[str, PageFile]:
    folder = resources.files("kdistill.serve.page")
    found = {"/": PageFile(folder.joinpath("index.html").read_bytes(), "text/html; charset=utf-8")}
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        media_type = _TYPES.get(item.name.rpartition(".")[2])
        if media_type is not None:
            found[f"/page/{item.name}"] = PageFile(item.read_bytes(), media_type)
    return MappingProxyType(found)


#: Path of the URL -> file.
PAGE_FILES: Final[Mapping[str, PageFile]] = _shipped()
