"""How often each observation is stated, denied, uncertain or unknown in a list of studies, by split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kdistill.observations import OBSERVATIONS, LabelState
from kdistill.records import Split, Study


class Totals(NamedTuple):
    """Studies of one split by the state of one observation in the data set's own label columns.

    Attributes:
        positive: 1.
        negative: 0.
        uncertain: -1.
        unknown: Empty, or the data set has no such column.
    """

    positive: int = 0
    negative: int = 0
    uncertain: int = 0
    unknown: int = 0

    def with_one_more(self, state: LabelState) -> Totals:
        """One more study with this state."""
        match state:
            case 1:
                return self._replace(positive=self.positive + 1)
            case 0:
                return self._replace(negative=self.negative + 1)
            case -1:
                return self._replace(uncertain=self.uncertain + 1)
            case _:
                return self._replace(unknown=self.unknown + 1)


def totals(studies: Iterable[Study]) -> dict[Split, dict[str, Totals]]:
    """Count the data set's own labels: split -> observation -> totals (as `totals` of torchxrayvision, and by split).

    Args:
        studies: Any studies; one without label columns counts as unknown in all 14.

    Returns:
        The splits that have studies, train first, each with all 14 observations in their order. The totals of an
        observation sum to the studies of the split.
    """
    found: dict[Split, dict[str, Totals]] = {}
    for study in studies:
        counts = found.setdefault(study.split, dict.fromkeys(OBSERVATIONS, Totals()))
        labels = study.labels or {}
        for name in OBSERVATIONS:
            counts[name] = counts[name].with_one_more(labels.get(name))
    order: tuple[Split, ...] = ("train", "validate", "test")
    return {split: found[split] for split in order if split in found}


def totals_lines(found: dict[Split, dict[str, Totals]]) -> list[str]:
    """`totals` as text for a terminal: a block a split, a line an observation; columns 1, 0, -1 and unknown."""
    lines = []
    for split, counts in found.items():
        lines.append(f"{split:<28}{'1':>9}{'0':>9}{'-1':>9}{'unknown':>9}")
        lines += [f"  {name:<26}{''.join(f'{number:>9}' for number in counts[name])}" for name in counts]
    return lines
