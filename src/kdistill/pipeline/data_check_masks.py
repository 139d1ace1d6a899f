"""What `data check` says of masks: which of them a run would leave out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kdistill.errors import InputError
from kdistill.pipeline.data_check_places import listed
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.sources.common import SourceStudy, published_masks

#: Side at which masks are read: whether they can be read does not depend on it.
_SIZE_PX: Final = 64
#: Reasons that are named one by one; masks mostly share theirs.
_MAX_REASONS: Final = 5


@dataclass
class MaskFacts:
    """How many masks a run would read, and for each reason the places of those that it would leave out."""

    count: int = 0
    unusable: dict[str, list[str]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Lines of the summary; none where the data set has no masks."""
        if not self.count:
            return {}
        return {"masks": self.count, "masks unusable": sum(map(len, self.unusable.values()))}


def read_masks(items: list[SourceStudy], places: dict[str, str]) -> MaskFacts:
    """Read the masks that a run publishes: those of test studies.

    Args:
        items: The studies.
        places: Image path -> where it stands in its table.
    """
    masks = [(item, path) for item in items for path in published_masks(item).values()]
    facts = MaskFacts(count=len(masks))
    if not masks:
        return facts
    with DecoderPool(1, _SIZE_PX, send_pixels=False) as pool:
        for (item, _), found in zip(masks, pool.map(path for _, path in masks), strict=True):
            if isinstance(found, InputError):
                place = places[str(item.images[0].path)] if item.images else "a study without an image"
                facts.unusable.setdefault(found.what, []).append(place)
    return facts


def mask_warnings(facts: MaskFacts) -> list[str]:
    """A sentence for each reason, the commonest first."""
    reasons = sorted(facts.unusable, key=lambda reason: -len(facts.unusable[reason]))
    found = [
        f"{len(facts.unusable[reason])} of {facts.count} masks would be left out (a mask {reason}): "
        f"{listed(facts.unusable[reason])}" + ("; save masks as 8-bit PNG" if "1-bit" in reason else "")
        for reason in reasons[:_MAX_REASONS]
    ]
    rest = sum(len(facts.unusable[reason]) for reason in reasons[_MAX_REASONS:])
    return [*found, *([f"{rest} of {facts.count} masks would be left out for other reasons"] if rest else [])]
