"""Small PubMed, JATS and JSONL documents written in code, and a build of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdistill.artifact import StageWriter
from kdistill.literature.config import FilesSource, LiteratureConfig
from kdistill.literature.files import list_files, read_file
from kdistill.literature.items import Item
from kdistill.literature.stage import build_literature

PUBMED_DOCTYPE = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January '
    '2025//EN" "https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n'
)
JATS_DOCTYPE = (
    '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving and Interchange DTD v1.0 20120330//EN" '
    '"JATS-archivearticle1.dtd">\n'
)
CHEST = "A pleural effusion blunts the costophrenic angle on the chest radiograph of number {0}."
OTHER = "The weather in the valley of number {0} was mild and the harvest began early that year."


def pubmed_record(
    pmid: object,
    abstract: str = "<AbstractText>{}</AbstractText>".format(CHEST.format("one")),
    title: str = "On effusions",
    kinds: Sequence[str] = ("Journal Article",),
    corrections: str = "",
    pmcid: str = "",
) -> str:
    """One PubmedArticle with a cited reference that has identifiers of its own."""
    publication_types = "".join(f"<PublicationType>{kind}</PublicationType>" for kind in kinds)
    body = f"<Abstract>{abstract}</Abstract>" if abstract else ""
    own = f'<ArticleId IdType="pmc">{pmcid}</ArticleId>' if pmcid else ""
    return (
        f"<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article><Journal><JournalIssue><PubDate>"
        f"<MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate></JournalIssue></Journal>"
        f"<ArticleTitle>{title}</ArticleTitle>{body}<PublicationTypeList>{publication_types}</PublicationTypeList>"
        f"</Article><MeshHeadingList><MeshHeading><DescriptorName>Pleural Effusion</DescriptorName></MeshHeading>"
        f"</MeshHeadingList><CommentsCorrectionsList>{corrections}</CommentsCorrectionsList></MedlineCitation>"
        f"<PubmedData><ArticleIdList>{own}</ArticleIdList><ReferenceList><Reference><ArticleIdList>"
        f'<ArticleId IdType="pmc">PMC999</ArticleId></ArticleIdList></Reference></ReferenceList></PubmedData>'
        f"</PubmedArticle>"
    )


def pubmed(*records: str) -> bytes:
    """A PubmedArticleSet with the genuine document type."""
    return (PUBMED_DOCTYPE + "<PubmedArticleSet>" + "\n".join(records) + "</PubmedArticleSet>").encode()


def jats(
    pmid: str = "77",
    body: str = "<p>{}</p>".format(CHEST.format("two")),
    kind: str = "research-article",
    related: str = "",
    license_: str = '<license xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>x</license-p></license>',
) -> bytes:
    """A JATS article with the document type of PMC."""
    return (
        f'{JATS_DOCTYPE}<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="{kind}"><front><article-meta>'
        f'<article-id pub-id-type="pmid">{pmid}</article-id><article-id pub-id-type="pmc">55</article-id>'
        f'<article-id pub-id-type="doi">10.1000/ABC</article-id><title-group><article-title>A <italic>title</italic>'
        f'</article-title></title-group><pub-date pub-type="ppub"><year>2012</year></pub-date><permissions>{license_}'
        f"</permissions>{related}</article-meta></front><body>{body}</body></article>"
    ).encode()


def jsonl(*records: Mapping[str, object]) -> bytes:
    """JSON Lines."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def tar_gz(members: Mapping[str, bytes], link: str | None = None) -> bytes:
    """A compressed archive, with a symbolic link in it where a name is given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return buffer.getvalue()


def read(path: Path, data: bytes, limit_mb: int = 64, **settings: Any) -> list[Item]:
    """Write a file and read its items."""
    path.write_bytes(data)
    source = FilesSource(path=(path,), **settings)
    config = LiteratureConfig(sources=(source,), max_file_mb=limit_mb, max_archive_mb=limit_mb)
    return [item for file in list_files(source) for item in read_file(file, source, config)]


def build(folder: Path, files: Mapping[str, bytes], *, excluded: Sequence[str] = (), **settings: Any) -> StageWriter:
    """Build the literature of a few files in reading order; without held-out articles unless asked."""
    inputs, out = folder / "in", folder / "out"
    inputs.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    for name, data in files.items():
        (inputs / name).write_bytes(data)
    source = FilesSource(path=tuple(inputs / name for name in files), **settings.pop("source", {}))
    config = LiteratureConfig(sources=(source,), **{"heldout_share": 0.0, **settings})
    stage = StageWriter(out)
    build_literature(stage, config, excluded_texts=excluded)
    return stage


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def dropped(stage: StageWriter) -> list[tuple[str, str]]:
    """(id, reason) of every dropped article and passage."""
    return [(entry["id"], entry["reason"]) for entry in lines(stage.dir / "dropped.jsonl")]
