"""The knowledge file: complete, its two phrase sets apart, and no sign that names its observation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from kdistill.config import parse_yaml, validate
from kdistill.errors import ConfigError
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS, NO_FINDING
from kdistill.records import Severity, Side, Zone
from kdistill.studies.phantom.knowledge import Knowledge, load_knowledge, probe_items
from kdistill.studies.phantom.plan import VARIANTS
from kdistill.studies.phantom.wording import Place, bare, fill, fits, frame, is_clause, sentence, slots, tidy, where

from .text_cases import five_grams

PLACES = (Place("left", "lower", "mild"), Place("right", "upper", "severe"), Place("bilateral", "middle"), Place())


def sign_sentences() -> Iterator[str]:
    knowledge = load_knowledge()
    for item in (*(sign for _, sign in knowledge.signs()), *knowledge.ambiguous):
        for template in (*item.phrases_a, *item.phrases_b):
            yield from (sentence(fill(template, place)) for place in PLACES if fits(template, place))


def raw_knowledge() -> dict:
    text = resources.files("kdistill.studies.phantom").joinpath("knowledge.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, where="knowledge.yaml")


def test_every_variant_has_signs_for_cases_and_about_a_third_are_declarative_only():
    signs = list(load_knowledge().signs())
    assert len(signs) >= 40
    assert {(name, sign.variant) for name, sign in signs} == {(n, v) for n, vs in VARIANTS.items() for v in vs}
    share = sum(sign.declarative_only for _, sign in signs) / len(signs)
    assert 0.30 <= share <= 0.50


def test_sizes_of_the_phrase_sets():
    knowledge = load_knowledge()
    for name, sign in knowledge.signs():
        assert 4 <= len(sign.phrases_a) <= 6, (name, sign.id)
        assert 2 <= len(sign.phrases_b) <= 3, (name, sign.id)
    assert len(knowledge.ambiguous) >= 5
    for region in knowledge.normals.values():
        assert len(region.phrases_a) + len(region.phrases_b) >= 10


def test_the_two_phrase_sets_share_no_wording_and_no_run_of_five_words():
    items = list(load_knowledge().worded())
    set_a = {bare(text).lower() for item in items for text in item.phrases_a}
    set_b = {bare(text).lower() for item in items for text in item.phrases_b}
    assert not set_a & set_b
    grams_a = {gram for text in set_a for gram in five_grams(text)}
    assert not {gram for text in set_b for gram in five_grams(text)} & grams_a


def test_wordings_of_one_sign_share_content_words_across_the_sets():
    """Held-out wordings are synonyms, not riddles: each sign's sets have two long words in common at least."""
    for name, sign in load_knowledge().signs():
        in_a = set(re.findall(r"[a-z]{4,}", " ".join(sign.phrases_a)))
        in_b = set(re.findall(r"[a-z]{4,}", " ".join(sign.phrases_b)))
        assert len((in_a & in_b) - {"side", "where", "with", "that"}) >= 2, (name, sign.id)


def test_no_single_word_gives_most_observations_away():
    """Content words go across observations, so that reading a sign is more than looking one word up."""
    owners: dict[str, set[str]] = {}
    for name, sign in load_knowledge().signs():
        for word in set(re.findall(r"[a-z]{4,}", " ".join((*sign.phrases_a, *sign.phrases_b)).lower())):
            owners.setdefault(word, set()).add(name)
    for word in ("costophrenic", "trachea", "carina", "fissure", "vessels", "hemidiaphragm", "apex", "chest"):
        assert len(owners[word]) >= 2, word
    assert sum(len(names) >= 2 for names in owners.values()) >= 60


def test_no_sign_holds_the_vocabulary_of_the_chexpert_labeler(shared_data: Path):
    folder = shared_data / "chexpert_labeler_reference" / "phrases" / "mention"
    # no_finding.txt lists other disease ("fissure", "thickening"), which is none of the 13.
    files = [path for path in folder.glob("*.txt") if path.stem != "no_finding"]
    assert len(files) == 13
    phrases = {line.strip("\n") for path in files for line in path.read_text(encoding="utf-8").splitlines()} - {""}
    for text in [*sign_sentences(), *mechanisms()]:
        padded = f" {re.sub(r'[^a-z0-9-]+', ' ', text.lower())} "
        found = [phrase for phrase in phrases if phrase.replace("_", " ") in padded]
        assert not found, (text, found)


