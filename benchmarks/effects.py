"""What the parts that are off by default are worth: finished settings of recipes/effects.yaml against each other.

    python benchmarks/effects.py extract runs/effects > benchmarks/effects.json
    python benchmarks/effects.py table benchmarks/effects.json

`extract` reads predictions and truth of the test studies, which every setting shares, and compares students of several
runs as evaluation compares arms of one: the same patients drawn, the same patients swapped, Holm over a measure's
comparisons. `table` prints them. A setting that was not run is named as such (docs/protocol.md, sixth protocol).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from results_table import Row, number, signed, with_interval
from sides import texts_of

from kdistill.audit.laterality import laterality_rows, right_sides
from kdistill.audit.material import Cases, Said, TextReader, load_cases
from kdistill.audit.resampling import PatientBootstrap
from kdistill.evaluation.bootstrap import Estimate
from kdistill.evaluation.compare import paired_difference
from kdistill.evaluation.comparisons import Comparison, Field, compare_arms
from kdistill.evaluation.config import ComparisonSpec, EvaluationConfig, PrimaryEndpoint
from kdistill.evaluation.scores import Entry, Outputs, all_families, score_arm
from kdistill.observations import OBSERVATIONS


class Student(NamedTuple):
    """An arm of a setting."""

    setting: str
    arm: str = "full"

    @property
    def key(self) -> str:
        """Its name among the students of all settings."""
        return f"{self.setting}/{self.arm}"


class Part(NamedTuple):
    """A part, and the two students that differ in it alone."""

    name: str
    with_it: Student
    without: Student


_JOINT: Final = Student("joint")
PARTS: Final = (
    Part("consistency term", Student("joint", "full_consistency"), _JOINT),
    Part("counterfactual term", Student("joint", "full_counterfactual"), _JOINT),
    Part("token term on own texts", Student("joint", "full_on_policy"), _JOINT),
    Part("two stages", Student("two-stages"), _JOINT),
    Part("no gradient from texts to vision", Student("no-text-gradient"), _JOINT),
    Part("queries from literature, 3,000 studies", Student("literature-3000"), _JOINT),
    Part("queries from literature, 300 studies", Student("literature-300"), Student("random-300")),
    Part("queries from literature, 30 studies", Student("literature-30"), Student("random-30")),
    Part("where term in the found frame", Student("frame-found"), _JOINT),
    Part("augmentation", Student("augmented"), _JOINT),
)
#: What the teacher brings (docs/protocol.md, seventh protocol): a family of comparisons of its own.
TEACHER_PARTS: Final = (
    Part("what the teacher learned", Student("joint", "full_no_token"), Student("joint", "untrained_teacher")),
    Part("a teacher that has learned nothing", Student("joint", "untrained_teacher"), Student("joint", "template")),
    Part("token term", _JOINT, Student("joint", "full_no_token")),
)
#: What it learned has to be right (eleventh protocol): every condition's literature is that of another one.
_MISTAUGHT: Final = Student("mistaught", "full_no_token")
MISTAUGHT_PARTS: Final = (
    Part("literature that is right", Student("joint", "full_no_token"), _MISTAUGHT),
    Part("a teacher that has learned what is wrong", _MISTAUGHT, Student("joint", "template")),
)
#: What one development seed chose (twelfth protocol).
CHOICES: Final = (
    Part("soft labels", Student("soft-labels"), _JOINT),
    Part("omissions modelled", Student("omissions"), _JOINT),
    Part("rationale, then report", Student("rationale-first"), _JOINT),
    Part("report, then rationale", Student("report-first"), _JOINT),
    Part("the decoder is told no conclusions", Student("untold"), _JOINT),
    Part("no side term, no sides told", Student("no-side"), _JOINT),
    Part("sides read from the map as well", Student("side-map"), _JOINT),
)
FAMILIES: Final = (PARTS, TEACHER_PARTS, MISTAUGHT_PARTS, CHOICES)
#: (name of the comparison, average) of the columns.
MEASURES: Final = (("report_f1", "micro"), ("rationale_f1", "micro"), ("auc", "micro"), ("auc", "macro"))
RARE: Final = "auc of the rarer half"
#: Of the findings that the report names with a side, the share on the right one (docs/faithfulness.md).
SIDES: Final = "side_accuracy_report"
#: Computed here: the audits of these runs are older than the audit's part on sides.
LATERALITY: Final = (SIDES, "wrong_side_report")
#: Audit figures that a part was made for.
AUDIT: Final = (
    "counterfactual_necessity_report",
    "counterfactual_necessity_head",
    "off_target_stability_head",
    "report_vs_probability",
    "shortcut_effect_report",
    "pointing_game",
    *LATERALITY,
)
NUM_SWAPS: Final = 2000
NUM_RESAMPLES: Final = 1000


def extract(sweep: Path) -> dict[str, Any]:
    """Scores, differences and audit figures of the settings that are finished."""
    done = sorted(_finished(sweep))
    families = [[p for p in parts if {p.with_it.key, p.without.key} <= set(done)] for parts in FAMILIES]
    students = list(dict.fromkeys(s for parts in families for part in parts for s in (part.without, part.with_it)))
    field = _field(sweep, students)
    rare, texts = _rare(sweep / "joint"), _Texts.load(sweep, students)
    return {
        "commit": json.loads((sweep / "joint" / "evaluation" / "manifest.json").read_text(encoding="utf-8"))[
            "git_commit"
        ],
        "students": done,
        "rare": rare,
        "scores": [_score(entry) for entry in field.entries if _is_shown(entry)],
        "differences": [
            row
            for parts in families
            for row in (*_compared(field, parts, rare), *(texts.compared(part) for part in parts))
        ],
        "audit": [row for student in students for row in (*_audit(sweep, student), *texts.audited(student))],
    }


def _compared(field: Field, parts: Sequence[Part], rare: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One family's differences: Holm over each measure's comparisons."""
    config = EvaluationConfig(
        primary=PrimaryEndpoint(baselines=()),
        num_permutations=NUM_SWAPS,
        num_bootstrap=NUM_RESAMPLES,
        comparisons=tuple(_specs(parts)),
    )
    for row in compare_arms(field, config):
        if row.observation is None and (row.name, row.average) in MEASURES:
            yield _kept(row)
    yield from _rare_differences(field.entries, parts, rare)


