"""XML records one at a time from untrusted bytes: no entities, no network, no DTD, bounded depth."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator
from typing import IO, Any, Final

from lxml import etree

from kdistill.literature.items import ReadFault, ReadReason

_COMMENT: Final = re.compile(rb"<!--.*?-->", re.DOTALL)
_START_TAG: Final = re.compile(rb"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)[\s/>]")
#: Elements that stand on their own line: their neighbours are not glued to them.
_BLOCKS: Final = frozenset({"p", "title", "list", "list-item", "sec", "disp-quote", "def-item", "break", "caption"})


def root_name(head: bytes) -> str | None:
    """The local name of the root element, from the first bytes of a file (any ASCII-compatible encoding or UTF-16).

    Raises:
        ReadFault: The document type declares entities of its own. Genuine PubMed and JATS files only name a DTD.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "ignore").encode()
    head = _COMMENT.sub(b"", head)
    if b"<!ENTITY" in head:
        raise ReadFault("entity_declaration", "the document type declares entities")
    match = _START_TAG.search(head)
    return match.group(1).decode("ascii", "replace") if match else None


def iter_records(stream: IO[bytes], tags: Collection[str]) -> Iterator[Any]:
    """Yield each element with one of these local names, then forget it: memory stays that of one record.

    lxml is told not to resolve entities, load a DTD or use the network, and not to lift libxml2's own limits (256
    levels, 10 MB a text node); a document with its own entity declarations is refused before its first record.

    Raises:
        ReadFault: The XML is not well-formed, nested too deeply, or declares entities.
    """
    parser = etree.iterparse(
        stream,
        events=("end",),
        tag=[f"{{*}}{tag}" for tag in tags],
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    checked = False
    try:
        for _, element in parser:
            if not checked:
                _refuse_entities(element)
                checked = True
            yield element
            _forget(element)
    except etree.XMLSyntaxError as error:
        raise ReadFault(_reason(error), _position(error)) from error


def _refuse_entities(element: Any) -> None:
    subset = element.getroottree().docinfo.internalDTD
    if subset is not None and any(True for _ in subset.iterentities()):
        raise ReadFault("entity_declaration", "the document type declares entities")


def _forget(element: Any) -> None:
    element.clear(keep_tail=False)
    parent = element.getparent()
    while parent is not None and parent[0] is not element:
        del parent[0]


def _reason(error: etree.XMLSyntaxError) -> ReadReason:
    text = str(error)
    if "depth" in text.lower():
        return "too_deep"
    if "amplification" in text or "entity reference loop" in text:
        return "entity_declaration"
    if "huge" in text.lower() or "too long" in text.lower():
        return "too_large"
    return "malformed_xml"


def _position(error: etree.XMLSyntaxError) -> str:
    # libxml2's message may quote the document, so only where it stopped is kept.
    line, column = error.position
    return f"line {line}, column {column}"


def strip_namespaces(element: Any) -> None:
    """Give every element below its local name (OAI copies of JATS carry a namespace, PMC's own do not)."""
    for node in element.iter(etree.Element):
        if isinstance(node.tag, str) and node.tag.startswith("{"):
            node.tag = etree.QName(node).localname


def text_of(element: Any, skip: Collection[str] = (), skip_bibliography: bool = False) -> str:
    """All text below an element, markup removed, whitespace folded; named character references are resolved.

    Args:
        element: An lxml element, or None.
        skip: Local names whose content is left out (their tails stay).
        skip_bibliography: Leave out `<xref ref-type="bibr">`, the numbers of references.
    """
    if element is None:
        return ""
    parts: list[str] = []
    _collect(element, frozenset(skip), skip_bibliography, parts)
    return " ".join("".join(parts).split())


def _collect(node: Any, skip: frozenset[str], skip_bibliography: bool, parts: list[str]) -> None:
    # Recursion is bounded: the parser refuses more than 256 levels.
    block = node.tag in _BLOCKS
    parts.append(" " if block else "")
    parts.append(node.text or "")
    for child in node:
        if isinstance(child.tag, str):
            reference = skip_bibliography and child.tag == "xref" and child.get("ref-type") == "bibr"
            if child.tag not in skip and not reference:
                _collect(child, skip, skip_bibliography, parts)
        elif child.tag is etree.Entity:
            parts.append(html.unescape(child.text))
        parts.append(child.tail or "")
    parts.append(" " if block else "")