def mechanisms() -> list[str]:
    findings = load_knowledge().findings.values()
    return [sentence(m) for f in findings for v in f.variants for ms in f.mechanisms_of(v) for m in ms]


def test_the_rule_labeler_finds_no_observation_in_a_sign_or_a_mechanism():
    labeler = RuleLabeler()
    for text in [*sign_sentences(), *mechanisms()]:
        found = {name: state for name, state in labeler.label(text).items() if state is not None}
        assert not found.keys() - {NO_FINDING}, (text, found)


def test_normal_wordings_are_never_read_as_disease():
    labeler = RuleLabeler()
    for region in load_knowledge().normals.values():
        for text in (*region.phrases_a, *region.phrases_b):
            labels = labeler.label(sentence(text))
            assert all(labels[name] in (None, 0) for name in FINDINGS), (text, labels)
            assert {name for name in FINDINGS if labels[name] == 0} <= set(region.covers), (text, labels)


def test_probe_items_are_the_held_out_wordings_without_slots():
    items = probe_items()
    assert len(items) == sum(len(sign.phrases_b) for _, sign in load_knowledge().signs())
    assert {item.observation for item in items} == set(FINDINGS)
    assert any(item.declarative_only for item in items) and not all(item.declarative_only for item in items)
    for item in items:
        assert not slots(item.phrase) and not item.phrase.endswith("."), item.phrase
        assert "  " not in item.phrase, item.phrase


def test_references_carry_an_identifier():
    for reference in load_knowledge().references:
        assert reference.doi or reference.pmid, reference.key
        assert reference.doi is None or re.fullmatch(r"10\.\d{4,}/\S+", reference.doi)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["findings"].pop("Edema"), "in this order"),
        (lambda d: d["findings"]["Edema"]["signs"][0].update(variant="lobar"), "no sign that a case report may hold"),
        (lambda d: d["findings"]["Edema"].update(name="oedema"), "as everywhere"),
        (lambda d: d["normals"]["heart"].update(phrases_b=d["normals"]["heart"]["phrases_a"]), "stand twice"),
        (lambda d: d["normals"]["heart"]["phrases_a"].append("{colour} heart"), "unknown slots"),
        (lambda d: d["ambiguous"][0].update(observations=["Edema", "Gout"]), "unknown observations"),
        (lambda d: d["findings"]["Edema"].update(colour="grey"), "unknown key"),
    ],
)
def test_a_damaged_file_is_refused(change, message: str):
    data = raw_knowledge()
    change(data)
    with pytest.raises(ConfigError, match=message):
        validate(Knowledge, data, where="knowledge.yaml")


@pytest.mark.parametrize(
    ("side", "zone", "expected"),
    [
        ("left", "upper", "in the left upper zone"),
        ("bilateral", "lower", "in both lower zones"),
        (None, "middle", "in the middle zone"),
        ("right", None, "on the right"),
        ("bilateral", None, "on both sides"),
        (None, None, ""),
    ],
)
def test_where(side: Side | None, zone: Zone | None, expected: str):
    assert where(side, zone) == expected


@pytest.mark.parametrize(
    ("severity", "expected"), [("mild", "slightly wide"), ("severe", "markedly wide"), (None, "wide")]
)
def test_degree(severity: Severity | None, expected: str):
    assert fill("{degree}ly wide", Place(severity=severity)) == expected


def test_one_side_is_needed_where_a_wording_says_one():
    assert not fits("the {side} apex", Place("bilateral"))
    with pytest.raises(ValueError, match="needs a left or right side"):
        fill("the {side} apex", Place("bilateral"))


def test_articles_and_spaces():
    assert (
        tidy("a  acute fracture , a old one and a uniform band") == "an acute fracture, an old one and a uniform band"
    )


def test_frame_capitalises_and_refuses_what_it_cannot_fill():
    assert frame("{Name} means {np}.", name="edema", np="water") == "Edema means water."
    with pytest.raises(ValueError, match="was left with"):
        frame("{Name} means {np}.", name="edema")


def test_clauses_have_a_verb_and_noun_phrases_none():
    verb = re.compile(r"\b(is|are|lies|runs|shows|has|have|can|exceeds|bulges|covers|holds)\b")
    for _, sign in load_knowledge().signs():
        for text in (*sign.phrases_a, *sign.phrases_b):
            if not is_clause(text):
                main = re.split(r"\b(that|which|with|where|as)\b", text)[0]
                assert not verb.search(main), text
