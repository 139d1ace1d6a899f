"""Feedback as JSONL, one image a line: every judgement, and what the readers of an image say of its findings in all.

The lines are a reference for `kdistill score` (docs/metrics.md): `labels` holds the observations that were judged and
no others, so that what nobody looked at stays unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, TypedDict

from kdistill.observations import OBSERVATIONS
from kdistill.records import State
from kdistill.serve.feedback import stored
from kdistill.serve.judgements import Judgement

#: Hexadecimal digits of an image's hash that name it as a study.
STUDY_ID_DIGITS: Final = 16
Entry = tuple[str, Judgement]


class ImageFeedback(TypedDict):
    """One line. `labels`: 1 present, 0 absent, -1 uncertain; `num_readers`: how many stand behind each of them."""

    study_id: str
    image_sha256: str
    labels: dict[str, int]
    num_readers: dict[str, int]
    judgements: list[dict[str, object]]


def export_lines(path: Path) -> Iterator[str]:
    """The lines of a feedback file, each with its line end.

    Raises:
        InputError: As for `feedback.stored`.
        EnvironmentFault: It cannot be read.
    """
    for sha256, entries in groupby(stored(path), key=lambda entry: entry[1].image_sha256):
        yield json.dumps(image_feedback(sha256, list(entries)), ensure_ascii=False) + "\n"


def image_feedback(image_sha256: str, entries: list[Entry]) -> ImageFeedback:
    """All that was said about one image, in the order in which it was said.

    Args:
        image_sha256: Its hash.
        entries: (result's hash, judgement).
    """
    last = {(result, said.target, said.reader): place for place, (result, said) in enumerate(entries)}
    opinions = _opinions(entries)
    return {
        "study_id": image_sha256[:STUDY_ID_DIGITS],
        "image_sha256": image_sha256,
        "labels": {name: majority(states) for name, states in opinions.items()},
        "num_readers": {name: len(states) for name, states in opinions.items()},
        "judgements": [
            {
                "result": result,
                **said.model_dump(mode="json", exclude={"image_sha256"}),
                "counts": last[result, said.target, said.reader] == place,
            }
            for place, (result, said) in enumerate(entries)
        ],
    }


def _opinions(entries: Iterable[Entry]) -> dict[str, list[State]]:
    """Observation -> the last word of each reader. Who gave no name counts as one reader for each result."""
    words: dict[tuple[str, str, str], State | None] = {}
    for result, said in entries:
        if said.observation is not None:
            words[said.observation, said.reader, "" if said.reader else result] = said.state
    found: dict[str, list[State]] = {}
    for name in OBSERVATIONS:
        if states := [state for (about, _, _), state in words.items() if about == name and state is not None]:
            found[name] = states
    return found


def majority(states: Iterable[State]) -> int:
    """The state that most readers name, as a label; uncertain where two are named equally often.

    >>> majority(["present", "present", "absent"]), majority(["present", "absent"]), majority(["absent"])
    (1, -1, 0)
    """
    codes: dict[State, int] = {"present": 1, "absent": 0, "uncertain": -1}
    (first, most), *others = Counter(states).most_common()
    return -1 if others and others[0][1] == most else codes[first]
