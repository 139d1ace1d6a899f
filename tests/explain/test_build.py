from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kdistill.explain.build import ExplanationContext, explain, state_of
from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import NOTICE, Explanation, QualityPolicy
from kdistill.explain.text_checks import is_degenerate, mentions_prior
from kdistill.observations import OBSERVATIONS
from kdistill.studies.quality.assess import Quality, assess

from .conftest import QUOTE, make_reading, radiograph

EFFUSION = f"Right pleural effusion. {QUOTE}"


def codes(explanation: Explanation) -> set[str]:
    return {flag.code for flag in explanation.flags}


def clean_reading(**changes: object):  # type: ignore[no-untyped-def]
    said: dict[str, object] = {
        "probabilities": {"Pleural Effusion": 0.9},
        "sides": {"Pleural Effusion": "right"},
        "findings": "There is a right pleural effusion.",
        "impression": "Right pleural effusion.",
        "rationale": EFFUSION,
    }
    return make_reading(**{**said, **changes})  # type: ignore[arg-type]


def test_a_consistent_reading_raises_no_flag(context: ExplanationContext) -> None:
    explanation = explain("s1", radiograph(), clean_reading(), context)
    assert explanation.flags == () and not explanation.abstained
    assert [s.observation for s in explanation.rationale] == ["Pleural Effusion"] * 2
    assert explanation.rationale[1].citations[0].title == "Signs of pleural fluid"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"probabilities": {"Pleural Effusion": 0.1}}, "rationale_contradicts_probability"),
        ({"probabilities": {"Pleural Effusion": 0.1}}, "report_contradicts_probability"),
        ({"rationale": "No pleural effusion."}, "rationale_contradicts_probability"),
        ({"findings": "", "impression": ""}, "report_contradicts_probability"),
        ({"findings": "No pleural effusion.", "impression": ""}, "report_contradicts_probability"),
        ({"rationale": "Left pleural effusion."}, "side_mismatch"),
        ({"findings": "Left pleural effusion.", "impression": ""}, "side_mismatch"),
        ({"rationale": EFFUSION + " Fluid is heavy and so it sinks."}, "uncited"),
        ({"rationale": "Fluid is heavy. " + EFFUSION}, "unassigned_sentence"),
        ({"rationale": "Right pleural effusion. " * 3}, "degenerate"),
        ({"findings": "The right pleural effusion is unchanged."}, "prior_mentioned"),
        ({"findings": "There is a right pleural effusion. No pleural effusion."}, "contradiction"),
        ({"findings": "No pleural effusion."}, "contradiction"),
        ({"findings": "Small right pleural effusion. Large right pleural effusion."}, "severity_mismatch"),
        ({"rationale": EFFUSION + " No pleural effusion."}, "contradiction"),
        ({"rationale": "No pleural effusion."}, "contradiction"),
        ({"probabilities": dict.fromkeys(OBSERVATIONS, 0.5)}, "all_indeterminate"),
    ],
)
def test_each_fault_raises_its_flag(context: ExplanationContext, changes: dict[str, object], code: str) -> None:
    assert code in codes(explain("s1", radiograph(), clean_reading(**changes), context))


def test_a_contradiction_names_its_texts_and_both_sentences(context: ExplanationContext) -> None:
    reading = clean_reading(
        findings="There is a right pleural effusion. No effusion. No edema.", rationale="Mild edema."
    )
    found = [flag for flag in explain("s1", radiograph(), reading, context).flags if flag.code == "contradiction"]
    assert [(flag.observation, flag.sentences) for flag in found] == [
        ("Pleural Effusion", ("There is a right pleural effusion.", "No effusion.")),
        ("Edema", ("Mild edema.", "No edema.")),
    ]
    assert found[0].text.startswith("The report contradicts itself: “There is a right pleural effusion.” against")
    assert found[1].text.startswith("Report and rationale contradict each other")


def test_a_denial_of_the_other_side_is_no_contradiction(context: ExplanationContext) -> None:
    reading = clean_reading(findings="There is a right pleural effusion. No left pleural effusion.")
    assert explain("s1", radiograph(), reading, context).flags == ()


def test_report_sentences_are_linked_and_a_withheld_report_has_none(context: ExplanationContext) -> None:
    reading = clean_reading(findings="There is a right pleural effusion. The ribs show a continuous cortex.")
    found = explain("s1", radiograph(), reading, context).report_sentences
    assert [(s.section, [m.observation for m in s.mentions]) for s in found] == [
        ("findings", ["Pleural Effusion"]),
        ("findings", []),
        ("impression", ["Pleural Effusion"]),
    ]
    assert explain("s1", np.rot90(radiograph()), reading, context).report_sentences == ()


def test_explanations_from_before_there_were_links_are_still_read(context: ExplanationContext) -> None:
    old = json.loads(
        explain("s1", radiograph(), clean_reading(rationale="Left pleural effusion."), context).model_dump_json()
    )
    del old["report_sentences"]
    for flag in old["flags"]:
        del flag["sentences"]
    assert old["flags"] and Explanation.model_validate(old).report_sentences == ()


