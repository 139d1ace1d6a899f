"""`explain RUN IMAGE`: a run's student and library, put together from its published folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from kdistill.errors import ConfigError, InputError
from kdistill.explain.batch import Outcome, explain_files, find_images, make_folder
from kdistill.explain.build import ExplanationContext
from kdistill.explain.citations import load_citations
from kdistill.explain.config import DEFAULT_FORMATS, ExplainConfig, ExplainFormat
from kdistill.explain.explanation import Explanation, QualityPolicy
from kdistill.labelers.rules import RuleLabeler


@dataclass(frozen=True)
class Explained:
    """What `explain_images` has left in its folder.

    Attributes:
        json_files: One for each explained study.
        files: Those and the pages.
        rejected: Names of the images that could not be read; rejected.jsonl says why.
    """

    json_files: tuple[Path, ...]
    files: tuple[Path, ...]
    rejected: tuple[str, ...]

    @property
    def explanations(self) -> Iterator[Explanation]:
        """Read back one at a time: a folder may hold more than fits into memory."""
        for path in self.json_files:
            yield Explanation.model_validate_json(path.read_text(encoding="utf-8"))


def student_dir_of(run_dir: Path, arm: str, seed: int | None) -> Path:
    """The published student of an arm; of its first seed where none is named.

    Raises:
        InputError: There is none (what there is is listed).
    """
    found = sorted((run_dir / "student" / arm).glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    chosen = [path for path in found if seed is None or path.name == f"seed-{seed}"]
    if not found and not (run_dir / "student").is_dir():
        raise _no_run(run_dir)
    if not chosen:
        there = sorted(f"{path.parent.name} {path.name}" for path in run_dir.glob("student/*/seed-*"))
        wanted = arm if seed is None else f"{arm} seed-{seed}"
        raise InputError(
            f"has no student {wanted}",
            where=str(run_dir),
            remedy=f"There is: {', '.join(there) or 'none'} (--arm, --seed).",
        )
    return chosen[0]


def _no_run(run_dir: Path) -> InputError:
    """Why a folder has no student, and what to do."""
    give = "Give the folder of a run, like runs/demo, which `kdistill demo` makes."
    if not run_dir.exists():
        return InputError("there is no such folder", where=str(run_dir), remedy=give)
    if (run_dir / "recipe.yaml").is_file():
        remedy = "Let the run come to its end first: the command that began it, with --resume."
        return InputError("is a run that has no student yet", where=str(run_dir), remedy=remedy)
    return InputError("is no run: it has no folder student/", where=str(run_dir), remedy=give)


def load_context(
    run_dir: Path, model: str, thresholds: tuple[float, ...] | None, *, quality: QualityPolicy = "refuse"
) -> ExplanationContext:
    """The library of a run, for explanations by one of its students.

    Raises:
        InputError: Rationales or literature are missing or damaged.
    """
    config = ExplainConfig(quality=quality)
    citations = load_citations(run_dir / "rationales", run_dir / "literature", config)
    return ExplanationContext(model, thresholds, citations, RuleLabeler(), config)


def check_formats(formats: Sequence[str]) -> tuple[ExplainFormat, ...]:
    """Formats by name.

    Raises:
        ConfigError: One of them is not written here.
    """
    known = get_args(ExplainFormat)
    if unknown := [name for name in formats if name not in known]:
        raise ConfigError(f"cannot write {', '.join(unknown)}", where="--format", remedy=f"Known: {', '.join(known)}.")
    return tuple(cast(ExplainFormat, name) for name in formats)


def check_policy(name: str) -> QualityPolicy:
    """A quality policy by name.

    Raises:
        ConfigError: There is none of this name.
    """
    known = get_args(QualityPolicy)
    if name not in known:
        raise ConfigError(f"is no policy: {name!r}", where="--quality", remedy=f"Known: {', '.join(known)}.")
    return cast(QualityPolicy, name)


def explain_images(
    run_dir: Path,
    images: Sequence[Path],
    *,
    arm: str = "full",
    seed: int | None = None,
    out_dir: Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    quality: str = "refuse",
    on_progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """Explain image files with a run's student; see `batch.explain_files`.

    Args:
        run_dir: The run.
        images: Files, and folders of them.
        arm: Which student.
        seed: Which seed; None: the first.
        out_dir: Where to write. JSON is always written: it is what a rerun goes on from.
        formats: Of `config.ExplainFormat`; DICOM results need a DICOM image.
        quality: What follows when an image does not look like a frontal chest film: "refuse", "warn" or "off".
        on_progress: (done, total).

    Raises:
        InputError: No such student or image; or the only image cannot be read or exported.
        EnvironmentFault: What writes a format is not installed, or `out_dir` cannot be written.
        ConfigError: An unknown format or policy.
        WeightsError: The student's weights are unsafe or damaged.
    """
    from kdistill.explain.student_reader import load_reader

    wanted, policy = check_formats(formats), check_policy(quality)
    find_images(images)  # what is wrong with a path is told before the model is loaded
    make_folder(out_dir)
    reader = load_reader(student_dir_of(run_dir, arm, seed))
    context = load_context(run_dir, reader.name, reader.thresholds, quality=policy)
    json_files: list[Path] = []
    files: list[Path] = []
    rejected: list[str] = []

    def note(outcome: Outcome) -> None:
        if outcome.files:
            files.extend(outcome.files)
            json_files.append(outcome.files[0])
        else:
            rejected.append(outcome.study_id)

    for outcome in explain_files(images, reader, context, out_dir=out_dir, formats=wanted, on_progress=on_progress):
        note(outcome)
    return Explained(tuple(json_files), tuple(files), tuple(rejected))
