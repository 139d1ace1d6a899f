"""PubMed and MEDLINE XML (PubmedArticleSet), the format of the NLM baseline, its update files and efetch."""

from __future__ import annotations

from typing import IO, Any, Final

from kdistill.literature.items import (
    Dropped,
    Item,
    Items,
    doi_of,
    make_article,
    pmcid_of,
    pmid_of,
    year_of,
)
from kdistill.literature.xml_stream import iter_records, text_of

ROOTS: Final = frozenset({"PubmedArticleSet", "PubmedArticle"})
#: RefType of CommentsCorrections in the record of a retracted article, and in the record of a retraction notice.
_RETRACTED_BY: Final = frozenset({"RetractionIn", "PartialRetractionIn"})
_RETRACTS: Final = frozenset({"RetractionOf", "PartialRetractionOf"})
_NOTICE_TYPES: Final = frozenset({"retraction of publication", "retraction notice"})


def read_pubmed(stream: IO[bytes], source: str) -> Items:
    """Yield one item per PubmedArticle.

    Args:
        stream: Decompressed XML.
        source: File name for the records.

    Raises:
        ReadFault: The file cannot be read on.
    """
    for record in iter_records(stream, {"PubmedArticle"}):
        yield _item(record, source)


def _item(record: Any, source: str) -> Item:
    citation = record.find("MedlineCitation")
    if citation is None:
        return Dropped(source, "invalid_record", "PubmedArticle without MedlineCitation")
    pmid = pmid_of(citation.findtext("PMID"))
    if pmid is None:
        return Dropped(source, "invalid_record", "MedlineCitation without a valid PMID")
    types = {(node.text or "").strip().lower() for node in citation.iterfind("Article/PublicationTypeList/*")}
    if types & _NOTICE_TYPES:
        return Dropped(f"PMID:{pmid}", "retraction_notice", source, _references(citation, _RETRACTS))
    return make_article(
        title=text_of(citation.find("Article/ArticleTitle")),
        text=_abstract(citation),
        source=source,
        pmid=pmid,
        pmcid=pmcid_of(_article_id(record, "pmc")),
        doi=doi_of(_article_id(record, "doi")) or doi_of(citation.findtext("Article/ELocationID[@EIdType='doi']")),
        year=_year(citation),
        mesh=tuple(filter(None, (text_of(n) for n in citation.iterfind("MeshHeadingList/MeshHeading/DescriptorName")))),
        retracted="retracted publication" in types or _has_reference(citation, _RETRACTED_BY),
    )


def _abstract(citation: Any) -> str:
    # Section labels ("BACKGROUND") are attributes and are left out; sections become paragraphs.
    return "\n".join(filter(None, (text_of(node) for node in citation.iterfind("Article/Abstract/AbstractText"))))


def _article_id(record: Any, kind: str) -> str | None:
    # Only the article's own list: each cited reference carries an ArticleIdList too.
    for node in record.iterfind("PubmedData/ArticleIdList/ArticleId"):
        if node.get("IdType") == kind:
            return text_of(node)
    return None


def _year(citation: Any) -> int | None:
    for path in ("Article/Journal/JournalIssue/PubDate/Year", "Article/Journal/JournalIssue/PubDate/MedlineDate"):
        if (year := year_of(citation.findtext(path))) is not None:
            return year
    return year_of(citation.findtext("Article/ArticleDate/Year"))


def _has_reference(citation: Any, kinds: frozenset[str]) -> bool:
    return any(node.get("RefType") in kinds for node in citation.iterfind("CommentsCorrectionsList/*"))


def _references(citation: Any, kinds: frozenset[str]) -> tuple[str, ...]:
    nodes = [node for node in citation.iterfind("CommentsCorrectionsList/*") if node.get("RefType") in kinds]
    return tuple(f"PMID:{pmid}" for node in nodes if (pmid := pmid_of(node.findtext("PMID"))))