def _finished(sweep: Path) -> Iterator[str]:
    """Students of the settings that were run to their end."""
    for audit in sweep.glob("*/audit/manifest.json"):
        run = audit.parent.parent
        for arm in {path.parent.parent.name for path in run.glob("student/*/seed-*/manifest.json")}:
            yield Student(run.name, arm).key


def _specs(parts: Iterable[Part]) -> Iterator[ComparisonSpec]:
    for part in parts:
        for name in ("report_f1", "rationale_f1", "auc"):
            yield ComparisonSpec.model_validate({"name": name, "arm": part.with_it.key, "baseline": part.without.key})


def _field(sweep: Path, students: Sequence[Student]) -> Field:
    """Every student's outputs on the one test split, under its key."""
    from kdistill.evaluation.cohort import load_cohort, load_outputs, load_reference
    from kdistill.evaluation.scores import make_scope
    from kdistill.labelers.config import RulesLabelerConfig
    from kdistill.labelers.labeler import RememberingLabeler, labeler_id, open_labeler

    studies, labels = sweep / "joint" / "studies", sweep / "joint" / "labels"
    labeler, cohort = RememberingLabeler(open_labeler(RulesLabelerConfig())), load_cohort(studies, "test")
    truth = load_reference("truth", cohort, studies, labels, labeler)
    if truth is None:
        raise SystemExit(f"{studies}: no ground truth")
    reference = truth[0]
    scope = make_scope("test", np.arange(len(cohort.studies)), cohort.patient_ids, num_bootstrap=NUM_RESAMPLES, seed=0)
    arms: dict[str, list[Outputs]] = {}
    entries: list[Entry] = []
    for student in students:
        if load_cohort(sweep / student.setting / "studies", "test").study_ids != cohort.study_ids:
            raise SystemExit(f"{student.setting}: other test studies than joint's")
        folders = sorted((sweep / student.setting / "student" / student.arm).glob("seed-*/manifest.json"))
        arms[student.key] = [
            load_outputs(
                student.key, int(f.parent.name.removeprefix("seed-")), f.parent, cohort, labeler, with_text=False
            )
            for f in folders
        ]
        name = labeler_id(labeler)
        entries += score_arm(arms[student.key], reference, scope, all_families(), labeler=name, num_bins=10)
    return Field(arms, reference, scope, entries)


