"""What the gate does with a set, or a kind of picture, that it never learned from.

    python benchmarks/train_quality.py ../shared/data --samples DIR
    python benchmarks/quality_left_out.py DIR

For each group below a network (one member) is trained without it, its threshold chosen without it, and the group's rows
of the train and validate parts are judged: good films refused, spoiled films and other pictures let through. Intervals:
Wilson's 95%, rows as if independent. Exposure, contrast and noise are not looked at here: only the network.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from quality_samples import Samples
from quality_shares import Share
from train_quality import choose_thresholds, fit, upright_chance

from kdistill.studies.quality.network import CLASSES

GROUPS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "NIH (all three)": ("nih", "nih_extra", "nih_64px"),
        "Hannover": ("hannover",),
        "VQA-RAD chest": ("vqa_rad_chest",),
        "phantom": ("phantom",),
        "CT and MR": ("vqa_rad_head", "vqa_rad_abdomen"),
        "drawn laterals": ("lateral",),
        "drawn limbs and trunks": ("limb", "trunk"),
        "drawn without X-rays": ("clouds", "dead_leaves", "pattern", "page", "noise"),
    }
)


def main() -> None:
    """Print a line for each group."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("samples", type=Path)
    folder = parser.parse_args().samples
    train, validate = (_load(folder / f"{part}.npz") for part in ("train", "validate"))
    for name, sources in GROUPS.items():
        print(f"{name:<24}{without(train, validate, sources)}", flush=True)


def _load(path: Path) -> Samples:
    with np.load(path, allow_pickle=False) as arrays:
        return Samples(**arrays)


def without(train: Samples, validate: Samples, sources: Sequence[str]) -> str:
    """Train without the sources and judge their rows."""
    network = fit(*(part[~np.isin(train.sources, sources)] for part in (train.features, train.classes)), (0,))
    kept = ~np.isin(validate.sources, sources)
    limit = choose_thresholds(network, Samples(*(column[kept] for column in validate)))["not_upright"]
    rows = np.concatenate([part.features[np.isin(part.sources, sources)] for part in (train, validate)])
    classes = np.concatenate([part.classes[np.isin(part.sources, sources)] for part in (train, validate)])
    doubted = 1 - upright_chance(network.probabilities(rows)) > limit
    good = np.isin(classes, [CLASSES.index("upright"), CLASSES.index("mirrored")])
    parts = []
    if good.any():
        parts.append(f"good refused {Share(int(doubted[good].sum()), int(good.sum()))}")
    if not good.all():
        parts.append(f"bad let through {Share(int((~doubted[~good]).sum()), int((~good).sum()))}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
