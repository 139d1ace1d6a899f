"""Reports: their noise is as configured, their words are true to the plan, and the labeler reads what is named."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS, NO_FINDING, SUPPORT_DEVICES
from kdistill.studies.phantom.knowledge import load_knowledge
from kdistill.studies.phantom.plan import FindingPlan
from kdistill.studies.phantom.report_config import NoiseConfig
from kdistill.studies.phantom.reports import (
    DEFAULT_NOISE,
    compose,
    denied_sentence,
    entity,
    hedged_sentence,
    named_sentence,
    tell_findings,
    write_report,
)
from kdistill.studies.phantom.wording import Place, bare

from .text_cases import finding_plans, five_grams, random_studies, study

LABELER = RuleLabeler()


def stated(text: str) -> dict[str, int]:
    """The 13 observations that the rule labeler finds in a text."""
    return {name: state for name, state in LABELER.label(text).items() if state is not None and name != NO_FINDING}


def place_of(plan: FindingPlan) -> Place:
    return Place(plan.side, plan.zone, plan.severity)


def test_named_sentences_are_labelled_right():
    rng = np.random.default_rng(0)
    for plan in finding_plans():
        finding = load_knowledge().findings[plan.observation]
        for noun in finding.variants[plan.variant].nouns:
            text = named_sentence(finding, plan.variant, noun, place_of(plan), rng)
            assert stated(text) == {plan.observation: 1}, text


def test_hedged_sentences_are_labelled_right():
    rng = np.random.default_rng(0)
    for plan in finding_plans():
        text = hedged_sentence(load_knowledge().findings[plan.observation], plan.variant, place_of(plan), rng)
        assert stated(text) == {plan.observation: -1}, text


def test_denied_sentences_are_labelled_right():
    rng = np.random.default_rng(0)
    for name, finding in load_knowledge().findings.items():
        for denied in finding.denied * 4:
            text = denied_sentence(denied, rng)
            assert stated(text) == {name: 0}, text
    for *names, text in load_knowledge().frames.denied_pairs:
        assert stated(text) == dict.fromkeys(names, 0), text


def test_impressions_without_a_name_state_nothing():
    frames = load_knowledge().frames
    for text in frames.normal_impression:
        assert stated(text) == {} and LABELER.label(text)[NO_FINDING] == 1, text
    for text in frames.unnamed_impression:
        assert all(state is None for state in LABELER.label(text).values()), text


def test_shares_of_kinds_are_as_configured():
    """n = 6,000 findings: three standard errors of a share of one half are 0.019."""
    rng = np.random.default_rng(1)
    plans = list(finding_plans())
    chosen = [plans[index] for index in rng.integers(len(plans), size=6000)]
    kinds = Counter(tell_findings(study(plan), "a", rng)[0].kind for plan in chosen)
    described = kinds["described"] + kinds["ambiguous"]
    for count, share in (
        (kinds["named"], DEFAULT_NOISE.named),
        (described, DEFAULT_NOISE.described),
        (kinds["hedged"], DEFAULT_NOISE.hedged),
        (kinds["omitted"], DEFAULT_NOISE.omitted),
    ):
        assert count / 6000 == pytest.approx(share, abs=0.02)
    assert kinds["ambiguous"] > 0


@pytest.mark.parametrize("phrase_set", ["a", "b"])
def test_described_findings_stay_unnamed_in_the_whole_report(phrase_set):
    noise = NoiseConfig(named=0, described=1, hedged=0, omitted=0)
    rng = np.random.default_rng(2)
    for plan in finding_plans():
        told = tell_findings(study(plan), phrase_set, rng, noise)
        report = "\n".join(compose(study(plan), told, phrase_set, rng, noise))
        assert told[0].kind in ("described", "ambiguous")
        assert 1 not in stated(report).values() and stated(report).get(plan.observation) is None, report


def test_the_report_never_contradicts_the_plan():
    """What is denied is absent, what is stated or possible is present: noise leaves out, it does not lie."""
    rng = np.random.default_rng(3)
    for index, plan in enumerate(random_studies(600)):
        truth = plan.truth()
        findings, impression = write_report(plan, "a" if index % 2 else "b", rng)
        for text in (findings, impression):
            for name, state in stated(text).items():
                assert truth[name] == int(state != 0), (name, state, text)


def test_the_impression_adds_nothing_to_the_findings():
    rng = np.random.default_rng(4)
    for plan in random_studies(400, seed=1):
        findings, impression = write_report(plan, "a", rng)
        in_findings = stated(findings)
        for name, state in stated(impression).items():
            assert in_findings.get(name) == state, (name, findings, impression)


def test_a_described_finding_rules_the_normal_impression_out():
    rng = np.random.default_rng(5)
    noise = NoiseConfig(named=0, described=1, hedged=0, omitted=0)
    normal = set(load_knowledge().frames.normal_impression)
    for plan in finding_plans():
        told = tell_findings(study(plan), "a", rng, noise)
        impression = compose(study(plan), told, "a", rng, noise)[1]
        assert (impression in normal) == (plan.observation == SUPPORT_DEVICES), impression


def test_side_and_zone_words_are_those_of_the_plan():
    rng = np.random.default_rng(6)
    for plan in finding_plans():
        finding = load_knowledge().findings[plan.observation]
        variant = finding.variants[plan.variant]
        text = entity(variant, variant.nouns[0], place_of(plan), article=False)
        if variant.sided and plan.side:
            assert plan.side in text
        assert all(f"{other} " not in text for other in {"left", "right", "bilateral"} - {plan.side}), text
        told = tell_findings(study(plan), "a", rng, NoiseConfig(named=1, described=0, hedged=0, omitted=0))[0]
        opposite = {"left": "right", "right": "left"}.get(plan.side or "")
        if opposite and finding.region not in ("heart", "mediastinum", "devices"):
            assert opposite not in " ".join(told.sentences), told


def test_test_reports_use_the_held_out_wordings_alone_and_training_reports_never_do():
    grams_b = {g for item in load_knowledge().worded() for text in item.phrases_b for g in five_grams(text)}
    grams_a = {g for item in load_knowledge().worded() for text in item.phrases_a for g in five_grams(text)}
    for phrase_set, forbidden, own in (("a", grams_b, grams_a), ("b", grams_a, grams_b)):
        rng = np.random.default_rng(7)
        texts = [" ".join(write_report(plan, phrase_set, rng)) for plan in random_studies(400, seed=2)]
        seen = {gram for text in texts for part in text.split(". ") for gram in five_grams(bare(part))}
        assert not seen & forbidden
        assert seen & own


def test_the_usual_wording_of_a_named_finding_is_the_mode():
    """A decoder that writes the most frequent wording names the condition: the usual frame and noun lead clearly."""
    rng = np.random.default_rng(8)
    for name in FINDINGS:
        plan = next(plan for plan in finding_plans() if plan.observation == name)
        noise = NoiseConfig(severity_said=0, zone_said=0)
        told = [tell_findings(study(plan), "a", rng, noise)[0] for _ in range(300)]
        first = Counter(item.sentences[0] for item in told if item.sentences)
        (text, count), (_, second) = first.most_common(2)
        assert stated(text) == {name: 1} and count >= 1.5 * second, (text, count, second)


def test_length_is_that_of_a_short_report():
    """Median 33 words, 5th percentile 23, 95th 46 (n = 600)."""
    rng = np.random.default_rng(9)
    words = [len(" ".join(write_report(plan, "a", rng)).split()) for plan in random_studies(600, seed=3)]
    low, median, high = np.percentile(words, [5, 50, 95])
    assert low >= 22 and 28 <= median <= 40 and high <= 60


def test_the_same_generator_state_gives_the_same_report():
    plans = random_studies(20, seed=4)
    once = [write_report(plan, "a", np.random.default_rng(n)) for n, plan in enumerate(plans)]
    again = [write_report(plan, "a", np.random.default_rng(n)) for n, plan in enumerate(plans)]
    other = [write_report(plan, "a", np.random.default_rng(n + 99)) for n, plan in enumerate(plans)]
    assert once == again != other


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match="must sum to 1"):
        NoiseConfig(named=0.9)
