"""What a reader yields, an article or the reason why there is none, and how articles are named and licensed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from kdistill.literature.text import clean_line, clean_text
from kdistill.records import Article

#: Why a record or a whole file yielded no article.
ReadReason = Literal[
    "truncated",
    "corrupt",
    "malformed_xml",
    "entity_declaration",
    "too_deep",
    "too_large",
    "unknown_format",
    "not_an_article",
    "nested_archive",
    "not_a_plain_file",
    "invalid_json",
    "invalid_record",
    "no_text",
    "retraction_notice",
]
#: Why an article was not taken.
ArticleReason = Literal[
    "license", "retracted", "not_chest_relevant", "duplicate_id", "duplicate_text", "near_duplicate", "max_articles"
]
#: Why a passage of a taken article was not.
PassageReason = Literal[
    "too_short",
    "too_long",
    "prompt_markup",
    "not_prose",
    "not_chest_relevant",
    "duplicate_text",
    "near_duplicate",
    "evaluation_ngram",
]


@dataclass(frozen=True)
class Dropped:
    """One input without an article. `retracts` holds identifiers that a retraction notice takes back."""

    id: str
    reason: ReadReason
    detail: str = ""
    retracts: tuple[str, ...] = ()


Item = Article | Dropped


class ReadFault(Exception):
    """A file cannot be read on: what was read before stays."""

    def __init__(self, reason: ReadReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


_PMID: Final = re.compile(r"[1-9][0-9]{0,8}")
_PMCID: Final = re.compile(r"(?:PMC)?([1-9][0-9]{0,9})(?:\.\d+)?", re.IGNORECASE)
_DOI: Final = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?(10\.\d{4,9}/\S{1,300})", re.IGNORECASE)
_YEAR: Final = re.compile(r"\b(1[6-9]\d\d|20\d\d)\b")
_RETRACTED_TITLE: Final = re.compile(r"^\W*(retracted|withdrawn)( article)?\s*[:\]]", re.IGNORECASE)


def pmid_of(value: object) -> str | None:
    """A PubMed id as digits, or None where the value is none."""
    match = _PMID.fullmatch(str(value).strip()) if value is not None else None
    return match.group() if match else None


def pmcid_of(value: object) -> str | None:
    """A PubMed Central id as "PMC" and digits, or None."""
    match = _PMCID.fullmatch(str(value).strip()) if value is not None else None
    return f"PMC{match.group(1)}" if match else None


def doi_of(value: object) -> str | None:
    """A DOI in lower case without a resolver, or None."""
    match = _DOI.fullmatch(clean_line(str(value))) if value is not None else None
    return match.group(1).lower() if match else None


def year_of(value: object) -> int | None:
    """The first plausible year (1600 to 2099) in the value, or None."""
    match = _YEAR.search(str(value)) if value is not None else None
    return int(match.group()) if match else None


def keys_of(article: Article) -> tuple[str, ...]:
    """The identifiers under which the same publication may appear in another file."""
    pairs = (("PMID", article.pmid), ("PMC", article.pmcid), ("doi", article.doi))
    return tuple(f"{name}:{value}" for name, value in pairs if value)


def make_article(
    *,
    own_id: str | None = None,
    title: str,
    text: str,
    source: str,
    pmid: str | None = None,
    pmcid: str | None = None,
    doi: str | None = None,
    year: int | None = None,
    mesh: tuple[str, ...] = (),
    license: str | None = None,
    retracted: bool = False,
) -> Item:
    """Clean the text, name the article, and notice a retraction that only the title tells.

    The id is the record's own one, else PMID:..., PMC..., doi:..., else a hash of the text.
    """
    title, text = clean_line(title), clean_text(text)
    article_id = own_id or (f"PMID:{pmid}" if pmid else None) or pmcid or (f"doi:{doi}" if doi else None)
    if not article_id:
        article_id = "sha256:" + hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]
    retracted = retracted or bool(_RETRACTED_TITLE.match(title))
    if not text and not retracted:
        return Dropped(article_id, "no_text", source)
    return Article(
        id=article_id,
        title=title,
        text=text,
        pmid=pmid,
        pmcid=pmcid,
        doi=doi,
        year=year,
        mesh=mesh,
        license=canonical_license(license),
        retracted=retracted,
        source=source,
    )


_CC_URL: Final = re.compile(r"creativecommons\.org/licen[cs]es/([a-z-]+)")
_CC_SHORT: Final = re.compile(r"\bcc[ -]by((?:[ -](?:nc|sa|nd))*)\b")
_CC_LONG: Final = re.compile(r"creative commons attribution([\w\s,/-]{0,60}?)(?:\(|licen[cs]e|\d)")
_CC_PARTS: Final = (("NC", r"non-?\s?commercial"), ("ND", r"no-?\s?deriv"), ("SA", r"share-?\s?alike"))


def canonical_license(text: str | None) -> str | None:
    """The short name of a licence ("CC BY-NC", "CC0", "public domain", without version), else the text, cut."""
    if not text or not (line := clean_line(text)):
        return None
    low = line.lower()
    if "publicdomain/zero" in low or re.search(r"\bcc[ -]?0\b", low):
        return "CC0"
    if match := _CC_URL.search(low):
        return f"CC {match.group(1).upper()}"
    if match := _CC_SHORT.search(low):
        return "CC BY" + match.group(1).upper().replace(" ", "-")
    if match := _CC_LONG.search(low):
        return "-".join(["CC BY", *(name for name, pattern in _CC_PARTS if re.search(pattern, match.group(1)))])
    if any(sign in low for sign in ("public domain", "publicdomain", "free of all copyright")):
        return "public domain"
    return line[:120]


Items = Iterator[Item]
