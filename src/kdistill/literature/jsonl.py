"""JSON Lines: the project's own layout, or any other with the keys named in the source's `fields`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import IO, Any, Final

from kdistill.literature.config import FilesSource, JsonlFields
from kdistill.literature.items import Dropped, Item, Items, doi_of, make_article, pmcid_of, pmid_of, year_of
from kdistill.literature.text import clean_line

#: One article of text is at most a few MB; a longer line is a fault or a bomb.
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_ESCAPED_LINE_END: Final = re.compile(r"\\n(?=[A-Z\s]|$)")


def read_jsonl_articles(stream: IO[bytes], source: str, settings: FilesSource) -> Items:
    """Yield one item per non-empty line.

    Args:
        stream: Decompressed JSON Lines, UTF-8 (a byte order mark is allowed).
        source: File name for the records.
        settings: Key names, id prefix and the licence of records that state none.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{source} line {number}"
        if len(line) > MAX_LINE_BYTES:
            _skip_rest(stream, line)
            yield Dropped(where, "too_large", f"a line of more than {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield _item(line, where, source, settings)


def _skip_rest(stream: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_LINE_BYTES)


def _item(line: bytes, where: str, source: str, settings: FilesSource) -> Item:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return Dropped(where, "invalid_json", "not a JSON object in UTF-8")
    if not isinstance(record, dict):
        return Dropped(where, "invalid_json", "not a JSON object")
    names = settings.fields
    retracted = record.get(names.retracted, False)
    if not isinstance(retracted, bool | None):
        return Dropped(where, "invalid_record", f"{names.retracted} is neither true nor false")
    license_ = record.get(names.license)
    return make_article(
        own_id=_own_id(record, settings),
        title=_joined(record.get(names.title)),
        text="\n".join(filter(None, (_joined(record.get(name)) for name in names.text))),
        source=source,
        pmid=pmid_of(record.get(names.pmid)),
        pmcid=pmcid_of(record.get(names.pmcid)),
        doi=doi_of(record.get(names.doi)),
        year=year_of(record.get(names.year)),
        mesh=_mesh(record, names),
        license=license_ if isinstance(license_, str) and license_.strip() else settings.license,
        retracted=bool(retracted),
    )


def _own_id(record: Mapping[str, Any], settings: FilesSource) -> str | None:
    value = record.get(settings.fields.id)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    own = clean_line(str(value))[:200]
    return settings.id_prefix + own if own else None


def _mesh(record: Mapping[str, Any], names: JsonlFields) -> tuple[str, ...]:
    value = record.get(names.mesh)
    entries = value if isinstance(value, list) else []
    return tuple(clean_line(entry) for entry in entries if isinstance(entry, str) and entry.strip())


def _joined(value: Any) -> str:
    """A string as it is, a list as paragraphs, a flat object as "value: value" (a glossary entry); else nothing."""
    match value:
        case str():
            # Some sets were exported twice and hold a backslash and an n where a line ended.
            return _ESCAPED_LINE_END.sub("\n", value)
        case list():
            return "\n".join(filter(None, (_joined(entry) for entry in value if not isinstance(entry, list))))
        case dict():
            return ": ".join(entry for entry in value.values() if isinstance(entry, str))
        case _:
            return ""
