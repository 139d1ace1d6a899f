from __future__ import annotations

import pytest

from kdistill.explain.sentences import assign_sentences, parse_statement, split_sentences, stated_facts
from kdistill.teacher.statements import all_facts, of_fact


def test_every_canonical_statement_is_read_back() -> None:
    facts = all_facts()
    assert len(facts) > 300
    assert [parse_statement(of_fact(fact) + ".") for fact in facts] == facts


@pytest.mark.parametrize(
    "sentence",
    [
        "Pleural effusion blunts the costophrenic angle.",
        "No sign of edema was seen in the cohort.",
        "Left.",
        "",
    ],
)
def test_other_sentences_are_no_statements(sentence: str) -> None:
    assert parse_statement(sentence) is None


def test_sentences_belong_to_the_statement_before_them() -> None:
    text = "Fluid is dense. No pneumothorax. Left pleural effusion. It blunts the angle by 0.5 cm."
    found = [(a.fact.observation if a.fact else None, a.is_statement) for a in assign_sentences(text)]
    assert found == [(None, False), ("Pneumothorax", True), ("Pleural Effusion", True), ("Pleural Effusion", False)]
    assert [(f.observation, f.state, f.side) for f in stated_facts(text)] == [
        ("Pneumothorax", "absent", None),
        ("Pleural Effusion", "present", "left"),
    ]


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("...", 0), ("One", 1), ("One. Two.", 2), ("0.5 cm of fluid, e.g. here. Two!", 2)]
)
def test_split(text: str, count: int) -> None:
    assert len(split_sentences(text)) == count
