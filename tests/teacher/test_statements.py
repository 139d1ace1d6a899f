"""Property: every canonical statement is read back exactly by the rule labeler and by attributes.py."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS, OBSERVATIONS
from kdistill.teacher import select, statements
from kdistill.teacher.attributes import Attributes, attributes, severity_of, side_of, zone_of
from kdistill.teacher.statements import (
    SEVERITIES,
    SIDES,
    ZONES,
    Fact,
    all_facts,
    canonical,
    flips,
    of_fact,
    statement,
)
from kdistill.teacher.targets import STATE_CODES

FACTS = all_facts()


def test_every_fact_is_read_back_exactly() -> None:
    labeler = RuleLabeler()
    for fact in FACTS:
        text = f"{of_fact(fact)}."
        assert [(m.observation, m.state) for m in labeler.mentions(text)] == [
            (fact.observation, STATE_CODES[fact.state])
        ], text
        if fact.observation != "No Finding":
            assert attributes(text, fact.observation) == Attributes(fact.side, fact.zone, fact.severity), text


def test_no_two_facts_share_a_statement() -> None:
    assert len({of_fact(fact) for fact in FACTS}) == len(FACTS) == 1318


@given(
    st.sampled_from(FINDINGS),
    st.sampled_from(["present", "absent", "uncertain"]),
    st.sampled_from(SIDES),
    st.sampled_from(ZONES),
    st.sampled_from(SEVERITIES),
)
def test_canonical_says_what_the_statement_says(observation, state, side, zone, severity) -> None:  # type: ignore[no-untyped-def]
    fact = Fact(observation, state, side, zone, severity)
    assert of_fact(fact) == of_fact(canonical(fact))
    assert canonical(canonical(fact)) == canonical(fact) and canonical(fact) in FACTS


@given(st.sampled_from(FACTS))
def test_flips_change_one_thing_and_stay_in_the_bank(fact: Fact) -> None:
    for flip in flips(fact):
        assert flip in FACTS and flip != fact
        if flip.observation == fact.observation and flip.state == fact.state:
            assert sum(a != b for a, b in zip(flip[2:], fact[2:], strict=True)) == 1


def test_flips_cover_polarity_side_zone_severity_and_observation() -> None:
    found = set(flips(Fact("Pneumonia", "present", "left", "lower", "mild")))
    assert Fact("Pneumonia", "absent") in found
    assert Fact("Pneumonia", "present", "right", "lower", "mild") in found
    assert Fact("Pneumonia", "present", "left", "upper", "mild") in found
    assert Fact("Pneumonia", "present", "left", "lower", "severe") in found
    assert Fact("Consolidation", "present", "left", "lower", "mild") in found
    assert Fact("Cardiomegaly", "present", severity="mild") in found


def test_no_finding_is_never_absent() -> None:
    with pytest.raises(ValueError, match="No Finding"):
        statement("No Finding", "absent")
    assert set(OBSERVATIONS) == {fact.observation for fact in FACTS}


@pytest.mark.parametrize("module", [statements, select])
def test_doctests(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    ("sentence", "side", "zone", "severity"),
    [
        ("Small left effusion.", "left", None, "mild"),
        ("Opacities in both lower zones.", "bilateral", "lower", None),
        ("Left and right basilar changes, marked.", "bilateral", "lower", "severe"),
        ("Mild to moderate change from the upper to the lower zone.", None, None, "moderate"),
        ("Bright upright film.", None, None, None),
        ("The left ventricular apex is displaced.", "left", None, None),
        ("A right-sided apical cap.", "right", "upper", None),
    ],
)
def test_words(sentence: str, side: str | None, zone: str | None, severity: str | None) -> None:
    assert (side_of(sentence), zone_of(sentence), severity_of(sentence)) == (side, zone, severity)


def test_sizes_in_a_described_sign_are_no_degree() -> None:
    sign = "The fissure on the right has moved and the lobe is small."
    assert attributes(sign, "Atelectasis", sizes=False) == Attributes("right", None, None)
    assert attributes("Slightly displaced small fissure.", "Atelectasis", sizes=False).severity == "mild"
    assert attributes("Small right pneumothorax.", "Pneumothorax").severity == "mild"


def test_midline_observations_have_no_side() -> None:
    assert attributes("The right atrial border appears doubled, markedly.", "Cardiomegaly") == Attributes(
        None, None, "severe"
    )
