"""What the report reads: a run's published folders, each of them possibly absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdistill.artifact import Manifest, find_stages, read_manifest
from kdistill.audit.rows import AuditRow
from kdistill.errors import InputError
from kdistill.evaluation.comparisons import Comparison
from kdistill.evaluation.scores import Score
from kdistill.records import Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RunFiles:
    """A run as its report sees it. Empty lists stand for stages that have not been made."""

    run_dir: Path
    scores: list[Score]
    comparisons: list[Comparison]
    audit: list[AuditRow]
    manifests: Mapping[str, Manifest]

    @property
    def students(self) -> dict[tuple[str, int], Path]:
        """(arm, seed) -> folder, sorted."""
        found = {}
        for path in sorted((self.run_dir / "student").glob("*/seed-*")):
            if (path / "manifest.json").is_file():
                found[path.parent.name, int(path.name.removeprefix("seed-"))] = path
        return dict(sorted(found.items()))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the students."""
        return sorted({seed for _, seed in self.students})

    @property
    def arms(self) -> list[str]:
        """The arms that were trained."""
        return sorted({arm for arm, _ in self.students})

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage; None where it was not made."""
        return self.manifests.get(stage)


def load_run(run_dir: Path) -> RunFiles:
    """Read what a run has published.

    Raises:
        InputError: A published file is damaged.
    """
    manifests = {path.relative_to(run_dir).as_posix(): read_manifest(path) for path in find_stages(run_dir)}
    return RunFiles(
        run_dir,
        _records(run_dir / "evaluation" / "scores.json", Score),
        _records(run_dir / "evaluation" / "comparisons.json", Comparison),
        _records(run_dir / "audit" / "audit.json", AuditRow),
        manifests,
    )


def _records(path: Path, kind: type[R]) -> list[R]:
    if not path.is_file():
        return []
    try:
        return [kind.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))]
    except ValueError as error:
        raise InputError("is damaged", where=path.name, remedy="Run the recipe again with --resume.") from error


def read_history(student_dir: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl; empty for an arm that was not trained."""
    path = student_dir / "history.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
