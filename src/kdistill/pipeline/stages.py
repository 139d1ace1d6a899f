"""The stages of a recipe: what each is made from, and who makes it. `run` decides which of them have to be made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from kdistill.artifact import StageWriter
from kdistill.config import ConfigModel
from kdistill.distillation.config import ARMS, TeacherKnowledge
from kdistill.interrupt import OnProgress
from kdistill.labelers.config import LabelerConfig
from kdistill.pipeline.recipe import Recipe
from kdistill.records import Article, ProbeItem, Study
from kdistill.studies.config import StudiesConfig

Build = Callable[[StageWriter, OnProgress], None]


@dataclass(frozen=True)
class Stage:
    """One folder of a run: its place, what it is made from, and the function that makes it."""

    name: str
    path: Path
    config: Any
    inputs: Mapping[str, Path]
    build: Build
    seed: int | None = None
    resumable: bool = False


@dataclass(frozen=True)
class RunFolder:
    """Names of the stages' folders inside a run."""

    dir: Path
    studies: Path = field(init=False)
    literature: Path = field(init=False)
    labels: Path = field(init=False)
    teacher: Path = field(init=False)
    rationales: Path = field(init=False)
    rationales_untrained: Path = field(init=False)
    evaluation: Path = field(init=False)
    audit: Path = field(init=False)
    report: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in (
            "studies", "literature", "labels", "teacher", "rationales", "rationales_untrained", "evaluation", "audit",
            "report",
        ):  # fmt: skip
            object.__setattr__(self, name, self.dir / name)

    def rationales_by(self, teacher: TeacherKnowledge) -> Path:
        """Folder of the rationales that a teacher wrote: after it read the literature, or (a control) before."""
        return self.rationales if teacher == "trained" else self.rationales_untrained

    def student(self, arm: str, seed: int) -> Path:
        """Folder of one student."""
        return self.dir / "student" / arm / f"seed-{seed}"


def is_reference(arm: str) -> bool:
    """Whether an arm is no training of its own but derived from another arm's student of the same seed."""
    return ARMS[arm].kind != "trained"


def student_keys(recipe: Recipe) -> list[tuple[str, int]]:
    """(arm, seed) of every student; those that others derive from come first."""
    arms = sorted(recipe.distillation.arms, key=is_reference)
    return [(arm, seed) for seed in recipe.distillation.seeds for arm in arms]


def base_stages(recipe: Recipe, run: RunFolder) -> list[Stage]:
    """The stages before any student, in order."""
    # The control's rationales only where an arm learns from them.
    wanted = {"trained", *(ARMS[arm].teacher for arm in recipe.distillation.arms)}
    return [
        _studies(recipe, run),
        _literature(recipe, run),
        _labels(recipe, run),
        _teacher(recipe, run),
        *(_rationales(recipe, run, teacher) for teacher in get_args(TeacherKnowledge) if teacher in wanted),
    ]


def _studies(recipe: Recipe, run: RunFolder) -> Stage:
    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.studies.stage import build_studies

        processes = recipe.decode_processes or recipe.processes
        build_studies(stage, recipe.studies, processes=processes, on_progress=on_progress)

    config = {"studies": recipe.studies.model_dump(mode="json"), "files": _studies_files(recipe.studies)}
    return Stage("studies", run.studies, config, {}, build)


def _literature(recipe: Recipe, run: RunFolder) -> Stage:
    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.literature.stage import build_literature
        from kdistill.studies.store import load_studies

        tests: list[Study] = load_studies(run.studies, "test")
        build_literature(
            stage,
            recipe.literature,
            extra_articles=_phantom_articles(recipe),
            excluded_texts=[study.report for study in tests if study.report],
            on_progress=on_progress,
        )

    paths = [path for source in recipe.literature.sources for path in _paths(source)]
    config = {"literature": recipe.literature.model_dump(mode="json"), "files": fingerprint(paths)}
    return Stage("literature", run.literature, config, {"studies": run.studies}, build)


