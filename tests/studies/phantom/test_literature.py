"""Literature: set a alone, right associations outside the retracted, something for the literature stage to drop."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS, NO_FINDING
from kdistill.records import Article
from kdistill.studies.phantom.knowledge import Sign, load_knowledge, probe_items
from kdistill.studies.phantom.literature import CHEST, write_literature
from kdistill.studies.phantom.report_config import LiteratureMix
from kdistill.studies.phantom.wording import bare

from .text_cases import five_grams

LABELER = RuleLabeler()
CASE = re.compile(r"Findings: (.*?) Interpretation: (.*?)(?= Findings:|$)")


@pytest.fixture(scope="module")
def articles() -> list[Article]:
    return write_literature(11, 600)


def pattern_of(template: str) -> re.Pattern[str]:
    """Matches a wording in a text, whatever its slots were filled with."""
    words = re.sub(r"^(a|an) ", "", bare(template).lower())
    parts = [re.escape(part.strip()) for part in re.split(r"\{\w+\}(?:ly)?", words)]
    return re.compile(r"[\w ]*".join(parts))


def cases(articles: list[Article]) -> list[tuple[str, str]]:
    """Findings and interpretation of every case of the articles that are not retracted."""
    return [match for article in articles if not article.retracted for match in CASE.findall(article.text)]


def test_held_out_wordings_are_nowhere_in_the_literature(articles):
    text = " ".join(article.text for article in articles).lower()
    sentences = re.split(r"[.:?] ", text)
    seen = {gram for part in sentences for gram in five_grams(part)}
    for item in load_knowledge().worded():
        for phrase in item.phrases_b:
            assert not five_grams(phrase) & seen, phrase
    for item in probe_items():
        assert item.phrase.lower() not in text, item.phrase


def test_every_sign_and_every_normal_region_is_stated(articles):
    text = " ".join(article.text for article in articles).lower()
    for item in load_knowledge().worded():
        assert any(pattern_of(phrase).search(text) for phrase in item.phrases_a), item


def test_declarative_only_signs_are_in_no_case(articles):
    found = " ".join(finding for finding, _ in cases(articles)).lower()
    knowledge = load_knowledge()

    def shown(sign: Sign) -> bool:
        return any(pattern_of(phrase).search(sentence) for phrase in sign.phrases_a for sentence in found.split(". "))

    assert not [sign.id for _, sign in knowledge.signs() if sign.declarative_only and shown(sign)]
    assert all(shown(sign) for _, sign in knowledge.signs() if not sign.declarative_only)


def test_interpretations_are_read_by_the_labeler_as_they_are_meant(articles):
    """Sign cases state what the sign points to; normal and denied cases state nothing as present."""
    owners = {
        phrase: name
        for name, sign in load_knowledge().signs()
        for phrase in (pattern_of(text) for text in sign.phrases_a)
    }
    checked = 0
    for finding, interpretation in cases(articles):
        labels = {n for n, s in LABELER.label(interpretation).items() if s in (1, -1) and n != NO_FINDING}
        named = {n for n, s in LABELER.label(finding).items() if s in (1, -1) and n != NO_FINDING}
        lines = [line.lower() for line in finding.rstrip(".").split(". ")]
        meant = {name for pattern, name in owners.items() for line in lines if pattern.fullmatch(line)} | {
            name for pattern, name in owners.items() for line in lines if pattern.fullmatch(re.sub("^an? ", "", line))
        }
        assert labels == meant | named, (finding, interpretation)
        checked += bool(meant)
    assert checked > 100


def test_denials_and_normals_are_interpreted_as_absent(articles):
    denied = [(f, i) for f, i in cases(articles) if f.startswith(("No ", "There is no "))]
    assert len(denied) > 20
    for finding, interpretation in denied:
        assert "absent" in interpretation or interpretation.startswith("no "), (finding, interpretation)
    assert any(i == "no abnormality." for _, i in cases(articles))


def test_side_zone_and_severity_of_a_case_stand_in_its_interpretation(articles):
    checked = 0
    for finding, interpretation in cases(articles):
        said = interpretation.split(", because")[0]
        for word in re.findall(r"\b(left|right)\b", said) + re.findall(r"in the (upper|middle|lower) zone", said):
            assert word in finding.lower(), (finding, interpretation)
            checked += 1
    assert checked > 100


def test_the_literature_stage_finds_something_to_drop(articles):
    assert any(article.retracted for article in articles)
    assert any(CHEST not in article.mesh for article in articles)
    texts = Counter(article.text for article in articles)
    assert any(count > 1 for count in texts.values())


def test_retracted_articles_join_signs_to_the_wrong_condition(articles):
    for article in (a for a in articles if a.retracted and "reprint" not in a.title):
        named = {name for name in FINDINGS if load_knowledge().findings[name].name in article.text.lower()}
        shown = {
            name
            for name, sign in load_knowledge().signs()
            if any(pattern_of(phrase).search(article.text.lower()) for phrase in sign.phrases_a)
        }
        assert shown - named, article


def test_shares_of_kinds(articles):
    """n = 600: three standard errors of a share of 0.03 are 0.021."""
    off_topic = sum(CHEST not in article.mesh for article in articles) / len(articles)
    assert off_topic == pytest.approx(LiteratureMix().off_topic, abs=0.022)
    retracted = sum(article.retracted for article in articles) / len(articles)
    assert 0 < retracted <= 0.03


def test_articles_are_short_and_described(articles):
    lengths = [len(article.text) for article in articles]
    assert 450 <= sum(lengths) / len(lengths) <= 650
    assert len({article.id for article in articles}) == len(articles)
    for article in articles:
        assert re.fullmatch(r"PHANTOM-\d{6}", article.id)
        assert article.title and article.mesh and article.license == "CC0-1.0" and article.source == "phantom"
        assert article.year is not None and article.pmid is None and article.doi is None
        assert "{" not in article.text and "  " not in article.text and ".." not in article.text, article.text


def test_prefixes_agree_and_seeds_differ():
    assert write_literature(3, 30) == write_literature(3, 60)[:30]
    assert write_literature(3, 30) != write_literature(4, 30)


def test_progress_is_told():
    steps: list[tuple[int, int]] = []
    write_literature(0, 3, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_shares_above_one_are_refused():
    with pytest.raises(ValueError, match="exceed 1"):
        LiteratureMix(review=0.99)
