"""A film that may be mirrored or turned: no way out of an explanation states a side as fact."""

from __future__ import annotations

import base64
import io
import json
from html import unescape

import numpy as np
import pydicom
import pypdf
import pytest

from kdistill.explain.batch import FileImage, explain_image
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.codes import LATERALITY, SIDE_CONCEPTS
from kdistill.explain.explanation import Explanation
from kdistill.explain.exports import export
from kdistill.explain.sides import SIDES_IN_DOUBT, is_side_doubtful
from kdistill.studies.film import Note
from kdistill.studies.quality.assess import Quality, QualityKind, assess

from .conftest import radiograph
from .test_exports import NOW, a_reading, film

Doubt = Note | QualityKind
SURE: list[Doubt | None] = [None, "no_preamble", "burned_in_text"]
DOUBTFUL: list[Doubt] = ["orientation", "lateral_view", "mirrored"]


def quality_with(kind: Doubt | None) -> Quality:
    """The quality of a good film, with one check raised."""
    found = assess(radiograph().astype(np.float32) / 255)
    return Quality(checks=tuple(c.model_copy(update={"raised": c.kind == kind}) for c in found.checks))


def explained(doubt: Doubt | None, context: ExplanationContext) -> Explanation:
    """The explanation of a film about which one thing is known: by its tags, or by its look."""
    notes: tuple[Note, ...] = (doubt,) if doubt in ("orientation", "lateral_view", "no_preamble") else ()  # type: ignore[assignment]
    image = FileImage("s1", radiograph(), radiograph(128), "0" * 64, quality_with(doubt), notes=notes)
    return explain_image(image, a_reading(), context)


def words_of(kind: str, explanation: Explanation) -> str:
    """Everything that a reader of an export can read, on one line."""
    content = export(kind, explanation, radiograph(128), film(), recorded=NOW)  # type: ignore[arg-type]
    match kind:
        case "pdf":
            text = "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
        case "fhir":
            report = json.loads(content)["entry"][0]["resource"]
            text = content.decode() + base64.b64decode(report["presentedForm"][0]["data"]).decode()
        case "dicom-sr":
            text = json.dumps(pydicom.dcmread(io.BytesIO(content)).to_json_dict(), ensure_ascii=False)
        case _:
            text = unescape(content.decode())
    return " ".join(text.split())


@pytest.mark.parametrize("doubt", [*SURE, *DOUBTFUL])
def test_what_is_in_doubt_is_coded_nowhere(doubt: Doubt | None, context: ExplanationContext) -> None:
    found = explained(doubt, context)
    assert found.is_side_doubtful == (doubt in DOUBTFUL) and found.findings and not found.abstained
    sides = {reading.side for reading in found.observations} | {sentence.side for sentence in found.rationale}
    sides |= {mention.side for sentence in found.report_sentences for mention in sentence.mentions}
    assert sides == ({None} if found.is_side_doubtful else {None, "left"})
    for kind in ("fhir", "dicom-sr"):
        words = words_of(kind, found)
        assert any(concept.value in words for concept in SIDE_CONCEPTS.values()) != found.is_side_doubtful
        assert (LATERALITY.value in words) != found.is_side_doubtful


@pytest.mark.parametrize("kind", ["html", "pdf", "fhir", "dicom-sr"])
def test_words_that_name_a_side_have_the_doubt_beside_them(kind: str, context: ExplanationContext) -> None:
    for doubt in (None, "mirrored"):
        found = explained(doubt, context)  # type: ignore[arg-type]
        words = words_of(kind, found)
        assert "Left pleural effusion." in words, "what the model wrote is kept"
        assert (SIDES_IN_DOUBT in words) == found.is_side_doubtful == (doubt is not None)
        own = words.replace(SIDES_IN_DOUBT, "")
        assert ("patient's right" in own) == (kind in ("html", "pdf") and not found.is_side_doubtful)


@pytest.mark.parametrize("doubt", [None, "orientation"])
def test_the_page_marks_doubtful_sides(doubt: Doubt | None, context: ExplanationContext) -> None:
    found = explained(doubt, context)
    words = words_of("html", found)
    query = "?" if found.is_side_doubtful else ""
    assert f'aria-hidden="true">R{query}</span>' in words and f'aria-hidden="true">L{query}</span>' in words
    assert ("picture's right" in words) == found.is_side_doubtful == ("patient's left" not in words)
    assert ("pleural effusion (left)" in words) != found.is_side_doubtful


def test_a_conclusion_that_names_a_side_doubts_it(context: ExplanationContext) -> None:
    report = json.loads(export("fhir", explained("mirrored", context), radiograph(128), None, recorded=NOW))
    conclusion = report["entry"][0]["resource"]["conclusion"]
    assert conclusion.index("Left pleural effusion.") < conclusion.index(SIDES_IN_DOUBT)
    effusion = next(
        e["resource"] for e in report["entry"] if e["resource"].get("code", {}).get("text") == "Pleural Effusion"
    )
    assert [note["text"] for note in effusion["note"]][:2] == [SIDES_IN_DOUBT, "Left pleural effusion."]


def test_the_look_of_a_film_alone_raises_the_doubt(context: ExplanationContext) -> None:
    """A sample has no file: the picture that the model reads is looked at, unless the policy is not to look."""
    seed = next(n for n in range(12) if is_side_doubtful((), assess(radiograph(64, n)[:, ::-1] / np.float32(255))))
    mirrored, plain = np.ascontiguousarray(radiograph(64, seed)[:, ::-1]), radiograph(64, seed)
    assert explain("s1", mirrored, a_reading(), context).is_side_doubtful
    assert not explain("s1", plain, a_reading(), context).is_side_doubtful
    assert explain("s1", plain, a_reading(), context, notes=("orientation",)).is_side_doubtful


def test_a_refused_film_has_no_certain_sides_and_no_words_to_doubt(context: ExplanationContext) -> None:
    found = explain("s1", np.ascontiguousarray(radiograph()[::-1]), a_reading(), context)
    assert found.abstained and found.is_side_doubtful
    for kind in ("html", "pdf"):
        words = words_of(kind, found)
        assert "patient's right" not in words and SIDES_IN_DOUBT not in words