def _phantom_articles(recipe: Recipe) -> Iterator[Article]:
    """Articles of the phantom world: the literature package reads files and knows no phantom."""
    from kdistill.studies.phantom.literature import write_literature
    from kdistill.studies.phantom.mistaught import mistaught

    for source in recipe.literature.sources:
        if source.kind == "phantom":
            articles = write_literature(seed=source.seed, num_articles=source.num_articles)
            yield from mistaught(articles) if source.mistaught else articles


def _labels(recipe: Recipe, run: RunFolder) -> Stage:
    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.labelers.stage import build_labels

        build_labels(stage, recipe.labeler, run.studies)

    return Stage("labels", run.labels, _labeler_config(recipe.labeler), {"studies": run.studies}, build)


def _labeler_config(labeler: LabelerConfig) -> Any:
    """What the labels depend on: the rules come with the package, weights and vocabulary from the disk."""
    from kdistill.labelers.chexbert_folder import files_of, hash_files

    match labeler.kind:
        case "rules":
            return labeler
        case "chexbert":
            return {"kind": labeler.kind, "revision": hash_files(files_of(labeler))}


def probe_items() -> tuple[ProbeItem, ...]:
    """The sign -> observation questions of `teacher probe`: wordings that no literature stage contains."""
    from kdistill.studies.phantom.knowledge import probe_items as items

    return tuple(items())


def _teacher(recipe: Recipe, run: RunFolder) -> Stage:
    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.teacher.stage import build_teacher

        build_teacher(
            stage,
            recipe.teacher,
            literature_dir=run.literature,
            probe_items=probe_items(),
            on_progress=on_progress,
        )

    return Stage(
        "teacher",
        run.teacher,
        _with_threads(recipe, teacher=recipe.teacher),
        {"literature": run.literature},
        build,
        seed=recipe.teacher.training.seed,
        resumable=True,
    )


def _rationales(recipe: Recipe, run: RunFolder, teacher: TeacherKnowledge) -> Stage:
    folder = run.rationales_by(teacher)

    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.teacher.rationale_stage import build_rationales

        build_rationales(
            stage,
            recipe.rationales,
            literature_dir=run.literature,
            teacher_dir=run.teacher,
            studies_dir=run.studies,
            labels_dir=run.labels,
            untrained=recipe.teacher if teacher == "untrained" else None,
            on_progress=on_progress,
        )

    inputs = {"literature": run.literature, "teacher": run.teacher, "studies": run.studies, "labels": run.labels}
    config = _with_threads(recipe, rationales=recipe.rationales)
    return Stage(folder.name, folder, config, inputs, build, resumable=True)  # keeps an endpoint's answers


