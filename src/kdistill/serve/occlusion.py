"""The occlusion test: where the model looked for an observation, the film is blurred over, and the model asked again.

For images of which no truth is known. What comes out is the same film with a smooth patch: no picture of the patient
without the finding, and a model may react to the patch itself.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kdistill.distillation.counterfactual import top_mass, without

#: The patches that go hold this share of the observation's evidence, as in training with the counterfactual term.
MASS: Final = 0.6


class Occluded(NamedTuple):
    """A film without the patches of one evidence map.

    Attributes:
        pixels: uint8 [S, S], as the model reads it.
        display: uint8, as pages show it.
        patches: bool [G, G], what was blurred over.
        mass: Share of the evidence that lay there.
    """

    pixels: NDArray[np.uint8]
    display: NDArray[np.uint8]
    patches: NDArray[np.bool_]
    mass: float


def occlude(
    pixels: NDArray[np.uint8], display: NDArray[np.uint8], evidence_map: tuple[tuple[float, ...], ...]
) -> Occluded:
    """Blur over the fewest patches that hold `MASS` of an evidence map.

    They become a smooth continuation of what surrounds them, with a soft border (`inpainting.inpaint`); pixels further
    away stay as they are, bit for bit.

    Args:
        pixels: uint8 [S, S], as the model reads it.
        display: The same square at the size at which pages show it.
        evidence_map: [G, G], sums to one.
    """
    attention = torch.tensor(evidence_map, dtype=torch.float32).reshape(1, -1)
    patches = top_mass(attention, MASS, max_area=1.0)
    grid = patches.reshape(len(evidence_map), -1).numpy()
    return Occluded(_without(pixels, patches), _without(display, patches), grid, float(attention[patches].sum()))


def _without(image: NDArray[np.uint8], patches: torch.Tensor) -> NDArray[np.uint8]:
    with torch.no_grad():
        changed = without(torch.tensor(image, dtype=torch.float32)[None, None], patches)[0, 0].numpy()
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
