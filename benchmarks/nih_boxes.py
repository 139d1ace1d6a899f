"""Does the where term move evidence onto what radiologists boxed? (docs/protocol.md, third protocol)

    python benchmarks/nih_boxes.py prepare ../shared/data nih_boxes_data
    kdistill run recipes/nih_boxes.yaml
    python benchmarks/nih_boxes.py measure runs/nih_boxes ../shared/data > benchmarks/nih_boxes.json
    python benchmarks/nih_boxes.py table benchmarks/nih_boxes.json

`prepare` lays out the plain folder data set of the recipe: every film of a patient who has a box is test, the other
patients' films are training and validation. `measure` lets each student look at the boxed films and holds its evidence
maps against the boxes, which nothing in training reads. Needs nih_cxr14_subset and nih_cxr14_extra (NIH ChestX-ray14,
Wang et al. 2017, arXiv:1705.02315).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from kdistill.distillation.config import ARMS
from kdistill.evaluation.bootstrap import bootstrap_weights, interval
from kdistill.explain.student_reader import load_reader
from kdistill.observations import INDEX, OBSERVATIONS
from kdistill.sites import REFERENCE, Box, Frame, boxes, rasterise
from kdistill.studies.boxes import NihBox, read_nih_boxes
from kdistill.studies.config import NihStudies
from kdistill.studies.frame import FrameFinder
from kdistill.studies.images import read_grey, to_square
from kdistill.studies.sources.common import SourceStudy
from kdistill.studies.sources.nih_cxr14 import read_nih
from kdistill.studies.table import split_of

SETS: Final = ("nih_cxr14_subset", "nih_cxr14_extra")
VALIDATE_SHARE: Final = 0.15
#: Films are as large as the students' when their frame is looked for.
FRAME_PX: Final = 128
#: Maps and boxes are compared on this grid; every patch grid that divides it is carried over exactly.
FINE: Final = 256
MAIN: Final = "full"
MEASURES: Final = ("mass inside the box", "peak inside the box")


def films(data: Path) -> list[tuple[SourceStudy, Path]]:
    """All films of the sets with their files."""
    studies = [study for name in SETS for study in read_nih(NihStudies(path=str(data / name))).studies]
    return [(item, item.images[0].path) for item in studies]


def prepare(data: Path, out: Path) -> None:
    """Write studies.csv and links to the films."""
    tested = {f"nih-{boxed.patient_id}" for boxed in read_nih_boxes(data / SETS[0] / "bbox.csv")}
    (out / "images").mkdir(parents=True)
    labelled = sorted({name for item, _ in films(data) for name in item.study.labels or {}}, key=INDEX.__getitem__)
    with (out / "studies.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["study_id", "patient_id", "image_path", "split", "view_position", "sex", *labelled])
        for item, path in films(data):
            study = item.study
            (out / "images" / path.name).symlink_to(path.resolve())
            other = split_of(study.patient_id, validate_share=VALIDATE_SHARE, test_share=0.0)
            split = "test" if study.patient_id in tested else other
            states = [(study.labels or {}).get(name) for name in labelled]
            cells = ["" if state is None else state for state in states]
            row = [study.study_id, study.patient_id, f"images/{path.name}", split, study.view_position, study.sex]
            writer.writerow([*row, *cells])


def measure(runs: Sequence[Path], data: Path) -> dict[str, Any]:
    """Both measures of every arm [arm, seed, box], then means and differences with patient-bootstrap intervals.

    An arm of a second run is called ARM in RUN's name, so that `full` of the first is compared with it too.
    """
    boxed = read_nih_boxes(data / SETS[0] / "bbox.csv")
    path_of = {path.stem: path for _, path in films(data)}
    values: dict[str, np.ndarray] = {}
    for run in runs:
        for path in sorted((run / "student").iterdir()):
            if ARMS[path.name].has_label_head:
                name = path.name if run == runs[0] else f"{path.name} ({run.name})"
                values[name] = np.mean([_student(seed, boxed, path_of) for seed in sorted(path.glob("seed-*"))], axis=0)
    values["site"] = np.array([_held(_site(item), item.box) for item in boxed])
    values["site (found frame)"] = _framed_sites(boxed, path_of)
    values["uniform"] = np.array([_held(np.ones((FINE, FINE)), item.box) for item in boxed])
    weights = bootstrap_weights([item.patient_id for item in boxed], 2000, seed=0)
    rows = [
        {"arm": arm, "measure": name, **_mean(found[:, column], weights)}
        for arm, found in values.items()
        for column, name in enumerate(MEASURES)
    ]
    differences = [
        {"arm": main, "baseline": base, "measure": name, **_mean((values[main] - values[base])[:, column], weights)}
        for main in values
        if main == MAIN or main.startswith(f"{MAIN} (")
        for base in values
        if base != main
        for column, name in enumerate(MEASURES)
    ]
    manifest = json.loads((runs[0] / "evaluation" / "manifest.json").read_text(encoding="utf-8"))
    return {
        "commit": manifest["git_commit"],
        "boxes": len(boxed),
        "patients": len({item.patient_id for item in boxed}),
        "seeds": len(list((runs[0] / "student" / MAIN).glob("seed-*"))),
        "values": rows,
        "differences": differences,
    }


def _student(folder: Path, boxed: Sequence[NihBox], path_of: Mapping[str, Path]) -> np.ndarray:
    """[number of boxes, 2] of one student."""
    reader = load_reader(folder)
    images = np.stack([to_square(read_grey(path_of[item.stem]), reader.size_px) for item in boxed])
    found = []
    for item, reading in zip(boxed, reader.read(images), strict=True):
        assert reading.evidence_maps is not None
        small = np.asarray(reading.evidence_maps[OBSERVATIONS.index(item.observation)], dtype=np.float64)
        found.append(_held(np.kron(small, np.ones((FINE // len(small),) * 2)), item.box))
    return np.array(found)


def _held(fine: np.ndarray, box: Box) -> tuple[float, float]:
    """Share of a map's mass inside a box, and the share of its highest places (more than one where they tie)."""
    inside = rasterise(np.array([box]), FINE)
    peak = fine >= fine.max() * (1 - 1e-9)
    return float((fine * inside).sum() / fine.sum()), float((peak * inside).sum() / peak.sum())


