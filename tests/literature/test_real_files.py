"""Genuine PubMed, PMC and PLOS files, where a checkout has them."""

from __future__ import annotations

from pathlib import Path

from kdistill.literature.config import FilesSource, LiteratureConfig
from kdistill.literature.files import list_files, read_file
from kdistill.literature.items import Dropped, Item
from kdistill.records import Article


def read_all(path: Path) -> list[Item]:
    source = FilesSource(path=(path,))
    config = LiteratureConfig(sources=(source,))
    return [item for file in list_files(source) for item in read_file(file, source, config)]


def test_pubmed_and_jats_fixtures(shared_data: Path) -> None:
    items = read_all(shared_data / "pubmed_xml_fixtures")
    articles = {item.id: item for item in items if isinstance(item, Article)}
    reasons = {item.reason for item in items if isinstance(item, Dropped)}
    assert reasons == {"no_text", "not_an_article", "unknown_format"}
    assert {"PMID:30073290", "PMID:31400583", "PMID:29768149"} <= set(articles)
    assert sum(item.pmcid is not None for item in articles.values()) >= 5
    assert all(item.year and item.title and len(item.text) > 100 for item in articles.values())


def test_plos_archive_is_read_whole(shared_data: Path) -> None:
    items = read_all(shared_data / "plos_fulltext_jats" / "articles.tar.gz")
    articles = [item for item in items if isinstance(item, Article)]
    assert len(items) == len(articles) == 83
    assert {article.license for article in articles} <= {"CC BY", "CC0", "public domain"}
    assert all(article.doi and article.title and "<" not in article.title for article in articles)
    assert sum(len(article.text) for article in articles) > 1_500_000
