"""Feedback as JSONL, one image a line: every word of the readers, and what they say of its findings in all.

The lines are a reference for `kdistill score` (docs/metrics.md): `labels` holds the observations that were judged and
no others, so that what nobody looked at stays unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Final, TypedDict

from kdistill.observations import OBSERVATIONS
from kdistill.records import State
from kdistill.serve.feedback import stored, stored_preferences
from kdistill.serve.judgements import Judgement
from kdistill.serve.preferences import Preference

#: Hexadecimal digits of an image's hash that name it as a study.
STUDY_ID_DIGITS: Final = 16
Entry = tuple[str, Judgement]
PreferenceEntry = tuple[str, Preference]


class ImageFeedback(TypedDict):
    """One line. `labels`: 1 present, 0 absent, -1 uncertain; `num_readers`: how many stand behind each of them."""

    study_id: str
    image_sha256: str
    labels: dict[str, int]
    num_readers: dict[str, int]
    judgements: list[dict[str, object]]
    preferences: list[dict[str, object]]


def export_lines(path: Path) -> Iterator[str]:
    """The lines of a feedback file, each with its line end.

    Raises:
        InputError: As for `feedback.stored`.
        EnvironmentFault: It cannot be read.
    """
    said: Iterator[Entry | PreferenceEntry] = merge(stored(path), stored_preferences(path), key=_image_of)
    for sha256, group in groupby(said, key=_image_of):
        entries: list[Entry] = []
        preferences: list[PreferenceEntry] = []
        for result, word in group:
            if isinstance(word, Judgement):
                entries.append((result, word))
            else:
                preferences.append((result, word))
        yield json.dumps(image_feedback(sha256, entries, preferences), ensure_ascii=False) + "\n"


def _image_of(entry: Entry | PreferenceEntry) -> str:
    return entry[1].image_sha256


def image_feedback(
    image_sha256: str, entries: Sequence[Entry], preferences: Sequence[PreferenceEntry] = ()
) -> ImageFeedback:
    """All that was said about one image, in the order in which it was said.

    Args:
        image_sha256: Its hash.
        entries: (result's hash, judgement).
        preferences: (result's hash, preference).
    """
    last_preferred = {(result, said.reader): place for place, (result, said) in enumerate(preferences)}
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
        "preferences": [
            {
                "result": result,
                **said.model_dump(mode="json", exclude={"image_sha256"}),
                "counts": last_preferred[result, said.reader] == place,
            }
            for place, (result, said) in enumerate(preferences)
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
