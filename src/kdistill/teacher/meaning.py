"""What does a sentence mean? Every meaning is put into words behind the sentence and scored by the language model.

The score is log p(words | sentence) - 0.5 log p(words | a neutral phrase): half the prior correction of Holtzman et al.
2021 (arXiv:2104.08315), so that a frequent name is not chosen for being frequent. Half, because a name that the
literature hardly uses has two log-probabilities of -15 whose difference is noise: in full, it often won. It is averaged
over several frames, since a small model's answer depends on the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from kdistill.observations import OBSERVATION_TERMS
from kdistill.teacher.attributes import attributes
from kdistill.teacher.scoring import Row, Scorer

NORMAL: Final = "no abnormality"


class Frame(NamedTuple):
    """A prompt around the sentence, and how a meaning continues it. `placed`: side and degree stand before the name."""

    prompt: str
    finding: str
    normal: str
    placed: bool = False


FRAMES: Final = (
    Frame("Findings: {Phrase}. Interpretation:", " {name}", " no abnormality", placed=True),
    Frame("{Phrase}: this is a", " sign of {name}", " normal finding"),
    Frame("When {phrase},", " the reader should think of {name}", " this is a normal finding"),
)
PRIOR_WEIGHT: Final = 0.5
NEUTRAL_PHRASE: Final = "the film shows it"
#: Other names that the literature may give an observation; its best-scoring name counts.
OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Edema": ("pulmonary edema",),
        "Fracture": ("rib fracture",),
        "Support Devices": ("support devices",),
    }
)


def meaning_scores(
    scorer: Scorer, phrases: Sequence[str], meanings: Sequence[str], frames: Sequence[Frame] = FRAMES
) -> np.ndarray:
    """Score each meaning of each phrase.

    Args:
        scorer: The language model.
        phrases: N signs or sentences.
        meanings: C observations; NORMAL may be one of them.
        frames: Prompts and continuations.

    Returns:
        Nats, float64 of shape (N, C), averaged over frames.
    """
    total = np.zeros((len(phrases), len(meanings)))
    for frame in frames:
        total += _frame_scores(scorer, phrases, meanings, frame)
    return total / max(1, len(frames))


def _frame_scores(scorer: Scorer, phrases: Sequence[str], meanings: Sequence[str], frame: Frame) -> np.ndarray:
    worded = [[_continuations(frame, meaning, phrase) for meaning in meanings] for phrase in phrases]
    distinct = sorted({text for groups in worded for group in groups for text in group})
    if not distinct:
        return np.zeros((len(phrases), len(meanings)))
    tokens = {text: scorer.encode(text) for text in distinct}
    prior = dict(zip(distinct, scorer.log_likelihoods([_framed(NEUTRAL_PHRASE, frame)], distinct)[0], strict=True))
    flat = [[text for group in groups for text in group] for groups in worded]
    rows = [
        Row(scorer.encode_prompt(_framed(phrase, frame)), tuple(tokens[text] for text in texts))
        for phrase, texts in zip(phrases, flat, strict=True)
    ]
    result = np.zeros((len(phrases), len(meanings)))
    for index, scores in scorer.score_rows(rows):
        gains = iter(scores - PRIOR_WEIGHT * np.array([prior[text] for text in flat[index]]))
        result[index] = [max(next(gains) for _ in group) for group in worded[index]]
    return result


def _continuations(frame: Frame, meaning: str, phrase: str) -> tuple[str, ...]:
    if meaning == NORMAL:
        return (frame.normal,)
    names = (OBSERVATION_TERMS[meaning], *OTHER_NAMES.get(meaning, ()))
    if frame.placed:  # a case's verdict may begin with degree and side, where its findings name them
        said = attributes(phrase, meaning)
        place = " ".join(word for word in (said.severity, said.side) if word)
        names += tuple(f"{place} {name}" for name in names if place)
    return tuple(frame.finding.format(name=name) for name in names)


def _framed(phrase: str, frame: Frame) -> str:
    bare = phrase.strip().rstrip(". ")
    lower = bare[:1].lower() + bare[1:]
    return frame.prompt.format(phrase=lower, Phrase=bare[:1].upper() + bare[1:])
