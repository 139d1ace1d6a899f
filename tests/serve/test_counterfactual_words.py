"""The one line that says what happened between the first image and the last."""

from __future__ import annotations

import pytest

from kdistill.explain.build import explain
from kdistill.explain.explanation import Explanation
from kdistill.serve.counterfactual_words import Change, summary

from ..explain.conftest import make_reading, radiograph
from .reacting import telling


def said(probabilities: dict[str, float], text: str) -> Explanation:
    return explain("s", radiograph(), make_reading(probabilities, {}, text, "", text), telling())


LEFT, NO = "Mild left pleural effusion.", "No pleural effusion."


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((0.97, LEFT), (0.95, LEFT), "hardly moved the model: Pleural Effusion went from 0.97 to 0.95 "
         "(threshold 0.50); its sentence stays in the report and the rationale although the finding is gone"),
        ((0.97, LEFT), (0.71, LEFT), "took Pleural Effusion from 0.97 to 0.71, still above its threshold of 0.50"),
        ((0.97, LEFT), (0.04, NO), "took Pleural Effusion from 0.97 to 0.04 (threshold 0.50); its sentence is gone;"),
        ((0.97, LEFT), (0.499, NO), "took Pleural Effusion from 0.97 to 0.50, just below its threshold of 0.50; its"),
        ((0.97, NO), (0.04, NO), "no sentence spoke of it, although the model had found it"),
        ((0.12, NO), (0.11, NO), "took Pleural Effusion from 0.12 to 0.11; the model had not found it "
         "(threshold 0.50); no sentence spoke of it, before or after"),
        ((0.12, NO), (0.80, LEFT), "above its threshold of 0.50, although the model had not found it before; "
         "a sentence about it has come into the report and the rationale"),
    ],
)  # fmt: skip
def test_the_line_says_also_where_the_model_does_not_react(
    before: tuple[float, str], after: tuple[float, str], told: str
) -> None:
    first, last = (said({"Pleural Effusion": value, "Atelectasis": 0.3}, text) for value, text in (before, after))
    line = summary(Change("removed", "Pleural Effusion", "left", first, last), telling().labeler)
    assert line.startswith("Removing the left pleural effusion ") and told in line


def test_the_line_tells_what_else_moved() -> None:
    first = said({"Edema": 0.9, "Atelectasis": 0.6, "Pneumonia": 0.3, "Fracture": 0.1, "No Finding": 0.1}, "")
    last = said({"Edema": 0.1, "Atelectasis": 0.4, "Pneumonia": 0.37, "Fracture": 0.2, "No Finding": 0.8}, "")
    line = summary(Change("removed", "Edema", "bilateral", first, last), telling().labeler)
    assert line.startswith("Removing the edema on both sides took Edema")
    assert "Atelectasis moved by −0.20 (to 0.40, now below its threshold), Fracture by +0.10, and 1 more" in line
    assert line.endswith("No Finding rose from 0.10 to 0.80.")
