"""Preferences in the feedback file, and what the export makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kdistill.serve.feedback import FeedbackStore, FeedbackUnavailable
from kdistill.serve.feedback_export import export_lines
from kdistill.serve.judgements import Judgement, ShownSentence
from kdistill.serve.preferences import ModelNames, Preference, PreferenceWord, prefer

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def preference(image: str, *, blinded: bool = True, **word: Any) -> Preference:
    said = PreferenceWord(**{"choice": "a_better", **word})
    return prefer(image, ModelNames(a="template", b="full"), said, NOW, blinded=blinded)


def sentence(image: str) -> Judgement:
    shown = ShownSentence(text="Left effusion.", observation=None)
    return Judgement(
        image_sha256=image, model="full", target="sentence/findings/0", shown=shown, verdict="correct", time="now"
    )


def test_one_line_an_image_whatever_was_said_of_it(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "said.sqlite")
    for image in ("d", "b"):
        store.prefer(image, preference(image))
    for image in ("c", "b", "a"):
        store.add(image, sentence(image))
    store.prefer("d2", preference("d", choice="both_wrong"))
    store.close()
    lines = [json.loads(line) for line in export_lines(store.path)]
    assert [line["image_sha256"] for line in lines] == ["a", "b", "c", "d"]
    assert [(len(line["judgements"]), len(line["preferences"])) for line in lines] == [(1, 0), (1, 1), (1, 0), (0, 2)]
    assert [said["counts"] for said in lines[3]["preferences"]] == [True, True]  # of two results: nobody's last word
    assert lines[3]["labels"] == {} and lines[3]["preferences"][0]["preferred"] == "template"


def test_the_last_word_of_each_reader_counts_and_the_same_is_kept_once(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "said.sqlite")
    first = store.prefer("r", preference("i", reader="Ada"))
    assert store.prefer("r", preference("i", reader="Ada", blinded=False)) == first  # and stays blinded
    store.prefer("r", preference("i", reader="Bo", choice="b_better"))
    store.prefer("r", preference("i", reader="Ada", choice="equal", blinded=False))
    store.close()
    (line,) = [json.loads(line) for line in export_lines(store.path)]
    told = [
        (one["reader"], one["choice"], one["preferred"], one["blinded"], one["counts"]) for one in line["preferences"]
    ]
    assert told == [
        ("Ada", "a_better", "template", True, False),
        ("Bo", "b_better", "full", True, True),
        ("Ada", "equal", None, False, True),
    ]


def test_a_file_that_was_moved_away_takes_no_preference(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "said.sqlite")
    store.path.rename(tmp_path / "moved")
    with pytest.raises(FeedbackUnavailable, match="moved or deleted"):
        store.prefer("r", preference("i"))
    store.close()


def test_control_characters_are_not_kept() -> None:
    assert preference("i", comment=" a\x1b[31m\u202eb\n ").comment == "a [31m b"
