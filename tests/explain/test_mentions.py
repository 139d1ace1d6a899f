from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.explain.mentions import mentions_of, report_sentences
from kdistill.labelers.rules import RuleLabeler

LABELER = RuleLabeler()


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("There is a small left pleural effusion.", [("Pleural Effusion", "present", "left")]),
        (
            "No pleural effusion or pneumothorax.",
            [("Pleural Effusion", "absent", None), ("Pneumothorax", "absent", None)],
        ),
        (
            "Left effusion but no right effusion.",
            [("Pleural Effusion", "present", "left"), ("Pleural Effusion", "absent", "right")],
        ),
        ("Possible right pneumonia.", [("Pneumonia", "uncertain", "right")]),
        ("The cardiac contours are within normal limits.", [("Cardiomegaly", "absent", None)]),
        ("A right central venous catheter is in place.", [("Support Devices", "present", None)]),
        ("No acute abnormality.", [("No Finding", "present", None)]),
        ("Effusion, effusion.", [("Pleural Effusion", "present", None)]),
        ("The ribs show a continuous cortex.", []),
        ("Kein Pneumothorax ist zu sehen.", []),
        ("", []),
    ],
)
def test_what_a_sentence_mentions(sentence: str, said: list[tuple[str, str, str | None]]) -> None:
    assert [(m.observation, m.state, m.side) for m in mentions_of(sentence, LABELER)] == said


def test_sentences_keep_their_section_their_order_and_their_words() -> None:
    found = report_sentences("No edema. The ribs show a continuous cortex.", "Left effusion of 0.5 cm.", LABELER)
    assert [(s.section, s.text, len(s.mentions)) for s in found] == [
        ("findings", "No edema.", 1),
        ("findings", "The ribs show a continuous cortex.", 0),
        ("impression", "Left effusion of 0.5 cm.", 1),
    ]
    assert report_sentences("", "", LABELER) == ()


def test_links_say_what_the_labels_say(shared_data: Path) -> None:
    """Sentence by sentence, real reports are read as they are read whole."""
    from kdistill.studies.sources.openi_reports import iter_reports

    source = shared_data / "openi_reports" / "ecgen-radiology.tar.gz"
    if not source.is_file():
        pytest.skip("openi_reports is absent")
    rank = {"absent": (0, 1), "uncertain": (-1, 2), "present": (1, 3)}
    same = total = 0
    for number, report in enumerate(iter_reports(source, 256)):
        findings, impression = getattr(report, "findings", ""), getattr(report, "impression", "")
        if number % 10 or not (findings or impression):
            continue
        stated: dict[str, tuple[int, int]] = {}
        for sentence in report_sentences(findings, impression, LABELER):
            for mention in sentence.mentions:
                stated[mention.observation] = max(
                    stated.get(mention.observation, (0, 0)), rank[mention.state], key=lambda pair: pair[1]
                )
        labels = LABELER.label(f"{findings}\n{impression}")
        total += 13
        same += sum(
            labels[name] == (stated[name][0] if name in stated else None) for name in labels if name != "No Finding"
        )
    assert total > 3000 and same == total
