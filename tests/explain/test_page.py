from __future__ import annotations

import re
from html import unescape

import numpy as np

from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.explanation import NOTICE, RESEARCH_USE, Flag
from kdistill.explain.html import document, source_hash
from kdistill.explain.page import explanation_page
from kdistill.explain.pictures import evidence_strength, overlay_pixels, where_peak
from kdistill.observations import OBSERVATIONS

from .conftest import QUOTE, make_reading, radiograph

PAYLOAD = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&\u202e\x1b[31m"


def page_of(context: ExplanationContext) -> str:
    reading = make_reading(
        {"Pleural Effusion": 0.9, "Edema": 0.5},
        {"Pleural Effusion": "left"},
        findings=PAYLOAD,
        impression=PAYLOAD,
        rationale=f"Right pleural effusion. {QUOTE} {PAYLOAD}",
    )
    explanation = explain(PAYLOAD, radiograph(), reading, context)
    hostile = explanation.model_copy(
        update={"model": PAYLOAD, "flags": (*explanation.flags, Flag(code="uncited", text=PAYLOAD))}
    )
    return explanation_page(hostile, radiograph(), provenance={PAYLOAD: PAYLOAD})


def test_hostile_text_stays_text(context: ExplanationContext) -> None:
    html = page_of(context)
    assert html.count("<script>") == 1 and html.count("</script>") == 1
    assert "<img src=x" not in html and "\u202e" not in html and "\x1b" not in html
    assert html.count("&lt;script&gt;alert(&#x27;x&#x27;)") >= 6


def test_page_needs_no_network_and_its_policy_binds_its_own_script(context: ExplanationContext) -> None:
    html = page_of(context)
    links = re.findall(r'<[^>]*\s(?:src|href)="([^"]*)"', html)
    assert len(links) > 14 and all(link.startswith(("data:image/png", "#")) for link in links)
    assert "url(http" not in html and "@import" not in html and " style=" not in html
    script = html.split("<script>")[1].split("</script>")[0]
    style = html.split("<style>")[1].split("</style>")[0]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy and source_hash(script) in policy[1] and source_hash(style) in policy[1]
    assert "default-src 'none'" in policy[1] and "unsafe" not in policy[1]


def test_notice_stands_on_every_document(context: ExplanationContext) -> None:
    assert NOTICE in page_of(context)
    assert NOTICE in document(title="", style="", script="", body="")
    counted = document(title="", style="", script="", body="", author="program")
    assert RESEARCH_USE in counted and "A model wrote" not in counted and "No model wrote" in counted


def test_report_sentences_lead_to_their_rows_and_stay_as_they_were_written(context: ExplanationContext) -> None:
    findings = "There is a left <b>pleural</b> effusion.\nThe ribs are whole.  No pleural effusion or pneumothorax."
    reading = make_reading({"Pleural Effusion": 0.9}, {"Pleural Effusion": "left"}, findings, "Left pleural effusion.")
    html = explanation_page(explain("s", radiograph(), reading, context), radiograph())
    section = html.split('id="report-title"')[1].split("</section>")[0]
    shown = unescape(re.sub(r"<[^>]+>", "", section.split("<dd>")[1].split("</dd>")[0]))
    assert shown == findings
    links = re.findall(r'<a class="([^"]+)" href="#(row-\d+)" data-names="([^"]+)"', section)
    assert links == [
        ("says torn", "row-10", "Pleural Effusion"),
        ("says torn", "row-10", "Pleural Effusion|Pneumothorax"),
        ("says", "row-10", "Pleural Effusion"),
    ]
    assert 'id="row-10"' in html and html.count('class="objection"') == 1
    assert "Objection: <strong>Pleural Effusion:</strong> The report contradicts itself" in section
    assert "<code>contradiction</code>" in html


def test_page_shows_all_that_an_explanation_holds(context: ExplanationContext) -> None:
    html = page_of(context)
    for name in OBSERVATIONS:
        assert html.count(f"Evidence map of {name}") == 1
    for shown in ("Signs of pleural fluid", "(2014)", "PMC1", QUOTE, "0.90", ">high<", ">indeterminate<", ">low<"):
        assert shown in html
    assert "side mismatch" in html and "No source found" in html


def test_abstention_leads_the_page(context: ExplanationContext) -> None:
    blank = np.full((64, 64), 90, np.uint8)
    html = explanation_page(explain("s", blank, make_reading({"Edema": 0.9}), context), blank)
    assert "No answer." in html and "Abnormal:" not in html
    assert "withheld" in html and "this model writes none" not in html


def test_scale_is_fixed() -> None:
    even = np.full((16, 16), 1 / 256)
    sharp = np.zeros((16, 16))
    sharp[12, 2] = 1.0
    assert evidence_strength(even).max() == 0.0 and evidence_strength(sharp).max() == 1.0
    # Twice the equal share is log 2 / log 32 = 1/5 of the scale.
    double = even.copy()
    double[0, 0] *= 2
    assert evidence_strength(double)[0, 0] == np.float32(0.2)
    assert overlay_pixels(even, 32)[..., 3].max() == 0 and overlay_pixels(sharp, 48)[..., 3].max() == 255
    assert where_peak(sharp) == "lower third, patient's right"


def test_headline_names_findings_as_a_sentence_would(context: ExplanationContext) -> None:
    reading = make_reading({"Pleural Other": 0.9, "Pleural Effusion": 0.9}, {"Pleural Effusion": "left"})
    html = explanation_page(explain("s", radiograph(), reading, context), radiograph())
    line = html.split('class="headline abnormal"')[1].split("</p>")[0]
    assert "pleural effusion (left)" in line and "other pleural abnormality" in line
