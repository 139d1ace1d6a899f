"""Is visual feature learning decoupled from reasoning? Linear probes on the vision sides of finished runs.

    python benchmarks/decoupling.py runs/joint runs/two_stages --arms full report_only --json decoupling.json
    python benchmarks/decoupling.py --summary decoupling.json

For every student (`student/<arm>/seed-<n>/model`) probes are fitted on the training studies and tested on the
validation studies, both labelled by the same reading of the reports; ground truth and test studies are never read. A
student that was trained in two stages has a second row, its vision side as it was before the reasoning stage: the two
must be equal.
With `--labels own` (the default) each arm is probed with the labels that it was trained on, arms without labels with
explicit ones; arms are comparable with each other under one source only. Intervals: patients of the validation split
drawn with replacement, the same draws for every row, so that the differences to the first row are paired.
The JSON also holds each run's mean over seeds, at the end of training, and its difference to the first run's under the
same draws; `--summary` prints it from there as docs/decoupling.md shows it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effects import mean_of
from results_table import number, signed, with_interval

from kdistill.distillation.config import ARMS, TEXT_TERMS, DistillationConfig, LabelSource
from kdistill.evaluation.bootstrap import Estimate, bootstrap_weights, interval
from kdistill.evaluation.compare import paired_difference
from kdistill.observations import OBSERVATIONS

if TYPE_CHECKING:
    from kdistill.audit.linear_probe import ProbeResult
    from kdistill.student.modeling import KDistillStudent

BATCH_SIZE = 256
VISUAL_STAGE = "visual stage"


class Row(NamedTuple):
    """One probe of one student, at one moment of its training."""

    run: str
    arm: str
    seed: int
    after: str
    labels: LabelSource
    result: ProbeResult


class Student(NamedTuple):
    """A published student and what is known of its training."""

    run: Path
    arm: str
    seed: int

    @property
    def dir(self) -> Path:
        """Its folder."""
        return self.run / "student" / self.arm / f"seed-{self.seed}"


def students(run: Path, arms: Sequence[str]) -> list[Student]:
    """The trained students of a run, of these arms or of all."""
    found = sorted(path.parent for path in run.glob("student/*/seed-*/model"))
    every = [Student(run, path.parent.name, int(path.name.removeprefix("seed-"))) for path in found]
    return [student for student in every if not arms or student.arm in arms]


def kinds(arm: str, config: DistillationConfig) -> list[str]:
    """What an arm has trained: an arm of texts alone has neither observation embeddings nor a label head."""
    from kdistill.audit.linear_probe import EMBEDDINGS, ENCODER, HEAD
    from kdistill.distillation.config import active_terms

    terms = set(active_terms(ARMS[arm], config).terms)
    return [ENCODER] + [EMBEDDINGS] * bool(terms - TEXT_TERMS) + [HEAD] * ("label" in terms)


def moments(student: Student) -> Iterator[tuple[str, KDistillStudent]]:
    """The published student, and before it, where there is one, its vision side at the end of the visual stage."""
    from kdistill.distillation.stage import VISION_SIDE
    from kdistill.distillation.two_stages import load_vision_side
    from kdistill.student.modeling import load_student

    side = student.dir / VISION_SIDE
    if side.is_file():
        model = load_student(student.dir / "model")
        load_vision_side(model, side)
        yield VISUAL_STAGE, model
    yield "reasoning stage" if side.is_file() else "joint training", load_student(student.dir / "model")


def probe_student(student: Student, source: LabelSource | None, num_bootstrap: int) -> Iterator[Row]:
    """Every row of one student."""
    from kdistill.audit.linear_probe import extract_features, probe
    from kdistill.distillation.labels import label_targets, load_stated_labels
    from kdistill.pipeline.recipe import load_recipe
    from kdistill.studies.store import load_images, load_studies

    run, config = student.run, load_recipe(str(student.run / "recipe.yaml")).distillation
    own = ARMS[student.arm].label_source
    labels: LabelSource = source or (own if own != "none" else "explicit")
    stated = load_stated_labels(labels, run / "labels", run / "rationales")
    splits = [load_studies(run / "studies", split) for split in ("train", "validate")]
    targets = [label_targets(studies, stated, config, lambda name, n: None) for studies in splits]
    weights = bootstrap_weights([study.patient_id for study in splits[1]], num_bootstrap, seed=0)
    images = load_images(run / "studies")
    for after, model in moments(student):
        train, test = (
            extract_features(model, images, [s.images[0].row for s in studies], batch_size=BATCH_SIZE)
            for studies in splits
        )
        found = probe(train, targets[0], test, targets[1], weights, kinds=kinds(student.arm, config))
        for result in found.values():
            yield Row(run.name, student.arm, student.seed, after, labels, result)


def shown(estimate: Estimate) -> str:
    """Value with its interval."""
    if estimate.value is None:
        return f"null: {estimate.reason}"
    ends = interval(estimate.samples)
    return f"{estimate.value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def shown_difference(row: Row, first: Row | None) -> str:
    """Macro-AUC minus that of the first row on the same features, labels and studies."""
    if first is None or first is row:
        return "-"
    found = paired_difference(row.result.macro, first.result.macro)
    if found.difference is None:
        return "-"
    return f"{found.difference:+.3f}" + (f" [{found.ci95[0]:+.3f}, {found.ci95[1]:+.3f}]" if found.ci95 else "")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, one probe a line, by kind of features."""
    head = "run | arm | seed | features | after | labels | macro-AUC | micro-AUC (floor) | macro - first row | n"
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.result.features != "encoder"):
        result = row.result
        before = first.setdefault((result.features, row.labels), row)
        floor = "null" if result.micro_floor is None else f"{result.micro_floor:.3f}"
        cells = [row.run, row.arm, row.seed, result.features, row.after, row.labels, shown(result.macro)]
        cells += [f"{shown(result.micro)} ({floor})", shown_difference(row, before), result.n]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def as_json(row: Row) -> dict[str, Any]:
    """A row without its resamples."""
    result = row.result
    return {
        **{name: getattr(row, name) for name in ("run", "arm", "seed", "after", "labels")},
        "features": result.features,
        "n": result.n,
        "num_observations": result.num_fitted,
        "macro_auc": {"value": result.macro.value, "ci95": interval(result.macro.samples)},
        "micro_auc": {"value": result.micro.value, "ci95": interval(result.micro.samples), "floor": result.micro_floor},
        "auc": dict(zip(OBSERVATIONS, result.by_observation, strict=True)),
    }


