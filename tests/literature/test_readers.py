"""PubMed, JATS and JSONL records: every field, and what is left out."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kdistill.config import validate
from kdistill.errors import ConfigError, InputError
from kdistill.literature.config import FilesSource, LiteratureConfig
from kdistill.literature.files import list_files
from kdistill.literature.items import Dropped, canonical_license
from kdistill.records import Article

from .documents import CHEST, jats, jsonl, pubmed, pubmed_record, read, tar_gz


def test_pubmed_fields(tmp_path: Path) -> None:
    record = pubmed_record(
        "123",
        title="Effusion <i>in vivo</i>: H<sub>2</sub>O &amp; air",
        abstract='<AbstractText Label="A">First.</AbstractText><AbstractText Label="B">Second &lt; 3.</AbstractText>',
        pmcid="PMC42",
    )
    (article,) = read(tmp_path / "a.xml", pubmed(record))
    assert article == Article(
        id="PMID:123",
        title="Effusion in vivo: H2O & air",
        text="First.\nSecond < 3.",
        pmid="123",
        pmcid="PMC42",
        year=1998,
        mesh=("Pleural Effusion",),
        source="a.xml",
    )


def test_pubmed_does_not_take_the_identifier_of_a_cited_reference(tmp_path: Path) -> None:
    (article,) = read(tmp_path / "a.xml", pubmed(pubmed_record("123")))
    assert isinstance(article, Article) and article.pmcid is None


def test_pubmed_marks_retracted_articles_and_notices(tmp_path: Path) -> None:
    items = read(
        tmp_path / "a.xml",
        pubmed(
            pubmed_record("1", kinds=("Journal Article", "Retracted Publication")),
            pubmed_record(
                "2", corrections='<CommentsCorrections RefType="RetractionIn"><PMID>9</PMID></CommentsCorrections>'
            ),
            pubmed_record("3", title="RETRACTED: On effusions"),
            pubmed_record(
                "9",
                kinds=("Retraction of Publication",),
                corrections='<CommentsCorrections RefType="RetractionOf"><PMID>2</PMID></CommentsCorrections>',
            ),
            pubmed_record(
                "4", corrections='<CommentsCorrections RefType="CommentIn"><PMID>9</PMID></CommentsCorrections>'
            ),
        ),
    )
    assert [isinstance(item, Article) and item.retracted for item in items] == [True, True, True, False, False]
    assert items[3] == Dropped("PMID:9", "retraction_notice", "a.xml", ("PMID:2",))


def test_jats_fields_and_what_is_not_running_text(tmp_path: Path) -> None:
    body = (
        '<sec><title>Results</title><p>Effusion was seen [<xref ref-type="bibr">1</xref>, '
        '<xref ref-type="bibr">2</xref>] often.<list><list-item><p>one</p></list-item>'
        "<list-item><p>two</p></list-item></list></p></sec>"
        "<table-wrap><table><tr><td><p>99</p></td></tr></table></table-wrap>"
        "<fig><caption><p>Chest film.</p></caption></fig>"
    )
    (article,) = read(tmp_path / "a.nxml", jats(body=body))
    assert article == Article(
        id="PMID:77",
        title="A title",
        text="Effusion was seen often. one two\nChest film.",
        pmid="77",
        pmcid="PMC55",
        doi="10.1000/abc",
        year=2012,
        license="CC BY",
        source="a.nxml",
    )


def test_jats_with_a_namespace_is_read_like_one_without(tmp_path: Path) -> None:
    plain = jats()
    spaced = plain.replace(b"<article xmlns:", b'<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.3/" xmlns:')
    assert spaced != plain
    assert read(tmp_path / "a.xml", spaced) == read(tmp_path / "a.xml", plain)


def test_jats_retraction_notice_names_what_it_takes_back(tmp_path: Path) -> None:
    related = (
        '<related-article related-article-type="retracted-article" ext-link-type="doi" xlink:href="10.1000/Bad"/>'
        '<related-article related-article-type="retracted-article" ext-link-type="pmid" xlink:href="31"/>'
    )
    (item,) = read(tmp_path / "a.nxml", jats(kind="retraction", related=related))
    assert isinstance(item, Dropped)
    assert (item.reason, item.retracts) == ("retraction_notice", ("doi:10.1000/bad", "PMID:31"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://creativecommons.org/licenses/by-nc/4.0/", "CC BY-NC"),
        ("This is distributed under the Creative Commons Attribution License, which permits", "CC BY"),
        ("Creative Commons Attribution Non-Commercial No Derivatives License", "CC BY-NC-ND"),
        ("cc by-sa 3.0", "CC BY-SA"),
        ("CC0", "CC0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        ("an open-access article, free of all copyright", "public domain"),
        ("All rights reserved", "All rights reserved"),
        ("", None),
    ],
)
def test_license_has_one_name(text: str, expected: str | None) -> None:
    assert canonical_license(text) == expected


def test_jsonl_own_layout(tmp_path: Path) -> None:
    record = {
        "id": "a1",
        "pmid": 12,
        "pmcid": "77",
        "doi": "https://doi.org/10.1/X",
        "title": "T",
        "text": "Some text.",
        "year": "1999",
        "mesh": ["Lung"],
        "license": "CC BY 4.0",
        "retracted": False,
        "other": {},
    }
    (article,) = read(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + jsonl(record))
    assert isinstance(article, Article)
    assert article.model_dump(exclude={"doi"}) == {
        "id": "a1", "title": "T", "text": "Some text.", "pmid": "12", "pmcid": "PMC77", "year": 1999,
        "mesh": ("Lung",), "license": "CC BY", "retracted": False, "source": "a.jsonl",
    }  # fmt: skip
    assert article.doi is None  # "10.1" is no DOI prefix


def test_jsonl_with_mapped_fields_prefix_and_licence(tmp_path: Path) -> None:
    record = {
        "m": 7,
        "paragraphs": ["One.\\nTwo.", "Three."],
        "glossary": [{"term": "hilum", "meaning": "root of the lung"}],
    }
    fields = {"id": "m", "text": ["paragraphs", "glossary"]}
    (article,) = read(tmp_path / "a.jsonl", jsonl(record), fields=fields, id_prefix="book:", license="CC BY 4.0")
    assert isinstance(article, Article)
    assert (article.id, article.license) == ("book:7", "CC BY")
    assert article.text == "One.\nTwo.\nThree.\nhilum: root of the lung"


def test_jsonl_bad_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    data = (
        b'{"id": "a"\n[1]\n'
        + jsonl({"id": "c", "text": 3}, {"id": "d", "text": "x", "retracted": "no"})
        + b"\xff{}\n\n"
    )
    items = read(tmp_path / "a.jsonl", data + jsonl({"id": "good", "text": "Fine."}))
    reasons = [item.reason if isinstance(item, Dropped) else item.id for item in items]
    assert reasons == ["invalid_json", "invalid_json", "no_text", "invalid_record", "invalid_json", "good"]
    assert items[0].id == "a.jsonl line 1"


def test_lone_surrogates_do_not_reach_the_text(tmp_path: Path) -> None:
    (article,) = read(tmp_path / "a.jsonl", b'{"id": "a\\ud800", "title": "t\\udfff", "text": "x\\ud83d y"}\n')
    assert isinstance(article, Article) and (article.id, article.title, article.text) == ("a", "t", "x y")


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", gzip.compress(pubmed(pubmed_record("5"))))[0].id == "PMID:5"
    assert read(tmp_path / "b.txt", jats())[0].id == "PMID:77"
    assert read(tmp_path / "c.xml", jsonl({"id": "q", "text": CHEST}))[0].id == "q"
    assert (
        read(tmp_path / "d.xml", pubmed(pubmed_record("6")).decode().replace("utf-8", "utf-16").encode("utf-16"))[0].id
        == "PMID:6"
    )


def test_archive_members_are_streamed_whatever_they_are(tmp_path: Path) -> None:
    members = {
        "../../up.xml": pubmed(pubmed_record("5")),
        "a/b.nxml": jats(),
        "c.jsonl.gz": gzip.compress(jsonl({"id": "q", "text": CHEST})),
        "inner.tar.gz": tar_gz({"x.xml": jats()}),
        "notes.md": b"# Notes",
    }
    items = read(tmp_path / "all.tar.gz", tar_gz(members, link="evil.xml"))
    told = [item.reason if isinstance(item, Dropped) else item.id for item in items]
    assert told == ["PMID:5", "PMID:77", "q", "nested_archive", "unknown_format", "not_a_plain_file"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["all.tar.gz"]


def test_folders_are_walked_in_a_fixed_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.xml", "a/1.xml", ".git/3.xml", "b/.4.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"<x/>")
    assert [path.name for path in list_files(FilesSource(path=(tmp_path,)))] == ["1.xml", "2.xml"]


def test_missing_path_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list_files(FilesSource(path=(tmp_path / "absent",)))


def test_config_takes_one_path_or_many_and_hints_at_typos() -> None:
    one = validate(
        LiteratureConfig, {"sources": [{"kind": "files", "path": "a", "fields": {"text": "caption"}}]}, where="x"
    )
    assert one.sources[0].path == (Path("a"),) and one.sources[0].fields.text == ("caption",)
    with pytest.raises(ConfigError, match="did you mean 'license_allow'"):
        validate(LiteratureConfig, {"sources": [{"kind": "files", "path": "a", "licence_allow": []}]}, where="x")
