"""Every kind of damage is one named drop; the records around it stay."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from kdistill.literature.items import Dropped, ReadFault
from kdistill.literature.xml_stream import iter_records
from kdistill.records import Article

from .documents import CHEST, PUBMED_DOCTYPE, build, dropped, jats, jsonl, pubmed, pubmed_record, read, tar_gz


def reasons(items: list[object]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Dropped)]


def many(count: int) -> bytes:
    return pubmed(*(pubmed_record(number) for number in range(1, count + 1)))


def test_genuine_document_types_pass(tmp_path: Path) -> None:
    assert isinstance(read(tmp_path / "a.xml", many(1))[0], Article)
    assert isinstance(read(tmp_path / "b.xml", jats())[0], Article)


def test_torn_gzip_keeps_what_came_before(tmp_path: Path) -> None:
    data = gzip.compress(many(2000), mtime=0)
    items = read(tmp_path / "a.xml.gz", data[: len(data) // 2])
    assert reasons(items) == ["truncated"]
    assert 500 < len(items) < 2000
    assert f"{len(items) - 1} records before it" in items[-1].detail


def test_bad_checksum_is_told_after_the_records(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(jsonl(*({"id": str(n), "text": CHEST} for n in range(500)))))
    data[-6] ^= 0xFF
    items = read(tmp_path / "a.jsonl.gz", bytes(data))
    assert reasons(items) == ["corrupt"] and len(items) > 1


def test_flipped_bits_in_compressed_data(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(many(50), mtime=0))
    data[len(data) // 2] ^= 0xFF
    assert reasons(read(tmp_path / "a.xml.gz", bytes(data)))[0] in ("corrupt", "malformed_xml", "truncated")


def test_truncated_xml_keeps_whole_records(tmp_path: Path) -> None:
    data = many(5)
    items = read(tmp_path / "a.xml", data[: data.rindex(b"<PubmedArticle>") + 30])
    assert reasons(items) == ["malformed_xml"] and len(items) == 5


BOMB = '<!DOCTYPE PubmedArticleSet [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">{}]>\n'


@pytest.mark.parametrize(
    "declarations",
    [
        "".join(f'<!ENTITY {chr(c + 1)} "{f"&{chr(c)};" * 10}">' for c in range(ord("b"), ord("k"))),
        '<!ENTITY x SYSTEM "file:///etc/passwd">',
        '<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;',
    ],
    ids=["bomb", "external", "parameter"],
)
def test_entity_declarations_are_refused(tmp_path: Path, declarations: str) -> None:
    record = pubmed_record("1", abstract="<AbstractText>&k;&x;</AbstractText>")
    data = f"{BOMB.format(declarations)}<PubmedArticleSet>{record}</PubmedArticleSet>".encode()
    assert reasons(read(tmp_path / "a.xml", data)) == ["entity_declaration"]


def test_entity_declarations_behind_a_long_prologue_are_refused(tmp_path: Path) -> None:
    padding = "".join(f"<!ELEMENT e{number} ANY>" for number in range(8000))
    entity = '<!ENTITY x SYSTEM "file:///etc/passwd">'
    record = pubmed_record("1", abstract="<AbstractText>&x;</AbstractText>")
    data = f"<!DOCTYPE PubmedArticleSet [{padding}{entity}]><PubmedArticleSet>{record}</PubmedArticleSet>".encode()
    assert not any(isinstance(item, Article) for item in read(tmp_path / "a.xml", data))


def test_the_parser_refuses_declarations_that_the_first_look_missed() -> None:
    data = b'<!DOCTYPE a [<!ENTITY x "text">]><a><b>&x;</b></a>'
    with pytest.raises(ReadFault) as caught:
        list(iter_records(io.BytesIO(data), {"b"}))
    assert caught.value.reason == "entity_declaration"


def test_entities_of_a_dtd_that_is_not_loaded_are_read_by_name(tmp_path: Path) -> None:
    (article,) = read(tmp_path / "a.nxml", jats(body="<p>lung &alpha;-1 &nosuch; &#x3b2;</p>"))
    assert isinstance(article, Article) and article.text == "lung α-1 &nosuch; β"


def test_depth_of_200_000_is_refused(tmp_path: Path) -> None:
    data = PUBMED_DOCTYPE + "<PubmedArticleSet>" + pubmed_record("1") + "<a>" * 200_000 + "</a>" * 200_000
    items = read(tmp_path / "a.xml", (data + "</PubmedArticleSet>").encode())
    assert [item.id for item in items[:1]] == ["PMID:1"] and reasons(items) == ["too_deep"]


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    data = b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n" + jsonl({"id": "b", "text": "Fine."})
    assert reasons(read(tmp_path / "a.jsonl", data)) == ["invalid_json"]


def test_decompressed_bytes_are_capped(tmp_path: Path) -> None:
    line = jsonl({"id": "a", "text": CHEST}) + b" " * 5_000_000 + b"\n"
    assert reasons(read(tmp_path / "a.jsonl.gz", gzip.compress(line, mtime=0), limit_mb=2)) == ["too_large"]
    assert reasons(read(tmp_path / "a.tar.gz", tar_gz({"a.jsonl": line}), limit_mb=2))[-1] == "too_large"


def test_an_endless_line_is_skipped(tmp_path: Path) -> None:
    data = jsonl({"id": "a", "text": "x" * 17 * 1024 * 1024}, {"id": "b", "text": "Fine."})
    items = read(tmp_path / "a.jsonl", data)
    assert reasons(items) == ["too_large"] and items[1].id == "b"


def test_torn_archive(tmp_path: Path) -> None:
    data = tar_gz({f"{number}.xml": pubmed(pubmed_record(number)) for number in range(1, 200)})
    items = read(tmp_path / "a.tar.gz", data[: len(data) // 2])
    assert set(reasons(items)) == {"truncated"} and 20 < len(items) < 199


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unknown_format"),
        (b"\x89PNG\r\n\x1a\n", "unknown_format"),
        (b"<html><body/></html>", "not_an_article"),
        (gzip.compress(b"PK\x03\x04", mtime=0), "unknown_format"),
        (pubmed("<PubmedArticle><PubmedData/></PubmedArticle>"), "invalid_record"),
        (pubmed(pubmed_record("x1")), "invalid_record"),
    ],
)
def test_other_content_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reasons(read(tmp_path / "a.xml", data)) == [reason]


def test_no_abstract_duplicate_and_retracted_in_one_build(tmp_path: Path) -> None:
    data = pubmed(
        pubmed_record("1"),
        pubmed_record("2", abstract=""),
        pubmed_record("1", abstract="<AbstractText>{}</AbstractText>".format(CHEST.format("nine"))),
        pubmed_record("3", kinds=("Retracted Publication",)),
    )
    stage = build(tmp_path, {"a.xml": data})
    assert dropped(stage) == [("PMID:2", "no_text"), ("PMID:1", "duplicate_id"), ("PMID:3", "retracted")]
    assert stage.counts["articles_kept"] == 1


def test_messages_do_not_quote_the_document(tmp_path: Path) -> None:
    data = b"<PubmedArticleSet><secret-name></PubmedArticleSet>"
    (item,) = read(tmp_path / "a.xml", data)
    assert isinstance(item, Dropped) and "secret" not in item.detail
