"""Train the quality gate's network and choose its thresholds: weights.safetensors and card.json of studies/quality.

    python benchmarks/train_quality.py ../shared/data [--out src/kdistill/studies/quality]

Needs the sets named in docs/quality.md. Patients of the train part teach, those of the validate part choose the
thresholds; the test part and the COVID-19 Image Data Collection are not looked at (benchmarks/quality_figures.py
measures on them). Seeds are fixed: the same data give the same bytes on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from quality_films import Film, read_films
from quality_samples import Samples, samples_of
from safetensors.numpy import save
from sklearn.neural_network import MLPClassifier

from kdistill.studies.quality.network import CARD, CLASSES, WEIGHTS, Network

#: Films are trained on at this size: the gate's own picture has 64 pixels.
TRAIN_PX: Final = 256
HIDDEN: Final = 32
SEEDS: Final = (0, 1, 2)
EPOCHS: Final = 25
#: Share of good validation rows that the network may doubt; but never at less than a half.
MAX_DOUBTED: Final = 0.01
#: Share of good validation films that may be called mirrored.
MAX_MIRRORED: Final = 0.02


def main() -> None:
    """Train, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("src/kdistill/studies/quality"))
    parser.add_argument("--samples", type=Path, help="folder to keep the feature rows in, for quality_left_out.py")
    arguments = parser.parse_args()
    films = read_films(arguments.data, TRAIN_PX, ("train", "validate"))
    parts = {part: [film for film in films if film.part == part] for part in ("train", "validate")}
    train = samples_of(parts["train"], 0, num_drawn=70)
    validate = samples_of(parts["validate"], 1, num_drawn=30)
    if arguments.samples:
        np.savez(arguments.samples / "train.npz", **train._asdict())
        np.savez(arguments.samples / "validate.npz", **validate._asdict())
    network = fit(train.features, train.classes, SEEDS)
    weights = save({name: value.astype(np.float16) for name, value in vars(network).items()})
    rounded = Network(**{name: value.astype(np.float16).astype(np.float32) for name, value in vars(network).items()})
    card = {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "thresholds": choose_thresholds(rounded, validate) | measured_limits(),
        **described(train, parts["train"], validate, parts["validate"]),
    }
    (arguments.out / WEIGHTS).write_bytes(weights)
    (arguments.out / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=2))
    print(confusions(rounded, validate))


def fit(rows: np.ndarray, classes: np.ndarray, seeds: Sequence[int]) -> Network:
    """Train one member for each seed and fold the standardisation of the features into its first layer."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 0.05
    members = []
    for seed in seeds:
        model = MLPClassifier(
            (HIDDEN,), alpha=0.02, batch_size=128, learning_rate_init=2e-3, max_iter=EPOCHS, random_state=seed
        )
        model.n_iter_no_change = EPOCHS  # a fixed number of epochs: no part of the data decides when to stop
        model.fit((rows - mean) / spread, classes)
        first, second = model.coefs_
        first = first / spread[:, None]
        members.append((first, model.intercepts_[0] - mean @ first, second, model.intercepts_[1]))
    return Network(*(np.stack(parts).astype(np.float32) for parts in zip(*members, strict=True)))


def upright_chance(probabilities: np.ndarray) -> np.ndarray:
    """Of an upright frontal film, mirrored or not: [N]."""
    return probabilities[:, CLASSES.index("upright")] + probabilities[:, CLASSES.index("mirrored")]


def choose_thresholds(network: Network, samples: Samples) -> dict[str, float]:
    """How much doubt an upright film may be in, and how sure "mirrored" must be; from good validation films alone."""
    chance = network.probabilities(samples.features)
    doubt = 1 - upright_chance(chance)
    good = np.isin(samples.classes, [CLASSES.index("upright"), CLASSES.index("mirrored")])
    mirrored = chance[:, CLASSES.index("mirrored")] / np.maximum(1 - doubt, 1e-9)
    upright = samples.classes == CLASSES.index("upright")
    return {
        "not_upright": round(max(0.5, float(np.quantile(doubt[good], 1 - MAX_DOUBTED))), 4),
        "mirrored": round(max(0.5, float(np.quantile(mirrored[upright], 1 - MAX_MIRRORED))), 4),
    }


def measured_limits() -> dict[str, float]:
    """Limits of what is measured, not learned: set by hand, checked on the films (docs/quality.md)."""
    return {"low_contrast": 1 - 24 / 255, "noise": 0.4, "too_bright": 0.25, "too_dark": 0.25}


def described(
    train: Samples, train_films: Sequence[Film], validate: Samples, validate_films: Sequence[Film]
) -> dict[str, object]:
    """The card: what it was trained on, and how."""
    return {
        "features": "signed edge directions in 8 x 8 cells of a 64 x 64 picture, 16 x 16 grey levels, their histogram",
        "classes": list(CLASSES),
        "hidden": HIDDEN,
        "members": len(SEEDS),
        "epochs": EPOCHS,
        "train": counts(train, train_films),
        "validate": counts(validate, validate_films),
        "script": "benchmarks/train_quality.py",
    }


def counts(samples: Samples, films: Sequence[Film]) -> dict[str, object]:
    """Films and patients by set, rows by class."""
    by_set = sorted({film.set for film in films})
    return {
        "films": dict(sorted(Counter(film.set for film in films).items())),
        "patients": {name: len({f.patient for f in films if f.set == name}) for name in by_set},
        "rows": dict(sorted(Counter(CLASSES[number] for number in samples.classes).items())),
    }


def confusions(network: Network, samples: Samples) -> str:
    """Rows: what it is; columns: what it is taken for."""
    taken = network.probabilities(samples.features).argmax(axis=1)
    lines = [" " * 13 + " ".join(f"{name[:8]:>8}" for name in CLASSES)]
    for number, name in enumerate(CLASSES):
        row = np.bincount(taken[samples.classes == number], minlength=len(CLASSES))
        lines.append(f"{name:<13}" + " ".join(f"{count:>8}" for count in row))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
