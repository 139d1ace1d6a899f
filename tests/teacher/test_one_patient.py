"""A case report's sentence about its own patient must not explain another patient's film."""

from __future__ import annotations

import pytest

from kdistill.teacher.retrieval import tells_of_one_patient


@pytest.mark.parametrize(
    ("sentence", "particular"),
    [
        ("Chest X-ray findings were consistent with pneumonia, and he was prescribed amoxicillin.", True),
        ("A chest radiograph of a 60-year-old man showed cardiomegaly.", True),
        ("Chest radiograph on admission showed cardiomegaly.", True),
        ("A chest x-ray showed new diffuse interstitial opacities (Figure).", True),
        ("All five were diagnosed with pneumonia.", True),
        ("In most patients with pneumonia, several patches have blurred edges.", False),
        ("A pleural effusion arises because fluid collects in the dependent pleural space.", False),
        ("Look for the meniscus where the chest wall meets the diaphragm.", False),
    ],
)
def test_only_general_sentences_are_quoted(sentence: str, particular: bool) -> None:
    assert tells_of_one_patient(sentence) is particular
