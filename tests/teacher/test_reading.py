"""The teacher reads: explicit beats inferred, hedges stay hedges, thresholds come from the literature."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kdistill.records import Passage
from kdistill.teacher.config import ReadingConfig
from kdistill.teacher.meaning import NORMAL
from kdistill.teacher.reading import Guess, Item, ReportReader, SentenceReader, Thresholds, calibrate, literature_cases
from kdistill.teacher.requests import requests_for, sides_of
from kdistill.teacher.scoring import Scorer
from kdistill.teacher.statements import Fact

SURE = Thresholds(posterior=0.8, margin=1.0, cases=0)


class Scripted(SentenceReader):
    """Knows the meaning of a few sentences by heart."""

    def __init__(self, known: dict[str, Guess]) -> None:
        self.known = known
        self.asked: list[str] = []

    def guess(self, sentences: Iterable[str]) -> dict[str, Guess]:
        wanted = list(dict.fromkeys(sentences))
        self.asked += wanted
        return {s: self.known.get(s, Guess(NORMAL, 0.99, 5.0)) for s in wanted}


KNOWN = {
    "The left costophrenic sulcus is filled.": Guess("Pleural Effusion", 0.97, 4.0),
    "The right costophrenic sulcus is filled.": Guess("Pleural Effusion", 0.97, 4.0),
    "Possibly the left costophrenic sulcus is filled.": Guess("Pleural Effusion", 0.9, 4.0),
    "A vague haze somewhere.": Guess("Lung Opacity", 0.5, 4.0),
    "Two meanings fight.": Guess("Edema", 0.9, 0.5),
    "A thread ends in the vein.": Guess("Support Devices", 0.95, 3.0),
}


def read(report: str) -> ReportReader:
    return ReportReader(Scripted(KNOWN), SURE)


def labels(report: str) -> dict[str, int]:
    reading = read(report).read_many([report])[0]
    return {name: state for name, state in reading.labels.items() if state is not None}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("The left costophrenic sulcus is filled.", {"Pleural Effusion": 1}),
        ("Possibly the left costophrenic sulcus is filled.", {"Pleural Effusion": -1}),
        ("No pleural effusion. The left costophrenic sulcus is filled.", {"Pleural Effusion": 0}),
        ("A vague haze somewhere. Two meanings fight.", {}),
        ("No pneumothorax. The left costophrenic sulcus is filled.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
        ("No pneumothorax. A thread ends in the vein.", {"No Finding": 1, "Pneumothorax": 0, "Support Devices": 1}),
    ],
)
def test_labels(report: str, expected: dict[str, int]) -> None:
    assert {k: v for k, v in labels(report).items() if k != "No Finding" or k in expected} == expected


def test_no_finding_falls_when_a_sign_is_inferred() -> None:
    assert labels("No pneumothorax.")["No Finding"] == 1
    assert "No Finding" not in labels("No pneumothorax. The left costophrenic sulcus is filled.")


@pytest.mark.parametrize(
    "sentence",
    ["No filling of the sulcus.", "The heart is normal.", "Compared with the previous film it is filled.", "Seen."],
)
def test_denied_normal_and_comparing_sentences_are_not_guessed(sentence: str) -> None:
    reader = Scripted(KNOWN)
    ReportReader(reader, SURE).read_many([sentence])
    assert reader.asked == []


def test_items_carry_place_source_and_confidence() -> None:
    (reading,) = read("").read_many(
        ["Moderate right pneumonia in the upper zone. The left costophrenic sulcus is filled."]
    )
    assert [(i.observation, i.side, i.zone, i.severity, i.source, i.confidence) for i in reading.items] == [
        ("Pneumonia", "right", "upper", "moderate", "explicit", 1.0),
        ("Pleural Effusion", "left", None, None, "inferred", 0.97),
    ]
    assert reading.confidence["Pleural Effusion"] == 0.97


def test_a_sign_beside_its_name_becomes_evidence() -> None:
    (reading,) = read("").read_many(["Small left pleural effusion. The left costophrenic sulcus is filled."])
    (request,) = requests_for({"Pleural Effusion": 1}, reading.items)
    assert request.fact == Fact("Pleural Effusion", "present", "left", None, "mild")
    assert request.evidence == "The left costophrenic sulcus is filled."


def test_both_sides_make_bilateral_and_explicit_places_win() -> None:
    def item(side: str, source: str) -> Item:
        return Item.model_validate(
            {
                "sentence": side,
                "observation": "Pneumonia",
                "state": "present",
                "side": side,
                "source": source,
                "confidence": 1,
            }
        )

    assert sides_of([item("left", "inferred"), item("right", "inferred")]) == {"Pneumonia": "bilateral"}
    assert sides_of([item("left", "explicit"), item("right", "inferred")]) == {"Pneumonia": "left"}
    assert requests_for({"Pneumonia": 0, "No Finding": None}, [item("left", "explicit")])[0].fact.side is None


def case(number: int, sign: str, verdict: str) -> Passage:
    return Passage(id=str(number), article_id=str(number), text=f"Findings: {sign}. Interpretation: {verdict}.")


def test_cases_of_the_literature() -> None:
    found = literature_cases(
        [
            case(0, "The sulcus is filled", "left pleural effusion, because fluid sinks"),
            case(1, "The sulci are sharp", "no abnormality"),
            case(2, "The knob is small", "no enlarged cardiomediastinum"),
            case(3, "There is a pneumothorax", "pneumothorax"),
            case(4, "The sulcus may be filled", "possible pleural effusion"),
        ]
    )
    assert found == [
        ("The sulcus is filled.", "Pleural Effusion"),
        ("The sulci are sharp.", NORMAL),
        ("The knob is small.", NORMAL),
    ]


def test_calibration_reaches_its_precision_and_falls_back() -> None:
    posteriors = [0.99, 0.97, 0.95, 0.9, 0.7, 0.6]
    hits = [True, True, True, True, False, True]
    known = {
        f"Sign {n}.": Guess("Edema" if hit else "Fracture", p, 3.0)
        for n, (p, hit) in enumerate(zip(posteriors, hits, strict=True))
    }
    held_out = [case(n, f"Sign {n}", "edema") for n in range(6)]
    config = ReadingConfig(min_calibration_cases=6, calibration_precision=0.95)
    found = calibrate(Scripted(known), held_out, config)
    assert (found.posterior, found.precision, found.cases) == (0.9, 1.0, 6)
    assert found.recall == pytest.approx(4 / 6)
    looser = config.model_copy(update={"calibration_precision": 0.8})
    assert calibrate(Scripted(known), held_out, looser).posterior == 0.6
    assert calibrate(Scripted(known), held_out[:5], config).posterior == config.min_posterior


def test_each_sentence_is_scored_once(scorer: Scorer) -> None:
    reader = SentenceReader(scorer)
    first = reader.guess(["A meniscus climbs the chest wall.", "A meniscus climbs the chest wall."])
    assert len(first) == 1 and first == reader.guess(["A meniscus climbs the chest wall."])
    guess = first["A meniscus climbs the chest wall."]
    assert 1 / 14 <= guess.posterior <= 1 and guess.margin >= 0
