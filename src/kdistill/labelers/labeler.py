"""What every labeler offers, and which one a configuration means. Whoever needs labels from text asks for this only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kdistill.labelers.config import LabelerConfig
from kdistill.observations import Labels


class Labeler(Protocol):
    """Reads a report as 14 observation labels: 1 stated, 0 denied, -1 uncertain, None not mentioned."""

    @property
    def name(self) -> str:
        """What scores and artifacts call it."""
        ...

    @property
    def revision(self) -> str:
        """Changes whenever the same report may get other labels."""
        ...

    def label(self, report: str, /) -> Labels:
        """Return the labels of one report."""
        ...

    def label_all(self, reports: Sequence[str], /) -> list[Labels]:
        """Return the labels of each report, in order; the same as one by one."""
        ...


def labeler_id(labeler: Labeler) -> str:
    """Name and revision, as scores carry them."""
    return f"{labeler.name}@{labeler.revision}"


def is_chexbert(identity: str | None) -> bool:
    """Whether a score's labeler is CheXbert: only then is report_f1 a CheXbert F1.

    >>> is_chexbert("chexbert@5e0d1f2a3b4c"), is_chexbert("kdistill-rules@1-0123456789ab"), is_chexbert(None)
    (True, False, False)
    """
    return identity is not None and identity.partition("@")[0] == "chexbert"


def open_labeler(config: LabelerConfig) -> Labeler:
    """Return the labeler that a configuration names.

    Raises:
        WeightsError: The CheXbert weights are missing, pickled, damaged or of another architecture.
        InputError: Its vocabulary is missing or does not fit.
        EnvironmentFault: CUDA is asked for and there is none.
    """
    match config.kind:
        case "rules":
            from kdistill.labelers.rules import RuleLabeler

            return RuleLabeler()
        case "chexbert":
            from kdistill.labelers.chexbert import ChexbertLabeler

            return ChexbertLabeler.open(config)


class RememberingLabeler:
    """A labeler that reads each distinct text once: generated texts repeat (templates, collapsed models)."""

    def __init__(self, labeler: Labeler) -> None:
        self._labeler = labeler
        self._known: dict[str, Labels] = {}

    @property
    def name(self) -> str:
        """The name of the labeler that reads."""
        return self._labeler.name

    @property
    def revision(self) -> str:
        """Its revision."""
        return self._labeler.revision

    def label(self, report: str, /) -> Labels:
        """Return the labels of one report."""
        return self.label_all([report])[0]

    def label_all(self, reports: Sequence[str], /) -> list[Labels]:
        """Return the labels of each report, in order."""
        new = [report for report in dict.fromkeys(reports) if report not in self._known]
        self._known |= zip(new, self._labeler.label_all(new), strict=True)
        return [self._known[report] for report in reports]
