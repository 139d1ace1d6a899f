"""Self-contained HTML documents: inline style and script bound to a content security policy by hash, no network.

The policy forbids everything but data: images and exactly the style and script given here, so that even text that
escaped the escaping could load and run nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import Final, Literal

from kdistill.explain.explanation import NOTICE, RESEARCH_USE

#: Who wrote a page: a model, or a program that counted.
Author = Literal["model", "program"]
#: Stands in the place of "a model wrote this" where none did.
COUNTED: Final = (
    f"{RESEARCH_USE} No model wrote this page: a program counted, measured and drew what stands here. "
    "It can be wrong, and it misses what it does not look for."
)


def source_hash(text: str) -> str:
    """The CSP source expression of an inline style or script."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


def asset(package: str, name: str) -> str:
    """A text file shipped in a package (style sheet, script)."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Escape any value for element content and quoted attributes; control and bidirectional marks are made visible.

    >>> text("<b>\\u202e")
    '&lt;b&gt;\\ufffd'
    """
    return escape("".join("\ufffd" if _is_unsafe(c) else c for c in str(value)), quote=True)


def _is_unsafe(character: str) -> bool:
    code = ord(character)
    control = code < 32 and character not in "\n\t"
    return control or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def notice_of(author: Author) -> str:
    """What stands on top of a page: for research only, and who wrote it."""
    match author:
        case "model":
            return NOTICE
        case "program":
            return COUNTED


def document(*, title: str, style: str, script: str, body: str, author: Author = "model") -> str:
    """A whole page with the notice on top: no argument removes "research use only", one says who wrote the page.

    Args:
        title: Plain text, escaped here.
        style: Trusted CSS.
        script: Trusted JavaScript ("" for none).
        body: HTML whose variable parts have gone through `text`.
        author: "program" only where no word or picture comes from a trained student or teacher.
    """
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<aside class="notice" aria-label="Research use only">{text(notice_of(author))}</aside>\n'
        f"{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, caption: str = "") -> str:
    """An HTML table of ready-made cells (escape them with `text`); the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = []
    for row in rows:
        first, *others = row
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    title = f"<caption>{caption}</caption>" if caption else ""
    body = "".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="group"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
