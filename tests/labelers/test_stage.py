"""The labels stage: what is written where, and that every study is counted (FAULTS row 24)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kdistill.artifact import StageWriter
from kdistill.errors import InputError
from kdistill.labelers.config import RulesLabelerConfig
from kdistill.labelers.rules import RuleLabeler
from kdistill.labelers.stage import build_labels, report_kind
from kdistill.observations import OBSERVATIONS, empty_labels
from kdistill.records import Split, Study, StudyImage, write_jsonl


def study(number: int, split: Split, findings: str, impression: str = "") -> Study:
    return Study(
        study_id=f"s{number}",
        patient_id=f"p{number}",
        split=split,
        images=(StudyImage(image_path=f"{number}.png", row=number),),
        findings=findings,
        impression=impression,
        indication="Pneumonia?",
    )


@pytest.fixture
def built(tmp_path: Path) -> StageWriter:
    studies = [
        study(0, "train", "Small left effusion.", "Pleural effusion."),
        study(1, "validate", "No pneumothorax"),
        study(2, "test", "Possible pneumonia."),
        study(3, "train", ""),
        study(4, "train", "___ ___."),
        study(5, "train", "Kein Pneumothorax und kein Erguss."),
        study(6, "train", "There is no effusion. " * 5000),
    ]
    write_jsonl(tmp_path / "studies.jsonl", studies)
    stage = StageWriter(tmp_path / "labels")
    stage.dir.mkdir()
    build_labels(stage, RulesLabelerConfig(), tmp_path)
    return stage


def rows(path: Path) -> dict[str, dict[str, object]]:
    return {row["study_id"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def test_splits_go_to_their_files(built: StageWriter) -> None:
    training, test = rows(built.dir / "labels.jsonl"), rows(built.dir / "test_labels.jsonl")
    assert list(training) == ["s0", "s1", "s5", "s6"]
    assert list(test) == ["s2"]
    assert training["s1"]["split"] == "validate"
    assert list(training["s0"]["labels"]) == list(OBSERVATIONS)  # type: ignore[call-overload]
    assert training["s0"]["labels"] == empty_labels() | {"Pleural Effusion": 1}
    assert test["s2"]["labels"] == empty_labels() | {"Pneumonia": -1}
    assert training["s5"]["labels"] == empty_labels()


def test_every_study_is_counted(built: StageWriter) -> None:
    assert built.counts == {"labelled": 4, "empty": 1, "placeholder_only": 1, "not_english": 1, "over_long": 1}
    labeler = json.loads((built.dir / "labeler.json").read_text())
    assert labeler == {"name": "kdistill-rules", "revision": RuleLabeler().revision}


def test_two_builds_are_equal(built: StageWriter, tmp_path: Path) -> None:
    again = StageWriter(tmp_path / "again")
    again.dir.mkdir()
    build_labels(again, RulesLabelerConfig(), tmp_path)
    for name in ("labels.jsonl", "test_labels.jsonl", "labeler.json"):
        assert (again.dir / name).read_bytes() == (built.dir / name).read_bytes()


def test_missing_studies_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"studies\.jsonl"):
        build_labels(StageWriter(tmp_path), RulesLabelerConfig(), tmp_path)


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("___", "placeholder_only"),
        ("XXXX XXXX.", "placeholder_only"),
        ("___ no effusion", "labelled"),
        ("Cardiomegaly", "labelled"),
        ("Pas d'épanchement pleural, le coeur est normal.", "not_english"),
        ("Sin derrame pleural. Los pulmones limpios.", "not_english"),
        ("胸部X線では異常を認めません。", "not_english"),
        ("Сердце не увеличено.", "not_english"),
    ],
)
def test_report_kinds(report: str, kind: str) -> None:
    assert report_kind(report) == kind


@pytest.mark.parametrize(
    "unit",
    [
        "effusion or ",
        "no effusion not seen ",
        "effusion, ",
        "heart ",
        "no ",
        "? ",
        "a",
        "\n",
        " ",
        "opacit",
        "\u0130\U0001f642",
        "calcif- ",
    ],
)
def test_100_kb_in_bounded_time(unit: str) -> None:
    # Measured worst case 0.4 s (mentions of "effusion, "); quadratic work would take minutes.
    text = unit * (100_000 // len(unit)) + "normal"
    labeler = RuleLabeler()
    start = time.process_time()  # CPU time: a busy machine must not fail this
    labeler.label(text)
    labeler.mentions(text)
    assert time.process_time() - start < 10.0