def student_stage(recipe: Recipe, run: RunFolder, arm: str, seed: int) -> Stage:
    """One student: arm and seed. Its configuration leaves out which other arms and seeds the recipe has."""
    read = ARMS[arm].reads_student
    read_dir = run.student(read, seed) if read else None
    rationales = run.rationales_by(ARMS[arm].teacher)

    def build(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.distillation.stage import build_student

        build_student(
            stage,
            recipe.distillation,
            recipe.student,
            arm,
            seed,
            studies_dir=run.studies,
            labels_dir=run.labels,
            rationales_dir=rationales,
            teacher_dir=run.teacher,
            read_student_dir=read_dir,
            on_progress=on_progress,
        )

    settings = recipe.distillation.model_dump(mode="json", exclude={"arms", "seeds", "data_workers"})
    config = {"threads": recipe.threads, "student": recipe.student.model_dump(mode="json"), "distillation": settings}
    inputs = {"studies": run.studies, "labels": run.labels, "rationales": rationales, "teacher": run.teacher}
    if read_dir:
        inputs["read_student"] = read_dir
    return Stage(
        f"student/{arm}/seed-{seed}",
        run.student(arm, seed),
        {**config, "arm": arm, "seed": seed},
        inputs,
        build,
        seed=seed,
        resumable=True,
    )


def closing_stages(recipe: Recipe, run: RunFolder) -> list[Stage]:
    """Evaluation, audit and the report: made from the students' folders."""
    students = {(arm, seed): run.student(arm, seed) for arm, seed in student_keys(recipe)}
    named = {f"student/{arm}/seed-{seed}": path for (arm, seed), path in students.items()}

    def evaluate(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.evaluation.stage import build_evaluation
        from kdistill.labelers.labeler import open_labeler

        build_evaluation(
            stage,
            recipe.evaluation,
            students=students,
            studies_dir=run.studies,
            labels_dir=run.labels,
            labeler=open_labeler(recipe.labeler),
            on_progress=on_progress,
        )

    def audit(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.audit.stage import build_audit

        build_audit(
            stage,
            recipe.audit,
            students=students,
            studies_dir=run.studies,
            rationales_dir=run.rationales,
            literature_dir=run.literature,
            on_progress=on_progress,
        )

    def report(stage: StageWriter, on_progress: OnProgress) -> None:
        from kdistill.pipeline.report import write_report

        write_report(stage.dir / "report.html", run_dir=run.dir, recipe_name=recipe.name)

    scored = {**named, "studies": run.studies, "labels": run.labels}
    audited = {**named, "studies": run.studies, "rationales": run.rationales, "literature": run.literature}
    shown = {**scored, **audited, "evaluation": run.evaluation, "audit": run.audit, "teacher": run.teacher}
    about = {"name": recipe.name, "description": recipe.description}
    return [
        Stage("evaluation", run.evaluation, recipe.evaluation, scored, evaluate),
        Stage("audit", run.audit, _with_threads(recipe, audit=recipe.audit), audited, audit),
        Stage("report", run.report, about, shown, report),
    ]


def all_stages(recipe: Recipe, run: RunFolder) -> list[Stage]:
    """Every stage of the recipe, in an order in which they can be made."""
    students = [student_stage(recipe, run, arm, seed) for arm, seed in student_keys(recipe)]
    return [*base_stages(recipe, run), *students, *closing_stages(recipe, run)]


def needed_for(last: str, stages: Mapping[str, Stage]) -> list[Stage]:
    """A stage and all that it is made from, at any depth, in the order of `stages`."""
    by_path = {stage.path: stage for stage in stages.values()}
    names, waiting = set(), [stages[last]]
    while waiting:
        stage = waiting.pop()
        if stage.name not in names:
            names.add(stage.name)
            waiting += [by_path[path] for path in stage.inputs.values()]
    return [stage for name, stage in stages.items() if name in names]


def _with_threads(recipe: Recipe, **sections: ConfigModel) -> dict[str, Any]:
    """Sections whose result depends on the number of threads (sums in another order) carry it in their hash."""
    return {"threads": recipe.threads, **{name: section.model_dump(mode="json") for name, section in sections.items()}}


def _studies_files(studies: StudiesConfig) -> dict[str, str]:
    """The fingerprint of each source's files, by path."""
    match studies.kind:
        case "combined":
            return {name: found for source in studies.sources for name, found in _studies_files(source).items()}
        case "mimic_cxr" | "mimic_cxr_jpg":
            from kdistill.studies.sources.mimic_cxr import fingerprint_mimic

            return {studies.path: fingerprint_mimic(studies)}
        case _:
            return fingerprint(_paths(studies))


def _paths(section: Any) -> list[str]:
    """The paths of the files that a source section names."""
    match section.kind:
        case "phantom":
            return []
        case "files":
            return [str(path) for path in section.path]
        case _:
            return [section.path]


def _is_table(path: Path, root: Path) -> bool:
    """Tables; and lists and label files, which lie near the top (NIH's test_list.txt), unlike a report a file."""
    near = path == root or len(path.relative_to(root).parts) <= 2
    return path.suffix == ".csv" or (near and path.suffix in (".txt", ".json"))


def fingerprint(paths: list[str]) -> dict[str, str]:
    """What tells that data on disk changed: names and sizes of all files, and the content of tables.

    Hashing gigabytes of images at every start would cost minutes; an image replaced by one of equal size is found by
    `data check`, not here.
    """
    found: dict[str, str] = {}
    for name in paths:
        root, digest = Path(name), hashlib.sha256()
        for path in [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(root.parent).as_posix()}\0{path.stat().st_size}\0".encode())
            if _is_table(path, root):
                digest.update(path.read_bytes())
        found[name] = digest.hexdigest()
    return found
