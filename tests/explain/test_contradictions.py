"""What is a contradiction and what is none: pairs of sentences, and every canonical statement against its denials."""

from __future__ import annotations

import pytest

from kdistill.explain.contradictions import (
    cross_contradictions,
    own_contradictions,
    rationale_assertions,
    report_assertions,
    two_degrees,
)
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING, OBSERVATION_TERMS
from kdistill.sites import SITES
from kdistill.teacher.statements import all_facts, of_fact

LABELER = RuleLabeler()


def torn(report: str) -> set[str]:
    return {found.observation for found in own_contradictions(report_assertions(report, LABELER))}


def crossed(report: str, rationale: str) -> set[str]:
    one, other = report_assertions(report, LABELER), rationale_assertions(rationale, LABELER)
    return {found.observation for found in cross_contradictions(one, other)}


@pytest.mark.parametrize(
    ("report", "observation"),
    [
        ("There is a left pleural effusion. No evidence of pleural effusion.", "Pleural Effusion"),
        ("No left effusion. Small left pleural effusion.", "Pleural Effusion"),
        ("Bilateral effusions. No right effusion.", "Pleural Effusion"),
        ("There is a right pneumothorax. No focal consolidation, effusion or pneumothorax.", "Pneumothorax"),
        ("Mild cardiomegaly. Heart size is normal.", "Cardiomegaly"),
        (
            "There is mediastinal widening. The mediastinal contours are within normal limits.",
            "Enlarged Cardiomediastinum",
        ),
        ("Left lung nodule. No nodule or mass.", "Lung Lesion"),
        ("Right pulmonary mass. No lung lesion.", "Lung Lesion"),
        ("Left rib fracture. No rib fracture.", "Fracture"),
        ("Left consolidation in the lower zone. No consolidation in the lower zones.", "Consolidation"),
        ("Small left effusion.\nNo pleural effusion", "Pleural Effusion"),
        ("There is a left pneumothorax. No acute abnormality.", "Pneumothorax"),
        ("Cardiomegaly. Normal chest.", "Cardiomegaly"),
        ("An endotracheal tube is in place. No support devices.", "Support Devices"),
        ("No new large effusion or pneumothorax. New large right effusion.", "Pleural Effusion"),
    ],
)
def test_stated_and_denied(report: str, observation: str) -> None:
    assert torn(report) == {observation}


@pytest.mark.parametrize(
    "report",
    [
        "Left effusion. No right effusion.",
        "Left effusion; no pneumothorax. No effusion on the right.",
        "Right effusion. No effusion, consolidation or pneumothorax on the left.",
        "There is a pleural effusion. No left pleural effusion.",
        "Left effusion. No bilateral effusions.",
        "Consolidation in the left lower zone. No consolidation in the upper zones.",
        "Right pulmonary mass. No pulmonary nodule.",
        "Bibasilar atelectasis. No lobar collapse.",
        "Mild pulmonary vascular congestion. No pulmonary edema.",
        "Streaky opacities at the bases. No focal airspace disease.",
        "Small right effusion. No large effusion.",
        "Old healed rib fracture. No acute fracture.",
        "Clavicle fracture. No rib fracture.",
        "Small chronic left effusion. No acute abnormality.",
        "Cardiomegaly. No acute cardiopulmonary abnormality.",
        "Left effusion. Otherwise normal chest.",
        "Normal chest. A pacemaker is in place.",
        "An endotracheal tube is in place. No chest tube.",
        "Possible left pneumonia. No pneumonia.",
        "Left pneumothorax. Right pneumothorax.",
        "A nodule was seen on the prior film. No nodule.",
        "Mild cardiomegaly. The heart is top normal in size.",
        "XXXX opacity in the right lung. No XXXX opacity.",
        "Left effusion. Left effusion.",
        "No effusion. No effusion.",
        "",
    ],
)
def test_no_contradiction(report: str) -> None:
    assert torn(report) == set()


def degrees(report: str) -> list[tuple[str, str, str]]:
    return [tuple(found) for found in two_degrees(report_assertions(report, LABELER))]


@pytest.mark.parametrize(
    ("one", "other", "observation"),
    [
        ("There is severe cardiomegaly.", "Moderate enlargement of the cardiac silhouette.", "Cardiomegaly"),
        ("Small left pleural effusion and no edema.", "There is a large left pleural effusion.", "Pleural Effusion"),
        ("Mild left atelectasis in the lower zone.", "Severe left basal atelectasis.", "Atelectasis"),
    ],
)
def test_two_degrees_of_one_finding(one: str, other: str, observation: str) -> None:
    assert degrees(f"{one} {other}") == [(observation, one, other)]
    assert degrees(f"{other} {one}") == [(observation, other, one)]


@pytest.mark.parametrize(
    "report",
    [
        "Small left effusion. Large right effusion.",
        "Small effusion. Large left effusion.",
        "Mild left consolidation in the lower zone. Severe left consolidation in the upper zone.",
        "Mild to moderate edema. Moderate edema.",
        "Mild edema. Edema.",
        "Small left effusion. No large left effusion.",
        "Possible small left effusion. Moderate left effusion.",
        "Mild cardiomegaly and moderate edema. Moderate edema with mild cardiomegaly.",
        "Small left nodule. Large left mass.",
        "Small left effusion, large left effusion.",
        "The prior small left effusion has grown. Large left effusion.",
    ],
)
def test_one_degree_of_one_finding(report: str) -> None:
    assert degrees(report) == []


def test_every_statement_is_contradicted_by_its_denial_and_by_none_of_another_side_or_zone() -> None:
    for fact in all_facts():
        if fact.state != "present" or fact.observation == NO_FINDING:
            continue
        said, term = of_fact(fact), OBSERVATION_TERMS[fact.observation]
        assert torn(f"{said}. No {term}.") == {fact.observation}, said
        assert torn(f"No {term}. {said}.") == {fact.observation}, said
        if SITES[fact.observation].lateralised and fact.side in ("left", "right"):
            other = "left" if fact.side == "right" else "right"
            assert torn(f"{said}. No {fact.side} {term}.") == {fact.observation}, said
            assert torn(f"{said}. No {other} {term}.") == set(), said
        if fact.zone is not None:
            others = {"upper", "middle", "lower"} - {fact.zone}
            assert all(torn(f"{said}. No {term} in the {zone} zone.") == set() for zone in others), said


def test_the_two_sentences_are_named_the_statement_first() -> None:
    found = own_contradictions(report_assertions("No effusion. Edema. Left effusion.", LABELER))
    assert found == [("Pleural Effusion", "Left effusion.", "No effusion.")]


def test_general_knowledge_says_nothing_of_this_film() -> None:
    text = "No cardiomegaly. In cardiomegaly, the heart is enlarged. Left effusion. No pleural effusion is too small."
    assert own_contradictions(rationale_assertions(text, LABELER)) == []
    assert crossed("Mild cardiomegaly.", text) == {"Cardiomegaly"}


def test_report_against_rationale() -> None:
    assert crossed("Right pulmonary mass. No effusion.", "No lung lesion. Left pleural effusion.") == {
        "Lung Lesion",
        "Pleural Effusion",
    }
    assert crossed("Left effusion. No pneumothorax.", "Left pleural effusion. No pneumothorax.") == set()
    # A report that says both has no word for the rationale to contradict.
    assert crossed("Left effusion. No effusion.", "No pleural effusion.") == set()
