"""Agreement of two texts: 1 for the same facts in other words, less as soon as one word that matters is flipped."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from kdistill.audit.agreement import agreement, credit, facts_in
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING
from kdistill.teacher.statements import Fact, all_facts, flips, of_fact

LABELER = RuleLabeler()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = ROOT / "benchmarks" / "alignment_score.py"
    spec = importlib.util.spec_from_file_location("alignment_score", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_paraphrases_score_above_flips_of_every_kind(benchmark: ModuleType) -> None:
    """The benchmark's line of the project's own score, and the document's table of all of them."""
    items = benchmark.cases()
    found = benchmark.auc_by_kind(benchmark.fact_agreement(), items)
    kept = json.loads((ROOT / "benchmarks" / "alignment_score.json").read_text(encoding="utf-8"))
    assert kept["auc"]["fact agreement"] == pytest.approx(found) and kept["cases"] == len(items)
    document = (ROOT / "docs" / "faithfulness.md").read_text(encoding="utf-8")
    assert benchmark.table(kept) in document
    for figure in (kept["date"], kept["commit"][:7], kept["teacher"]["run"], kept["teacher"]["commit"][:7]):
        assert figure in document
    assert len(items) >= 300 and sum(case.kind == "same" for case in items) >= 60
    assert set(found) == {"all", "polarity", "certainty", "side", "zone", "severity", "observation"}
    assert min(found.values()) >= 0.95


def test_words_alone_do_not_see_a_flip(benchmark: ModuleType) -> None:
    """The benchmark can fail: overlap of words is far below."""

    def rouge(one: str, other: str) -> float:
        return float(benchmark.rouge_l([one], [other])[0])

    found = benchmark.auc_by_kind(rouge, benchmark.cases())
    kept = json.loads((ROOT / "benchmarks" / "alignment_score.json").read_text(encoding="utf-8"))
    assert found["polarity"] < 0.8 and kept["auc"]["ROUGE-L"] == pytest.approx(found)


@pytest.mark.parametrize("fact", [fact for fact in all_facts()[::7] if fact.observation != NO_FINDING])
def test_every_flip_of_a_statement_costs_something(fact: Fact) -> None:
    statement = of_fact(fact) + "."
    assert facts_in(statement, LABELER) == {fact.observation: fact}
    assert agreement(statement, statement, LABELER) == 1.0
    for flip in flips(fact):
        other = of_fact(flip) + "."
        score = agreement(statement, other, LABELER)
        assert score is not None and score < 1.0, other
        assert score == agreement(other, statement, LABELER)


def test_credit_by_hand() -> None:
    fact = Fact("Pleural Effusion", "present", "left", None, "mild")
    assert credit(fact, fact) == 1.0
    assert credit(fact, fact._replace(side="right")) == pytest.approx(2 / 3)
    assert credit(fact, fact._replace(side=None, severity=None)) == pytest.approx(1 / 3)
    assert credit(fact, Fact("Pleural Effusion", "absent")) == 0.0


def test_agreement_by_hand() -> None:
    """Two facts against three, one of them alike, one on the other side: 2 * (1 + 1/2) / 5."""
    one = "Left pleural effusion. Cardiomegaly."
    other = "Right pleural effusion. Cardiomegaly. No pneumothorax."
    assert agreement(one, other, LABELER) == pytest.approx(2 * (1 / 2 + 1) / 5)
    assert agreement("", "The patient sat.", LABELER) is None
    assert agreement("Cardiomegaly.", "", LABELER) == 0.0


def test_the_order_of_sentences_does_not_matter() -> None:
    sentences = ["Small left effusion.", "No pneumothorax.", "Possible right pneumonia in the upper zone."]
    texts = [" ".join(sentences[k:] + sentences[:k]) for k in range(3)]
    assert [agreement(a, b, LABELER) for a, b in pairwise(texts)] == [1.0, 1.0]
