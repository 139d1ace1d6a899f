"""Headers of MIMIC-CXR and Open-i reports, reports without any, and text that is no report."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.sections import Sections, section_spans, split_report

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough. Pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 The lungs are clear.  There is no pleural
 effusion.

 IMPRESSION:

 No acute process.
"""
MIMIC_WITHOUT_FINDINGS_HEADER = """ HISTORY:  Fever.

 COMPARISON:  ___.

 The heart is enlarged. No edema.
"""
CASES = [
    ("", Sections()),
    ("Lungs are clear.", Sections(findings="Lungs are clear.")),
    ("FINDINGS: Clear. IMPRESSION: Normal.", Sections(findings="Clear.", impression="Normal.")),
    ("Findings: Clear.\r\nImpression: Normal.", Sections(findings="Clear.", impression="Normal.")),
    ("findings:clear\nimpression:normal", Sections(findings="clear", impression="normal")),
    ("**Findings:** Clear.\n\n## Impression\nNormal.", Sections(findings="Clear.", impression="Normal.")),
    ("CONCLUSION: Normal.", Sections(impression="Normal.")),
    ("REASON FOR EXAM: Cough.\nFINDINGS: Clear.", Sections(indication="Cough.", findings="Clear.")),
    ("Clinical history: Cough. Comparison: None. Impression: Clear.", Sections("Cough.", "None.", impression="Clear.")),
    ("FINDINGS AND IMPRESSION: Clear.", Sections(findings="Clear.")),
    ("IMPRESSION: One.\nADDENDUM: Two.\nIMPRESSION: Three.", Sections(impression="One.\n\nThree.", other="Two.")),
    ("The main finding: an effusion.", Sections(findings="The main finding: an effusion.")),
    ("Compared to prior studies no change.", Sections(findings="Compared to prior studies no change.")),
    ("INDICATION: Cough.", Sections(indication="Cough.")),
    # One line, as tables hold reports: no full stop before a header.
    (
        "INDICATION: Cough COMPARISON: None FINDINGS: Clear IMPRESSION: Normal",
        Sections(indication="Cough", comparison="None", findings="Clear", impression="Normal"),
    ),
    ("Comparison: None Findings: Clear.", Sections(comparison="None", findings="Clear.")),
    ("FINDINGS: Clear. No findings: none.", Sections(findings="Clear. No findings: none.")),
    ("EXAM: PA AND LATERAL VIEWS: Two.", Sections(technique="PA AND LATERAL VIEWS: Two.")),
    # A line may end in the first word of a sentence, or be one.
    ("FINDINGS: Normal heart. Prior\ngranuloma. Clear.", Sections(findings="Normal heart. Prior\ngranuloma. Clear.")),
    ("INDICATION: Pain. History\nof smoking.", Sections(indication="Pain. History\nof smoking.")),
    ("FINDINGS\nClear.\n\nIMPRESSION\nNormal.", Sections(findings="Clear.", impression="Normal.")),
    # A short beginning of the line belongs to the header.
    ("INDICATION: Pain.\nCT CHEST FINDINGS: Clear.", Sections(indication="Pain.", findings="Clear.")),
    ("CLINICAL: Pain.\nSTRESS TECHNIQUE: Bicycle.", Sections(indication="Pain.", technique="Bicycle.")),
    ("INTERPRETATION: Clear.\nIMPRESSION: Normal.", Sections(findings="Clear.", impression="Normal.")),
    ("IMPRESSION: Normal.\nINTERPRETATION: Clear.", Sections(impression="Normal.\n\nClear.")),
    ("Reason for test: Pain.\nInterpretations: Clear.", Sections(indication="Pain.", impression="Clear.")),
    (
        MIMIC,
        Sections(
            indication="___F with cough. Pneumonia?",
            comparison="None.",
            technique="CHEST (PA AND LAT)\n\nChest PA and lateral",
            findings="The lungs are clear.  There is no pleural\n effusion.",
            impression="No acute process.",
            other="FINAL REPORT",
        ),
    ),
    (
        MIMIC_WITHOUT_FINDINGS_HEADER,
        Sections(indication="Fever.", comparison="___.", findings="The heart is enlarged. No edema."),
    ),
]


@pytest.mark.parametrize(("text", "sections"), CASES)
def test_sections(text: str, sections: Sections) -> None:
    assert split_report(text) == sections


def test_evidence_is_findings_and_impression() -> None:
    assert split_report(MIMIC).evidence == "The lungs are clear.  There is no pleural\n effusion.\n\nNo acute process."


def test_remainder_is_other_when_there_are_findings() -> None:
    sections = split_report("COMPARISON: None.\n\nA stray line.\n\nFINDINGS: Clear.")
    assert (sections.comparison, sections.other, sections.findings) == ("None.", "A stray line.", "Clear.")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("\n \t:.aİé_") | st.characters(), max_size=200))
def test_never_raises_and_spans_are_ordered(text: str) -> None:
    spans = section_spans(text)
    assert all(span.start <= span.end for span in spans)
    assert all(first.end <= second.start for first, second in pairwise(spans))


_NAME = st.sampled_from(["INDICATION", "COMPARISON", "TECHNIQUE", "FINDINGS", "IMPRESSION"])
_BODY = st.text(alphabet="abcdefgh ,", min_size=1, max_size=40).map(str.strip).filter(bool)


@given(st.dictionaries(_NAME, _BODY, min_size=1))
def test_what_is_written_is_read_back(parts: dict[str, str]) -> None:
    text = "\n".join(f"{name}: {body}." for name, body in parts.items())
    sections = split_report(text)
    for name, body in parts.items():
        assert getattr(sections, name.lower()) == f"{body}."


@pytest.mark.parametrize(
    "unit",
    [
        "findings:\n",
        " ",
        "\n",
        "indication: a\n\nb\n",
        "a",
        ". impression : ",
        "a FINDINGS: ",
        "A ",
        "\t\u0130\U0001f642",
    ],
)
def test_100_kb_in_bounded_time(unit: str) -> None:
    # Measured worst case 0.11 s on a quiet core; a quadratic pattern takes minutes here.
    text = unit * (100_000 // len(unit))
    start = time.perf_counter()
    split_report(text)
    assert time.perf_counter() - start < 5.0
