"""Closed forms: bits per byte of a uniform model; and the probe's accounting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdistill.observations import FINDINGS
from kdistill.records import Passage, ProbeItem
from kdistill.teacher import probe as module
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.meaning import FRAMES, NORMAL, meaning_scores
from kdistill.teacher.probe import bits_per_byte, choose, probe
from kdistill.teacher.scoring import Scorer


class Uniform(torch.nn.Module):
    """Gives every token of a vocabulary the same probability."""

    device = torch.device("cpu")

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, input_ids: torch.Tensor, **ignored: object) -> object:
        class Output:
            logits = torch.zeros(*input_ids.shape, self.size)

        return Output()


@pytest.mark.parametrize("max_tokens", [3, 7, 256])
def test_uniform_model_has_its_closed_form(language_model: LanguageModel, max_tokens: int) -> None:
    uniform = LanguageModel(Uniform(512), language_model.tokenizer, "uniform")  # type: ignore[arg-type]
    passages = [Passage(id="1", article_id="a", text="Fluid sinks."), Passage(id="2", article_id="a", text="Größe.")]
    tokens = sum(len(language_model.tokenizer(p.text, add_special_tokens=False)["input_ids"]) for p in passages)
    measured = bits_per_byte(uniform, passages, max_tokens=max_tokens)
    assert measured.num_bytes == len("Fluid sinks.") + len("Größe.".encode())
    assert measured.value == pytest.approx(tokens * math.log2(512) / measured.num_bytes, rel=1e-6)


def test_no_text_has_no_figure(language_model: LanguageModel) -> None:
    assert bits_per_byte(language_model, []).value is None


def test_a_uniform_model_sits_at_its_first_answer(language_model: LanguageModel) -> None:
    uniform = Scorer(LanguageModel(Uniform(512), language_model.tokenizer, "uniform"))  # type: ignore[arg-type]
    items = [ProbeItem(phrase="x", observation=name, declarative_only=name == FINDINGS[0]) for name in FINDINGS]
    scores = probe(uniform, items)
    # Every meaning scores 0, so the same name is chosen for each sign: chance.
    assert scores.all.value == pytest.approx(1 / 13) and scores.all.n == 13
    assert scores.declarative_only.n == 1 and scores.by_observation["Edema"].n == 1


def test_accounting(monkeypatch: pytest.MonkeyPatch, scorer: Scorer) -> None:
    items = [
        ProbeItem(phrase="a", observation="Edema", declarative_only=True),
        ProbeItem(phrase="b", observation="Edema", declarative_only=False),
        ProbeItem(phrase="c", observation="Fracture", declarative_only=False),
    ]
    monkeypatch.setattr(module, "choose", lambda scorer, phrases: ["Edema", "Fracture", "Fracture"])
    scores = probe(scorer, items)
    assert (scores.all.value, scores.all.n) == (pytest.approx(2 / 3), 3)
    assert (scores.declarative_only.value, scores.declarative_only.n) == (1.0, 1)
    assert scores.by_observation["Edema"].value == 0.5 and scores.by_observation["Edema"].n == 2
    assert scores.by_observation["Pneumonia"].value is None


def test_the_trained_teacher_knows_its_signs(scorer: Scorer) -> None:
    known = ("Pleural Effusion", "Pneumothorax", "Cardiomegaly", "Fracture", NORMAL)
    phrases = [
        "the costophrenic sulcus is filled",
        "a fine visceral line is seen",
        "the cardiothoracic ratio is above one half",
        "the cortex of a rib shows a step",
        "the ribs are intact",
    ]
    assert meaning_scores(scorer, phrases, known).argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert all(answer in FINDINGS for answer in choose(scorer, phrases)) and choose(scorer, []) == []


def test_scores_average_the_frames_and_do_not_depend_on_company(scorer: Scorer) -> None:
    phrases = ["a rib margin is broken", "a meniscus climbs the left chest wall"]
    meanings = ("Pleural Effusion", "Fracture")
    together = meaning_scores(scorer, phrases, meanings)
    apart = np.concatenate([meaning_scores(scorer, [phrase], meanings) for phrase in phrases])
    by_frame = [meaning_scores(scorer, phrases, meanings, (frame,)) for frame in FRAMES]
    np.testing.assert_allclose(together, apart, atol=2e-4)
    np.testing.assert_allclose(together, np.mean(by_frame, axis=0), atol=2e-4)
    assert meaning_scores(scorer, [], meanings).shape == (0, 2)