def test_a_prior_that_exists_may_be_mentioned(context: ExplanationContext) -> None:
    reading = clean_reading(findings="The right pleural effusion is unchanged.")
    assert "prior_mentioned" not in codes(explain("s1", radiograph(), reading, context, has_prior=True))


NO_FILMS = [
    np.full((64, 64), 128, np.uint8),
    np.zeros((64, 64), np.uint8),
    np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8),
    np.rot90(radiograph()),
    255 - radiograph(),
]


@pytest.mark.parametrize("image", NO_FILMS, ids=["grey", "black", "noise", "turned", "inverted"])
def test_no_report_on_what_is_no_upright_film(context: ExplanationContext, image: np.ndarray) -> None:
    explanation = explain("s1", image, clean_reading(), context)
    assert explanation.abstained and codes(explanation) == {"implausible_image"}
    assert (explanation.findings, explanation.impression, explanation.rationale) == ("", "", ())
    assert len(explanation.observations) == len(OBSERVATIONS)


@pytest.mark.parametrize(("policy", "codes_seen"), [("warn", {"image_quality"}), ("off", set())])
def test_a_report_can_be_forced(context: ExplanationContext, policy: QualityPolicy, codes_seen: set[str]) -> None:
    forced = replace(context, config=ExplainConfig(quality=policy))
    explanation = explain("s1", np.rot90(radiograph()), clean_reading(), forced)
    assert codes(explanation) == codes_seen and not explanation.abstained
    assert explanation.findings == "There is a right pleural effusion." and explanation.quality_policy == policy


def test_what_was_seen_at_full_size_is_believed(context: ExplanationContext) -> None:
    """Lettering is too small to be seen on the canonical image, so whoever has the film hands its quality over."""
    at_full_size = assess(radiograph().astype(np.float32) / 255)
    checks = tuple(c.model_copy(update={"raised": c.kind == "burned_in_text"}) for c in at_full_size.checks)
    explanation = explain("s1", radiograph(), clean_reading(), context, quality=Quality(checks=checks))
    assert codes(explanation) == {"image_quality"} and not explanation.abstained and explanation.findings


def test_no_label_head_takes_states_from_the_report(context: ExplanationContext) -> None:
    from kdistill.explain.reading import Reading

    explanation = explain(
        "s1", radiograph(), Reading(None, None, None, "Possible edema. No pneumothorax.", "", ""), context
    )
    by_name = {o.name: o for o in explanation.observations}
    assert by_name["Edema"].state == "uncertain" and by_name["Pneumothorax"].state == "absent"
    assert by_name["Edema"].probability is None and by_name["Edema"].evidence_map is None
    assert codes(explanation) == {"no_label_head"} and not explanation.abstained


def test_json_has_the_keys_that_others_rely_on(context: ExplanationContext) -> None:
    data = json.loads(explain("s1", radiograph(), clean_reading(), context).model_dump_json())
    assert set(data) == {
        *("study_id", "image_sha256", "model", "observations", "findings", "impression"),
        *("rationale", "report_sentences", "flags", "abstained", "quality_policy", "is_side_doubtful", "notice"),
    }
    assert [o["name"] for o in data["observations"]] == list(OBSERVATIONS)
    keys = {"name", "probability", "threshold", "state", "side", "evidence_map"}
    assert all(set(o) == keys for o in data["observations"])
    assert {"observation", "text", "citations"} <= set(data["rationale"][0])
    assert data["report_sentences"][0] == {
        "section": "findings",
        "text": "There is a right pleural effusion.",
        "mentions": [{"observation": "Pleural Effusion", "state": "present", "side": "right"}],
    }
    assert {"article_id", "pmid", "quote"} <= set(data["rationale"][1]["citations"][0])
    assert data["notice"] == NOTICE and data["notice"].startswith("Research use only")
    assert np.asarray(data["observations"][0]["evidence_map"]).shape == (8, 8)


@pytest.mark.parametrize(
    ("probability", "threshold", "state"),
    [(0.0, 0.5, "absent"), (1.0, 0.5, "present"), (0.3, 0.1, "present"), (0.3, 0.3, "uncertain"), (0.3, 0.9, "absent")],
)
def test_state_of(probability: float, threshold: float, state: str) -> None:
    assert state_of(probability, threshold, 0.4) == state


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        ("No edema. No edema.", False),
        ("No edema. No edema. No edema.", True),
        ("fluid in the fluid in the fluid in the lung", True),
        ("the the the the lung", True),
        ("R111111111", True),
        ("................", True),
        ("___ was seen at ___.", False),
        ("No edema. No effusion. No pneumothorax. No fracture.", False),
        ("", False),
    ],
)
def test_degenerate(text: str, looped: bool) -> None:
    assert is_degenerate(text) == looped


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Compared to the prior study, the effusion has resolved.", True),
        ("Interval increase of the effusion.", True),
        ("The effusion is again seen.", True),
        ("Stable chest wall. Improved aeration is not described.", False),
        ("Fluid spreads into the interlobular interval.", False),
    ],
)
def test_mentions_prior(text: str, found: bool) -> None:
    assert (mentions_prior(text) is not None) == found
