"""The phantom world as files: PNG images and masks, studies.csv in the plain folder layout, counterfactual pairs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdistill.errors import PolicyError
from kdistill.observations import OBSERVATIONS
from kdistill.records import Side, Split
from kdistill.studies.phantom.config import PhantomConfig
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import Rendering
from kdistill.studies.phantom.reports import write_report
from kdistill.studies.phantom.world import PairPlan, counterfactual_plans, render_many, sample_plans

OnProgress = Callable[[int, int], None] | None

#: Shares of the studies that `config_for` gives to training and validation; the rest is the test set.
_TRAIN_SHARE, _VALIDATE_SHARE = 0.7, 0.1
_PAIR_COLUMNS = (
    "pair_id",
    "kind",
    "study_id",
    "patient_id",
    "observation",
    "before_path",
    "after_path",
    "mask_path",
    "before_side",
    "after_side",
    "shortcut_before",
)


def config_for(num: int, *, seed: int = 0, size_px: int = 128) -> PhantomConfig:
    """Settings for `num` studies in all, split 70/10/20 (at least one in training)."""
    num_train = max(round(_TRAIN_SHARE * num), 1)
    num_validate = round(_VALIDATE_SHARE * num) if num > 1 else 0
    num_test = max(num - num_train - num_validate, 0)
    pairs = min(4 * num_test, PhantomConfig().num_pairs)
    return PhantomConfig(
        size_px=size_px, num_train=num_train, num_validate=num_validate, num_test=num_test, num_pairs=pairs, seed=seed
    )


def write_folder(
    out_dir: Path, config: PhantomConfig, pairs: bool = False, on_progress: OnProgress = None, processes: int = 1
) -> int:
    """Write studies.csv, images/, masks/ and, if asked, pairs.csv with pairs/.

    Args:
        out_dir: A folder that is new or empty.
        config: What to draw.
        pairs: Whether to draw counterfactual pairs of the test studies.
        on_progress: Called with (done, total) after each rendering.
        processes: Processes that render; the files do not depend on it.

    Returns:
        The number of studies.

    Raises:
        PolicyError: The folder holds something already.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise PolicyError("is not empty", where=out_dir.name, remedy="Name a new folder; nothing is overwritten.")
    splits = sample_plans(config)
    plans = [(split, plan) for split, found in splits.items() for plan in found]
    pair_plans = counterfactual_plans(splits["test"], config) if pairs else []
    wanted = [plan for _, plan in plans] + [plan for pair in pair_plans for plan in pair[2:]]
    rendered = render_many(wanted, config.size_px, processes, on_progress)
    for name in ("images", "masks", *(("pairs",) if pairs else ())):
        (out_dir / name).mkdir(parents=True, exist_ok=True)
    _write_studies(out_dir, plans, rendered)
    if pairs:
        _write_pairs(out_dir, pair_plans, rendered)
    return len(plans)


def _write_studies(out_dir: Path, plans: Sequence[tuple[Split, StudyPlan]], rendered: Iterator[Rendering]) -> None:
    known = [f"{kind}:{name}" for kind in ("truth", "mask") for name in OBSERVATIONS]
    columns = ["study_id", "patient_id", "image_path", "split", "view_position", "sex", "age", "findings", "impression"]
    with (out_dir / "studies.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*columns, *known], restval="")
        table.writeheader()
        for split, plan in plans:
            table.writerow(_study_row(out_dir, split, plan, next(rendered)))


def _study_row(out_dir: Path, split: Split, plan: StudyPlan, drawn: Rendering) -> Mapping[str, object]:
    findings, impression = write_report(plan, "b" if split == "test" else "a", np.random.default_rng([plan.seed, 7]))
    image_path = f"images/{plan.study_id}.png"
    save_grey(out_dir / image_path, drawn.image)
    row: dict[str, object] = {
        "study_id": plan.study_id,
        "patient_id": plan.patient_id,
        "image_path": image_path,
        "split": split,
        "view_position": plan.view_position,
        "sex": plan.sex,
        "age": f"{plan.age:g}",
        "findings": findings,
        "impression": impression,
    }
    row.update({f"truth:{name}": value for name, value in plan.truth().items()})
    for name, mask in drawn.masks.items():
        mask_path = f"masks/{plan.study_id}-{_slug(name)}.png"
        save_grey(out_dir / mask_path, mask)
        row[f"mask:{name}"] = mask_path
    return row


def _write_pairs(out_dir: Path, pairs: Sequence[PairPlan], rendered: Iterator[Rendering]) -> None:
    with (out_dir / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, _PAIR_COLUMNS, restval="")
        table.writeheader()
        for number, (kind, observation, before, after) in enumerate(pairs):
            shown = [next(rendered), next(rendered)]
            name = f"pairs/{number:05d}"
            row: dict[str, object] = {
                "pair_id": f"pair-{number:05d}",
                "kind": kind,
                "study_id": before.study_id,
                "patient_id": before.patient_id,
                "observation": observation,
                "before_path": f"{name}-before.png",
                "after_path": f"{name}-after.png",
                "before_side": _side(before, observation),
                "after_side": _side(after, observation),
                "shortcut_before": int(before.shortcut),
            }
            save_grey(out_dir / f"{name}-before.png", shown[0].image)
            save_grey(out_dir / f"{name}-after.png", shown[1].image)
            mask = next((drawn.masks[observation] for drawn in shown if observation in drawn.masks), None)
            if mask is not None:
                row["mask_path"] = f"{name}-mask.png"
                save_grey(out_dir / f"{name}-mask.png", mask)
            table.writerow(row)


def _side(plan: StudyPlan, observation: str) -> Side | str:
    return next((f.side for f in plan.findings if f.observation == observation and f.side), "")


def _slug(observation: str) -> str:
    return observation.lower().replace(" ", "_")


def save_grey(path: Path, image: NDArray[np.float32] | NDArray[np.bool_]) -> None:
    """Write values 0..1 (or a mask) as an 8-bit grey PNG, rounded to nearest."""
    values = np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    Image.fromarray(values).save(path)