def _site(item: NihBox, frame: Frame = REFERENCE) -> np.ndarray:
    return np.asarray(rasterise(np.array(boxes(item.observation, frame=frame)), FINE)).reshape(-1, FINE, FINE).max(0)


def _framed_sites(boxed: Sequence[NihBox], path_of: Mapping[str, Path]) -> np.ndarray:
    """[number of boxes, 2] of an even map over the site in the frame that is found on each film."""
    found = FrameFinder().find_many(np.stack([to_square(read_grey(path_of[item.stem]), FRAME_PX) for item in boxed]))
    return np.array([_held(_site(item, found[number].frame), item.box) for number, item in enumerate(boxed)])


def _mean(values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    resampled = values @ weights[:, 1:] / weights[:, 1:].sum(axis=0)
    bounds = interval(resampled)
    return {"value": float(values.mean()), "ci95": None if bounds is None else [float(b) for b in bounds]}


def table(found: Mapping[str, Any]) -> str:
    """Markdown of both tables."""
    lines = [f"| evidence map of | {' | '.join(MEASURES)} |", "|---|---|---|"]
    for arm in dict.fromkeys(row["arm"] for row in found["values"]):
        lines.append(f"| {arm} | " + " | ".join(_cell(r) for r in found["values"] if r["arm"] == arm) + " |")
    for arm in dict.fromkeys(row["arm"] for row in found["differences"]):
        lines += ["", f"| `{arm}` minus | {' | '.join(MEASURES)} |", "|---|---|---|"]
        rows = [row for row in found["differences"] if row["arm"] == arm]
        for base in dict.fromkeys(row["baseline"] for row in rows):
            lines.append(f"| {base} | " + " | ".join(_cell(r) for r in rows if r["baseline"] == base) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"] or (float("nan"),) * 2
    return f"{row['value']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "measure", "table"])
    parser.add_argument("paths", type=Path, nargs="+", help="DATA OUT, RUN [RUN ...] DATA, or FILE.json")
    arguments = parser.parse_args()
    match arguments.what:
        case "prepare":
            prepare(*arguments.paths)
        case "measure":
            *runs, data = arguments.paths
            json.dump(measure(runs, data), sys.stdout, indent=1)
            sys.stdout.write("\n")
        case "table":
            print(table(json.loads(arguments.paths[0].read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
