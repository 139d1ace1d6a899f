"""Visual aspects: sorting, averages by hand, what is published, and that the same comes out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdistill.labelers.rules import RuleLabeler
from kdistill.literature.search import PassageIndex
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.teacher.aspects import (
    LEXICON,
    MAX_SENTENCES,
    Aspects,
    AspectSentence,
    aspect_of,
    average,
    build_aspects,
)
from kdistill.teacher.language_model import LanguageModel
from kdistill.teacher.retrieval import LiteratureSentences

from .worlds import SIGNS, read_lines


@pytest.fixture(scope="module")
def literature(index: PassageIndex) -> LiteratureSentences:
    return LiteratureSentences(index, top=48, max_words=20)


@pytest.fixture(scope="module")
def aspects(language_model: LanguageModel, literature: LiteratureSentences) -> Aspects:
    return build_aspects(language_model, literature, batch_size=16)


@pytest.mark.parametrize(
    ("sentence", "aspect"),
    [
        ("A round, coin-like focus speaks for a lung lesion.", "shape"),
        ("A grey haze is seen in edema.", "density"),
        ("Edema is seen in the lower and basal zones.", "site"),
        ("In a lung lesion the margin is sharp.", "border"),
        ("A lung opacity is seen.", None),  # the name alone describes nothing
        ("The series held ten patients with rib fracture.", None),
        ("A blunted sulcus is seen in effusion.", "border"),  # a tie goes to the rarer aspect
    ],
)
def test_sentences_go_to_the_aspect_of_most_of_their_words(sentence: str, aspect: str | None) -> None:
    assert aspect_of(sentence, RuleLabeler()) == aspect


def test_no_word_of_the_lexicon_stands_in_two_aspects() -> None:
    stems = [stem for text in LEXICON.values() for stem in text.split()]
    assert len(stems) == len(set(stems))


def test_averages_weigh_aspects_and_not_sentences() -> None:
    rest = [AspectSentence(name, None, "", None) for name in OBSERVATIONS if name != "Edema"]
    own = [AspectSentence("Edema", "shape", "", "A")] * 3 + [AspectSentence("Edema", "site", "", "B")]
    vectors = np.array([[0.0, 1.0]] * len(rest) + [[1.0, 0.0]] * 3 + [[0.0, 1.0]], dtype=np.float32)
    found = average((*rest, *own), vectors)
    row = INDEX["Edema"]
    assert found.counts[row].tolist() == [3, 0, 1, 0] and found.counts.sum() == 4
    np.testing.assert_array_equal(found.aspects[row], [[1, 0], [0, 0], [0, 1], [0, 0]])
    # Means: (1/2, 1/2) against thirteen times (0, 1); centred, the two point in opposite directions.
    np.testing.assert_allclose(found.observations[row], np.array([1, -1]) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(found.observations[0], np.array([-1, 1]) / np.sqrt(2), atol=1e-6)


def test_sentences_are_the_literatures_own(aspects: Aspects, index: PassageIndex) -> None:
    described = [sentence for sentence in aspects.sentences if sentence.article_id is not None]
    names = {sentence.observation for sentence in described}
    assert names == {"Pleural Effusion", "Pneumothorax", "Cardiomegaly", "Fracture"}
    for sentence in described:
        article = index.article(sentence.article_id)
        assert article is not None and sentence.text in article.text
    signs = [sign for group in SIGNS.values() for sign in group]
    assert all(any(sign in sentence.text.lower() for sign in signs) for sentence in described), "signs, no mechanisms"
    assert aspects.counts.max() <= MAX_SENTENCES
    assert aspects.counts.sum() == len(described)


def test_undescribed_observations_have_the_teachers_statement(aspects: Aspects) -> None:
    stated = {s.observation: s.text for s in aspects.sentences if s.article_id is None}
    assert len(stated) == 10 and stated["No Finding"] == "No acute abnormality." and stated["Edema"] == "Edema."
    np.testing.assert_allclose(np.linalg.norm(aspects.observations, axis=1), 1.0, atol=1e-6)
    cosines = aspects.observations @ aspects.observations.T
    assert cosines[~np.eye(14, dtype=bool)].max() < 0.999, "no two observations begin at the same place"


def test_the_same_literature_and_teacher_publish_the_same_bytes(
    aspects: Aspects, language_model: LanguageModel, index: PassageIndex, tmp_path: Path
) -> None:
    again = build_aspects(language_model, LiteratureSentences(index, top=48, max_words=20), batch_size=16)
    for name, found in (("a", aspects), ("b", again)):
        (tmp_path / name).mkdir()
        found.write(tmp_path / name)
    for file in ("aspects.safetensors", "aspects.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    lines = read_lines(tmp_path / "a" / "aspects.jsonl")
    arrays = load_file(tmp_path / "a" / "aspects.safetensors")
    assert len(lines) == len(aspects.sentences) and set(lines[0]) == {"observation", "aspect", "text", "article_id"}
    np.testing.assert_array_equal(arrays["observations"], aspects.observations)
