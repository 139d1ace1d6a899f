"""JATS full text (PMC .nxml, PLOS .xml): NISO Z39.96, also the older NLM archiving tag sets."""

from __future__ import annotations

from typing import IO, Any, Final

from kdistill.literature.items import Dropped, Item, Items, doi_of, make_article, pmcid_of, pmid_of, year_of
from kdistill.literature.xml_stream import iter_records, strip_namespaces, text_of

ROOTS: Final = frozenset({"article", "pmc-articleset", "OAI-PMH", "records"})
_HREF: Final = "{http://www.w3.org/1999/xlink}href"
#: Not running text: numbers, formulae, and things that only make sense with their layout.
_SKIP: Final = frozenset(
    {"table-wrap", "table", "disp-formula", "tex-math", "math", "supplementary-material", "media", "object-id", "fn"}
)
_NOTICE_TYPES: Final = frozenset({"retraction", "partial-retraction"})
_RETRACTED_TYPES: Final = frozenset({"retracted-article"})
_RETRACTED_LINKS: Final = frozenset({"retraction-forward", "retracted-by"})
_RETRACTS_LINKS: Final = frozenset({"retracted-article", "partial-retraction", "retraction-of"})
_DATES: Final = (
    "pub-date[@pub-type='ppub']/year",
    "pub-date[@pub-type='collection']/year",
    "pub-date/year",
    "history/date[@date-type='accepted']/year",
)


def read_jats(stream: IO[bytes], source: str) -> Items:
    """Yield one item per `<article>` (one in a file from PMC or PLOS, many in an articleset).

    Raises:
        ReadFault: The file cannot be read on.
    """
    for record in iter_records(stream, {"article"}):
        strip_namespaces(record)
        yield _item(record, source)


def _item(record: Any, source: str) -> Item:
    meta = record.find("front/article-meta")
    if meta is None:
        return Dropped(source, "invalid_record", "article without front/article-meta")
    ids = {node.get("pub-id-type"): text_of(node) for node in meta.iterfind("article-id")}
    pmid, doi = pmid_of(ids.get("pmid")), doi_of(ids.get("doi"))
    pmcid = next(filter(None, (pmcid_of(ids.get(kind)) for kind in ("pmc", "pmcid", "pmc-aid"))), None)
    kind = record.get("article-type", "")
    if kind in _NOTICE_TYPES:
        return Dropped(pmcid or (doi and f"doi:{doi}") or source, "retraction_notice", source, _retracts(meta))
    return make_article(
        title=text_of(meta.find("title-group/article-title"), skip={"fn", "xref"}),
        text=_text(record, meta),
        source=source,
        pmid=pmid,
        pmcid=pmcid,
        doi=doi,
        year=next(filter(None, (year_of(meta.findtext(path)) for path in _DATES)), None),
        mesh=tuple(filter(None, (text_of(node) for node in meta.iterfind("kwd-group[@kwd-group-type='MESH']/kwd")))),
        license=_license(meta),
        retracted=kind in _RETRACTED_TYPES or bool(_links(meta, _RETRACTED_LINKS)),
    )


def _text(record: Any, meta: Any) -> str:
    abstracts = [node for node in meta.iterfind("abstract") if node.get("abstract-type") in (None, "summary")]
    body = record.find("body")
    blocks = [*abstracts, *([body] if body is not None else [])]
    return "\n".join(filter(None, (text_of(p, _SKIP, True) for block in blocks for p in _paragraphs(block))))


def _paragraphs(block: Any) -> list[Any]:
    # Outermost <p> only: a list inside a paragraph holds paragraphs of its own.
    return block.xpath(".//p[not(ancestor::p) and not(ancestor::table-wrap) and not(ancestor::fn)]")


def _license(meta: Any) -> str | None:
    license_ = meta.find("permissions/license")
    if license_ is None:
        return (
            text_of(meta.find("permissions/copyright-statement")) or text_of(meta.find("copyright-statement")) or None
        )
    links = [license_.get(_HREF), *(node.get(_HREF) for node in license_.iterfind(".//ext-link"))]
    creative = next((link for link in links if link and "creativecommons.org" in link), None)
    return creative or text_of(license_) or None


def _links(meta: Any, kinds: frozenset[str]) -> list[Any]:
    return [node for node in meta.iterfind("related-article") if node.get("related-article-type") in kinds]


def _retracts(meta: Any) -> tuple[str, ...]:
    found = []
    for node in _links(meta, _RETRACTS_LINKS):
        target = node.get(_HREF)
        if doi := doi_of(target):
            found.append(f"doi:{doi}")
        elif node.get("ext-link-type") == "pmid" and (pmid := pmid_of(target)):
            found.append(f"PMID:{pmid}")
        elif node.get("ext-link-type") in ("pmc", "pmcid") and (pmcid := pmcid_of(target)):
            found.append(f"PMC:{pmcid}")
    return tuple(found)
