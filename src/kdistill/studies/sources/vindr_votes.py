"""Readers' marks of VinDr-CXR -> votes -> the 14, where the mapping is sound (table in docs/data.md).

Local and global labels and their definitions: Nguyen et al. 2022, doi:10.1038/s41597-022-01498-w, table 2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from kdistill.observations import NO_FINDING, OBSERVATIONS, Labels, LabelState
from kdistill.studies.sources.common import PixelBox
from kdistill.studies.sources.label_columns import columns_of_findings

Vote = Literal["majority", "any", "all", "unanimous"]

#: Observation -> VinDr labels that state it. Enlarged Cardiomediastinum and Support Devices are not labelled.
STATED: Final[Mapping[str, tuple[str, ...]]] = {
    NO_FINDING: ("No finding",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Lesion": ("Nodule/Mass", "Lung tumor"),
    "Lung Opacity": ("Lung Opacity", "Infiltration"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation",),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Pleural effusion",),
    "Pleural Other": ("Pleural thickening",),
    "Fracture": ("Clavicle fracture", "Rib fracture"),
}
#: Observation -> labels beside which a 0 would be unsound: opacities under a name of their own.
UNSURE: Final[Mapping[str, tuple[str, ...]]] = {
    "Lung Opacity": ("ILD", "Pulmonary fibrosis", "Tuberculosis", "Lung cavity"),
    "Lung Lesion": ("Lung cavity",),
}


@dataclass
class Readings:
    """What was marked on one image. The consensus of the test set counts as one reader."""

    readers: set[str] = field(default_factory=set)
    marks: dict[str, set[str]] = field(default_factory=dict)
    boxes: dict[str, list[PixelBox]] = field(default_factory=dict)

    def mark(self, reader: str, name: str) -> None:
        """A reader marks a label on the image (or, marking nothing else, was one of its readers)."""
        self.readers.add(reader)
        self.marks.setdefault(name, set()).add(reader)

    def state(self, names: Collection[str], vote: Vote) -> LabelState:
        """The vote on an observation: a reader who marks any of its labels marks it once."""
        marking = len(set().union(*(self.marks.get(name, set()) for name in names)))
        return tally(marking, len(self.readers), vote)


def tally(marking: int, readers: int, vote: Vote) -> LabelState:
    """Turn the number of readers who mark a label into its state.

    >>> [[tally(k, 3, v) for k in range(4)] for v in ("majority", "any", "all", "unanimous")]
    [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, -1, -1, 1]]
    """
    match vote:
        case "majority":
            return -1 if 2 * marking == readers else int(2 * marking > readers)  # type: ignore[return-value]
        case "any":
            return 1 if marking else 0
        case "all":
            return 1 if marking == readers else 0
        case "unanimous":
            return 1 if marking == readers else -1 if marking else 0


def _vote_on(name: str, vote: Vote) -> Vote:
    """ "No finding" is a denial: unless the majority decides, one reader who does not share it is enough against it."""
    return "all" if name == NO_FINDING and vote != "majority" else vote


def columns_of(readings: Readings, vote: Vote, labels_of_set: Collection[str]) -> Labels:
    """The columns of the 14 for one image.

    Args:
        readings: What its readers marked.
        vote: How they make a label.
        labels_of_set: The labels that this copy of the data set has at all: the Kaggle table has 14 of 28, and what it
            does not have is no column, never a 0.
    """
    states = {
        name: readings.state(words, _vote_on(name, vote))
        for name, words in STATED.items()
        if not set(words).isdisjoint(labels_of_set)
    }
    stated = {name for name, state in states.items() if state == 1}
    doubtful = {name for name, state in states.items() if state == -1}
    unsure = {name for name, words in UNSURE.items() if readings.state(words, "any") == 1}
    columns = columns_of_findings(stated, unsure, states)
    return {name: -1 if name in doubtful - {NO_FINDING} else columns[name] for name in OBSERVATIONS if name in columns}


def truth_of(readings: Readings, labels: Labels) -> dict[str, int]:
    """What is known of a test image, 1 or 0; what the vote leaves open is absent. "No finding" is a label of the set's
    own, so that its absence is known too."""
    truth = {name: int(state) for name, state in labels.items() if state in (0, 1)}
    if NO_FINDING in labels and readings.state(STATED[NO_FINDING], "any") == 0:
        truth[NO_FINDING] = 0
    return truth


def boxes_of(readings: Readings, truth: Mapping[str, int]) -> dict[str, tuple[PixelBox, ...]]:
    """The boxes of the observations that are there, of all readers together."""
    return {
        name: boxes
        for name in OBSERVATIONS
        if truth.get(name) == 1
        and (boxes := tuple(box for word in STATED.get(name, ()) for box in readings.boxes.get(word, ())))
    }
