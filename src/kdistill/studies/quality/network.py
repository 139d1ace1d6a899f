"""The gate's small network: a standardised row of features, one hidden layer, a softmax over what a picture can be.

    p = softmax(relu(x W1 + b1) W2 + b2)

Its weights are a safetensors file beside this module; `card.json` says how they were trained, holds the thresholds that
were chosen with them, and is bound to the file by its SHA-256: neither is used with another's partner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, get_args

import numpy as np

from kdistill.errors import WeightsError
from kdistill.studies.quality.features import NUM_FEATURES

PictureClass = Literal[
    "upright", "mirrored", "turned_left", "upside_down", "turned_right", "inverted", "photograph", "other"
]
CLASSES: Final[tuple[PictureClass, ...]] = get_args(PictureClass)
WEIGHTS, CARD = "weights.safetensors", "card.json"


@dataclass(frozen=True)
class Network:
    """Weights of M members (trained from different seeds), whose probabilities are averaged.

    Attributes:
        first: float32 [M, F, H] (the standardisation of the features is folded in).
        first_bias: float32 [M, H].
        second: float32 [M, H, K].
        second_bias: float32 [M, K].
    """

    first: np.ndarray
    first_bias: np.ndarray
    second: np.ndarray
    second_bias: np.ndarray

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Of feature rows [N, F]: float64 [N, K] in the order of `CLASSES`, each row summing to 1."""
        hidden = np.maximum(np.einsum("nf,mfh->mnh", rows, self.first) + self.first_bias[:, None], 0)
        logits = (np.einsum("mnh,mhk->mnk", hidden, self.second) + self.second_bias[:, None]).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return (powers / powers.sum(axis=-1, keepdims=True)).mean(axis=0)


@dataclass(frozen=True)
class Gate:
    """The network with the thresholds that were chosen on the validation part."""

    network: Network
    thresholds: Mapping[str, float]


def load_gate(weights: bytes | None = None, card: bytes | None = None) -> Gate:
    """Read the shipped weights and card, or those given.

    Raises:
        WeightsError: The file is not the one that the card was written for, or a tensor has a wrong shape.
    """
    folder = resources.files("kdistill.studies.quality")
    weights = folder.joinpath(WEIGHTS).read_bytes() if weights is None else weights
    described = json.loads(folder.joinpath(CARD).read_bytes() if card is None else card)
    if hashlib.sha256(weights).hexdigest() != described["weights_sha256"]:
        raise WeightsError(
            "is not the file that card.json was written for",
            where=WEIGHTS,
            remedy="Install the package again, or train both anew with benchmarks/train_quality.py.",
        )
    return Gate(_network(weights), dict(described["thresholds"]))


def _network(weights: bytes) -> Network:
    from safetensors.numpy import load

    tensors = {name: tensor.astype(np.float32) for name, tensor in load(weights).items()}
    network = Network(tensors["first"], tensors["first_bias"], tensors["second"], tensors["second_bias"])
    members, hidden = network.first_bias.shape
    expected = (members, NUM_FEATURES, hidden), (members, hidden, len(CLASSES)), (members, len(CLASSES))
    if (network.first.shape, network.second.shape, network.second_bias.shape) != expected:
        raise WeightsError(
            f"has shapes {network.first.shape}, {network.second.shape}; {NUM_FEATURES} features and "
            f"{len(CLASSES)} classes are needed",
            where=WEIGHTS,
        )
    return network