def _is_shown(entry: Entry) -> bool:
    score = entry.score
    policy = "negative" if score.name == "auc" else "positive"
    return (score.name, score.average) in MEASURES and score.observations == 14 and score.uncertain == policy


def _score(entry: Entry) -> dict[str, Any]:
    score = entry.score
    return {
        **{key: getattr(score, key) for key in ("name", "arm", "average", "value", "ci95", "n")},
        "seeds": list(score.seeds),
    }


def _kept(row: Comparison) -> dict[str, Any]:
    keys = ("name", "arm", "baseline", "average", "difference", "ci95", "p", "p_holm", "n")
    return {key: getattr(row, key) for key in keys}


def _rare(run: Path) -> list[str]:
    """The seven observations that the fewest training reports state, "No Finding" aside."""
    from kdistill.distillation.labels import load_stated_labels
    from kdistill.studies.store import load_studies

    stated = load_stated_labels("explicit", run / "labels", run / "rationales")
    names = [name for name in OBSERVATIONS if name != "No Finding"]
    ids = [study.study_id for study in load_studies(run / "studies", "train")]
    counts = {name: sum(stated[study].get(name) in (1, -1) for study in ids if study in stated) for name in names}
    return sorted(names, key=lambda name: counts[name])[:7]


def _rare_differences(entries: Iterable[Entry], parts: Iterable[Part], rare: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Differences of the mean AUC over the rare observations: intervals only."""
    found: dict[str, list[Estimate]] = {}
    for entry in entries:
        if entry.score.name == "auc" and entry.score.observation in rare:
            found.setdefault(entry.score.arm, []).append(entry.estimate)
    for part in parts:
        row = paired_difference(mean_of(found[part.with_it.key]), mean_of(found[part.without.key]))
        yield {
            **{"name": RARE, "arm": part.with_it.key, "baseline": part.without.key, "average": "macro"},
            **{"difference": row.difference, "ci95": row.ci95, "p": None, "p_holm": None},
        }


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Averaged inside each resample, so that one resample holds the same patients for all of them."""
    values, samples = [e.value for e in estimates], [e.samples for e in estimates]
    if any(value is None for value in values) or any(drawn is None for drawn in samples):
        return Estimate(None, None, "one of them has no value")
    return Estimate(float(np.mean(values)), np.mean(samples, axis=0), None)  # type: ignore[arg-type]


def _audit(sweep: Path, student: Student) -> Iterator[dict[str, Any]]:
    rows = json.loads((sweep / student.setting / "audit" / "audit.json").read_text(encoding="utf-8"))
    for row in rows:
        if row["arm"] == student.arm and row["test"] in AUDIT and row["test"] not in LATERALITY:
            yield _audit_row(student, row)


def _audit_row(student: Student, row: Row) -> dict[str, Any]:
    return {"student": student.key, **{key: row[key] for key in ("test", "value", "ci95", "n", "baseline")}}


class _Texts(NamedTuple):
    """What every student wrote of the test studies, seed by seed, and the sides that are true of them."""

    cases: Cases
    reader: TextReader
    boot: PatientBootstrap
    said: Mapping[str, Sequence[Said]]

    @classmethod
    def load(cls, sweep: Path, students: Sequence[Student]) -> _Texts:
        """Read the predictions of all students."""
        cases, reader = load_cases(sweep / "joint" / "studies"), TextReader()
        said = {}
        for student in students:
            folders = sorted((sweep / student.setting / "student" / student.arm).glob("seed-*/predictions.parquet"))
            said[student.key] = [texts_of(path.parent, cases, reader) for path in folders]
        return cls(cases, reader, PatientBootstrap(cases.patient_ids, NUM_RESAMPLES, 0), said)

    def compared(self, part: Part) -> dict[str, Any]:
        """The difference in sides that a part makes: an interval only."""
        row = paired_difference(self._right(part.with_it), self._right(part.without))
        return {
            **{"name": SIDES, "arm": part.with_it.key, "baseline": part.without.key, "average": "micro"},
            **{"difference": row.difference, "ci95": row.ci95, "p": None, "p_holm": None},
        }

    def audited(self, student: Student) -> Iterator[dict[str, Any]]:
        """A student's own rows."""
        for row in laterality_rows(student.arm, self.said[student.key], self.cases, self.boot, self.reader):
            if row.test in LATERALITY:
                yield _audit_row(student, row.model_dump(mode="json"))

    def _right(self, student: Student) -> Estimate:
        return self.boot.ratio(
            [right_sides(said, "report", self.cases, self.reader) for said in self.said[student.key]]
        )


COLUMNS: Final = (*MEASURES, (RARE, "macro"), (SIDES, "micro"))
TITLES: Final = (
    "report_f1",
    "rationale_f1",
    "micro-AUC",
    "macro-AUC",
    "macro-AUC, rarer half",
    "named on the right side, report",
)


def table(found: Mapping[str, Any]) -> str:
    """Markdown: differences, a table a family, then the students themselves, then the audit's figures."""
    families = [_differences(found, parts) for parts in FAMILIES]
    return "\n\n".join("\n".join(lines) for lines in (*families, _students(found), _audited(found)))


def _differences(found: Mapping[str, Any], parts: Sequence[Part]) -> Iterator[str]:
    run = [part for part in parts if {part.with_it.key, part.without.key} <= set(found["students"])]
    if run:
        yield f"| part | {' | '.join(TITLES)} |"
        yield "|---" * (1 + len(TITLES)) + "|"
    for part in run:
        cells = [_cell(_row(found["differences"], part, name, average)) for name, average in COLUMNS]
        yield f"| {part.name} | {' | '.join(cells)} |"
    if len(run) < len(parts):
        yield from [""] if run else []
        yield f"Not run: {'; '.join(part.name for part in parts if part not in run)}."


def _row(rows: Iterable[Row], part: Part, name: str, average: str) -> Row | None:
    wanted = (part.with_it.key, part.without.key, name, average)
    return next((r for r in rows if (r["arm"], r["baseline"], r["name"], r["average"]) == wanted), None)


def _cell(row: Row | None) -> str:
    if row is None or row["difference"] is None:
        return "-"
    low, high = row["ci95"]
    p = "" if row["p_holm"] is None else f", p {row['p_holm']:.3f}"
    return f"{signed(row['difference'])} [{signed(low)}, {signed(high)}]{p}"


def _students(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"| student | seeds | {' | '.join(TITLES[: len(MEASURES)])} |"
    yield "|---" * (2 + len(MEASURES)) + "|"
    for key in dict.fromkeys(row["arm"] for row in found["scores"]):
        rows = {(row["name"], row["average"]): row for row in found["scores"] if row["arm"] == key}
        seeds = len(next(iter(rows.values()))["seeds"])
        yield f"| {key} | {seeds} | {' | '.join(with_interval(rows.get(measure)) for measure in MEASURES)} |"


def _audited(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"| student | {' | '.join(AUDIT)} |"
    yield "|---" * (1 + len(AUDIT)) + "|"
    for key in dict.fromkeys(row["student"] for row in found["audit"]):
        rows = {row["test"]: row for row in found["audit"] if row["student"] == key}
        yield f"| {key} | {' | '.join(_audit_cell(rows.get(test)) for test in AUDIT)} |"


def _audit_cell(row: Row | None) -> str:
    return "-" if row is None or row["value"] is None else f"{number(row['value'])} (n {row['n']})"


def main() -> None:
    """Print JSON or Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("extract", "table"))
    parser.add_argument("path", type=Path, help="folder of the sweep, or the extracted JSON")
    chosen = parser.parse_args()
    if chosen.command == "extract":
        print(json.dumps(extract(chosen.path), indent=1, allow_nan=False))
    else:
        print(table(json.loads(chosen.path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