def contrasts(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Mean over seeds of each run's finished students, arm by arm, and what it has more than the first run's."""
    groups: dict[tuple[str, str, LabelSource, str], list[ProbeResult]] = {}
    for row in rows:
        if row.after != VISUAL_STAGE:
            groups.setdefault((row.result.features, row.arm, row.labels, row.run), []).append(row.result)
    first: dict[tuple[str, str, LabelSource], dict[str, Estimate]] = {}
    for (features, arm, labels, run), results in groups.items():
        means = {"macro_auc": mean_of([r.macro for r in results]), "micro_auc": mean_of([r.micro for r in results])}
        before = first.setdefault((features, arm, labels), means)
        yield {
            **{"run": run, "arm": arm, "labels": labels, "features": features},
            **{"num_seeds": len(results), "n": results[0].n, "micro_floor": results[0].micro_floor},
            **{name: _figure(mean, before[name]) for name, mean in means.items()},
        }


def _figure(mean: Estimate, first: Estimate) -> dict[str, Any]:
    found = None if mean is first else paired_difference(mean, first)
    difference = None if found is None else {"value": found.difference, "ci95": found.ci95}
    return {"value": mean.value, "ci95": interval(mean.samples), "minus_first": difference}


def summary(found: Mapping[str, Any]) -> str:
    """Markdown of `contrasts`, a line for each kind of features and each run."""
    lines = [
        "| features | students | seeds | macro-AUC | minus the first | micro-AUC | minus the first |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds_found = list(dict.fromkeys(row["features"] for row in found["runs"]))
    for row in sorted(found["runs"], key=lambda row: kinds_found.index(row["features"])):
        cells = [row["features"], f"{row['run']}/{row['arm']}", str(row["num_seeds"])]
        for name in ("macro_auc", "micro_auc"):
            cells += [with_interval(row[name]), _signed_interval(row[name]["minus_first"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed_interval(row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    return signed(row["value"]) + ("" if row["ci95"] is None else f" [{', '.join(map(number, row['ci95']))}]")


def main() -> None:
    """Print the table; write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of runs on the same studies")
    parser.add_argument("--arms", nargs="+", default=(), choices=sorted(ARMS), metavar="ARM", help="default: all")
    parser.add_argument("--labels", choices=("own", "explicit", "teacher"), default="own", help="default: own")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of patients (default: 1000)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--summary", type=Path, metavar="JSON", help="print the means of such a file, and stop")
    chosen = parser.parse_args()
    if chosen.summary:
        print(summary(json.loads(chosen.summary.read_text(encoding="utf-8"))))
        return
    source = None if chosen.labels == "own" else chosen.labels
    every = [student for run in chosen.runs for student in students(run, chosen.arms)]
    if not every:
        parser.error("no trained student of these arms in these runs")
    rows = [row for student in every for row in probe_student(student, source, chosen.bootstrap)]
    print(table(rows))
    if chosen.json:
        found = {"students": [as_json(row) for row in rows], "runs": list(contrasts(rows))}
        chosen.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
