"""Is there a frontal chest film to read? What `studies.quality` sees, as flags of an explanation, by the policy set.

A refused film gets no report: a model says something about a knee too, and says it as surely. "warn" is the way to
force one: the same objections then stand beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdistill.explain.explanation import Flag, QualityPolicy
from kdistill.studies.quality.assess import Quality, assess


def quality_of(image: NDArray[np.uint8], quality: Quality | None, policy: QualityPolicy) -> Quality | None:
    """What is known of the film's look; None where the policy is not to look.

    Args:
        image: uint8 [S, S], the canonical image.
        quality: What `assess` said of the film at full size; None: the canonical image is looked at.
        policy: "refuse", "warn", or "off" (nothing is looked at).
    """
    return None if policy == "off" else quality or assess(image.astype(np.float32) / 255)


def quality_flags(found: Quality | None, policy: QualityPolicy) -> list[Flag]:
    """What speaks against the film: `implausible_image` where it is refused for it, else `image_quality`.

    Args:
        found: See `quality_of`.
        policy: "refuse" or "warn"; "off": there is nothing to say.
    """
    if found is None:
        return []
    return [
        Flag(code="implausible_image" if flag.refuses and policy == "refuse" else "image_quality", text=flag.text)
        for flag in found.flags
    ]
