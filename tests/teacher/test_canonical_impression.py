"""The conclusion of a rationale: every finding named once, denials left out, nothing made up where nothing is said."""

from __future__ import annotations

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import FINDINGS
from kdistill.records import RationaleEntry, State
from kdistill.teacher.statements import Fact
from kdistill.teacher.writers import Request, canonical_impression, plain_entry


def entry(observation: str, state: State, **said: str) -> RationaleEntry:
    return plain_entry(Request(Fact(observation, state, **said)))


def test_findings_are_named_with_what_is_known_of_them_and_denials_are_left_out() -> None:
    entries = [
        entry("Pleural Effusion", "present", side="left", zone="lower", severity="moderate"),
        entry("Pneumothorax", "absent"),
        entry("Pneumonia", "uncertain", side="right"),
    ]
    assert canonical_impression(entries) == (
        "Moderate left pleural effusion in the lower zone. Possible right pneumonia."
    )


def test_a_normal_film_is_said_to_be_one_only_where_the_rationale_says_so() -> None:
    assert canonical_impression([entry("No Finding", "present"), entry("Edema", "absent")]) == "No acute abnormality."
    assert canonical_impression([entry("Edema", "absent")]) == "" == canonical_impression([])


def test_a_normal_film_may_hold_a_device_and_nothing_else() -> None:
    normal, device = entry("No Finding", "present"), entry("Support Devices", "present")
    text = canonical_impression([normal, device])
    assert text == "No acute abnormality. Support device."
    labels = RuleLabeler().label(text)
    assert (labels["No Finding"], labels["Support Devices"]) == (1, 1)
    sick = canonical_impression([normal, entry("Edema", "uncertain"), device])
    assert RuleLabeler().label(sick)["No Finding"] is None


def test_the_rule_labeler_reads_every_finding_back() -> None:
    labeler = RuleLabeler()
    for observation in FINDINGS:
        for state, code in (("present", 1), ("uncertain", -1)):
            labels = labeler.label(canonical_impression([entry(observation, state)]))
            assert {name for name, value in labels.items() if value is not None} >= {observation}
            assert labels[observation] == code, observation
